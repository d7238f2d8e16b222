// Accuracy of a model after `improvePlan`: QC_MODEL.onnx and QC_CALIB.npy in, a quantized .onnx out, one line of JSON with the steps,
// CPU seconds and memory. Scoring is someone else's: it needs samples that this script never reads.
//
//   node bench/accuracy.mjs MODEL.onnx CALIB.npy OUT.onnx [--recipe w4a8] [--target portable] [--effort best] [--steps a,b] [--calibrator auto] …

import { resolve } from "node:path";
import { parseArgs } from "node:util";

const dist = new URL("../dist/", import.meta.url);
const from = (path) => import(new URL(path, dist));
const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    recipe: { type: "string", default: "int8" },
    per: { type: "string" },
    target: { type: "string", default: "portable" },
    effort: { type: "string", default: "default" },
    steps: { type: "string" },
    calibrator: { type: "string", default: "auto" },
    samples: { type: "string", default: "512" },
    memory: { type: "string" },
    seed: { type: "string", default: "0" },
  },
});
const [modelPath, calibPath, outPath] = positionals;
if (!outPath) {
  console.error("usage: node bench/accuracy.mjs MODEL.onnx CALIB.npy OUT.onnx [flags]");
  process.exit(2);
}
const [
  { loadModel, saveModel },
  { createRuntime },
  { openData },
  { prepareModel },
  { proposeSites },
  choose,
  { targetOf },
  { recipeOf },
  { improvePlan },
  { lower },
  { modelHashes },
] = await Promise.all(
  [
    "graph/onnx/index.js",
    "runtime/index.js",
    "data/index.js",
    "prepare/index.js",
    "ptq/propose.js",
    "choose.js",
    "plan/targets/index.js",
    "plan/recipes/index.js",
    "ptq/improve.js",
    "export/lower/index.js",
    "graph/onnx/hash.js",
  ].map(from),
);

const rss = () => process.memoryUsage.rss() / 2 ** 20;
const cpu = () => {
  const c = process.cpuUsage();
  return (c.user + c.system) / 1e6;
};
const runtime = createRuntime({ workers: 1 });
await runtime.versions();
const start = { cpu: cpu(), wall: performance.now(), rss: rss() };
let peak = start.rss;
const watch = setInterval(() => {
  peak = Math.max(peak, rss());
}, 20);

const source = loadModel(resolve(modelPath));
const probe = await runtime.open(resolve(modelPath));
const data = await openData(resolve(calibPath), probe.inputs, { report: () => {} });
await probe.release();
const all = Array.from({ length: data.size }, (_, i) => i).slice(0, Number(flags.samples));
// Every fourth calibration sample decides, the others feed the statistics.
const select = all.filter((i) => i % 4 === 3).slice(0, 128);
const chosen = new Set(select);
const calibrate = all.filter((i) => !chosen.has(i));
const feeds = (await data.sample(0)).feeds;
const prepared = await prepareModel(source, runtime, { feeds });
const target = targetOf(flags.target);
const base = recipeOf(flags.recipe);
const recipe = flags.per ? { ...base, weight: { ...base.weight, per: flags.per } } : base;
const report = () => {};
const job = { runtime, report, progress: () => () => {}, signal: undefined, stages: [], diagnostics: [] };
const proposal = proposeSites({
  model: prepared.model,
  types: prepared.types,
  target,
  recipe,
  source: modelHashes(source),
  prepare: prepared.version,
});
const session = {};
const calibrated =
  proposal.values.length === 0
    ? undefined
    : await choose.calibrateValues(job, {
        model: prepared.model,
        values: proposal.values,
        data: { ...data, roles: { ...data.roles, calibrate, select }, sample: (i) => data.sample(i) },
        indices: calibrate,
        prepare: prepared.version,
        source: modelHashes(source),
        calibrator: flags.calibrator,
        session,
      });
const bundle = await choose.chooseRanges(job, {
  proposal,
  prepared: prepared.model,
  calibrated,
  data,
  target,
  calibrator: flags.calibrator,
  session,
});
const calibrationCpu = cpu() - start.cpu;
const improved = await improvePlan({
  model: prepared.model,
  types: prepared.types,
  bundle,
  ...(calibrated && { stats: calibrated.stats }),
  data,
  calibrate,
  select,
  runtime,
  target,
  effort: flags.effort,
  seed: Number(flags.seed),
  ...(flags.steps !== undefined && { steps: flags.steps === "" ? [] : flags.steps.split(",") }),
  ...(flags.memory && { memoryBytes: Number(flags.memory) }),
  report,
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
  cpuSeconds: Number((cpu() - start.cpu).toFixed(1)),
  calibrationCpu: Number(calibrationCpu.toFixed(1)),
  wallSeconds: Number(((performance.now() - start.wall) / 1000).toFixed(1)),
  addedMb: Math.round(peak - start.rss),
};
console.log(JSON.stringify(line));
await runtime.close();
