// Accuracy of a model after `improvePlan`: QC_MODEL.onnx and QC_CALIB.npy in, a quantized .onnx out, one line of JSON with the steps,
// CPU seconds and memory. Scoring is someone else's: it needs samples that this script never reads.
//
//   node bench/accuracy.mjs MODEL.onnx CALIB.npy OUT.onnx [--recipe w4a8] [--target portable] [--effort best] [--steps a,b] [--calibrator auto] …

import { resolve } from "node:path";
import { from } from "./common.mjs";
import { cpuSeconds, plannedModel, readFlags } from "./planned.mjs";

const { flags, positionals } = readFlags("MODEL.onnx CALIB.npy OUT.onnx");
const [modelPath, calibPath, outPath] = positionals;
const [{ saveModel }, { createRuntime }, { improvePlan }, { lower }] = await Promise.all(
  ["graph/onnx/index.js", "runtime/index.js", "ptq/improve.js", "export/lower/index.js"].map(from),
);

const rss = () => process.memoryUsage.rss() / 2 ** 20;
const runtime = createRuntime({ workers: 1 });
await runtime.versions();
const start = { cpu: cpuSeconds(), wall: performance.now(), rss: rss() };
let peak = start.rss;
const watch = setInterval(() => {
  peak = Math.max(peak, rss());
}, 20);

const { prepared, bundle, stats, data, calibrate, select, target } = await plannedModel(runtime, modelPath, calibPath, flags);
const calibrationCpu = cpuSeconds() - start.cpu;
const improved = await improvePlan({
  model: prepared.model,
  types: prepared.types,
  bundle,
  ...(stats && { stats }),
  data,
  calibrate,
  select,
  runtime,
  target,
  effort: flags.effort,
  seed: Number(flags.seed),
  ...(flags.steps !== undefined && { steps: flags.steps === "" ? [] : flags.steps.split(",") }),
  ...(flags.memory && { memoryBytes: Number(flags.memory) }),
  report: () => {},
  trace: (step, a, b) =>
    console.error(
      step,
      `pooled ${a.pooledDb.toFixed(2)} -> ${b.pooledDb.toFixed(2)}  typical ${a.typicalDb.toFixed(2)} -> ${b.typicalDb.toFixed(2)}`,
    ),
});
saveModel(lower(prepared.model, improved, target), resolve(outPath));
clearInterval(watch);
const line = {
  model: modelPath.split("/").pop(),
  ...flags,
  calibratorChosen: improved.plan.calibrator,
  samples: calibrate.length,
  sites: improved.plan.sites.length,
  skips: improved.plan.skips.filter((s) => ["Conv", "Gemm", "MatMul"].includes(s.op)).map((s) => `${s.op} ${s.code}`),
  steps: improved.plan.steps.map((s) => `${s.step} ${s.before.toFixed(2)} -> ${s.after.toFixed(2)}${s.kept ? "" : " (not kept)"}`),
  cpuSeconds: Number((cpuSeconds() - start.cpu).toFixed(1)),
  calibrationCpu: Number(calibrationCpu.toFixed(1)),
  wallSeconds: Number(((performance.now() - start.wall) / 1000).toFixed(1)),
  addedMb: Math.round(peak - start.rss),
};
console.log(JSON.stringify(line));
await runtime.close();
