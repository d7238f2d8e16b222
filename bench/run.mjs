// npm run bench [-- MODEL.onnx SET]   (default: the shipped digits network)
//
// One table each: calibration against plain float inference of the same samples, peak memory at 32, 128 and 512 samples, seconds per
// stage, read and write throughput. Ratios are of interleaved runs, since other work on the machine falls on both.
import { copyFileSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { cli, from, measure, median, printTable, readJson, root, scratch } from "./common.mjs";

const [model = join(root, "calibration-sets/digits/model.onnx"), set = join(root, "calibration-sets/digits")] = process.argv.slice(2);
const folder = scratch();
const SAMPLES = 256;
const ROUNDS = 3;

await calibration();
await memory();
await stages();
await throughput();

/** The observers' cost over the runs that they observe, both in one worker. */
async function calibration() {
  const { createRuntime } = await from("runtime/index.js");
  const { readSource, inputsOf } = await from("source.js");
  const { prepareModel } = await from("prepare/index.js");
  const { proposeSites } = await from("ptq/propose.js");
  const { collectStats } = await from("calibrate/index.js");
  const { openData } = await from("data/index.js");
  const { targetOf } = await from("plan/targets/index.js");
  const { recipeOf } = await from("plan/recipes/index.js");
  const { writeModel } = await from("graph/onnx/index.js");
  const { calibratorNamed } = await from("choose.js");
  const { planOf, rangeBy } = await from("ptq/ranges.js");
  const runtime = createRuntime({ workers: 1 });
  const source = readSource(model);
  const data = await openData(set, inputsOf(source.model), { seed: 0 });
  const indices = data.roles.calibrate.slice(0, SAMPLES);
  const { feeds } = await data.sample(indices[0]);
  const prepared = await prepareModel(source.model, runtime, { feeds });
  const proposal = proposeSites({ model: prepared.model, types: prepared.types, target: targetOf("portable"), recipe: recipeOf("int8") });
  const session = await runtime.open(writeModel(prepared.model), {});
  const plain = async () => {
    const start = performance.now();
    for (const i of indices) await session.run((await data.sample(i)).feeds);
    return performance.now() - start;
  };
  const collect = (detail) => async () => {
    const start = performance.now();
    const stats = await collectStats({
      model: prepared.model,
      types: prepared.types,
      values: proposal.values,
      data,
      indices,
      runtime,
      detail,
      workers: 1,
    });
    return [performance.now() - start, stats];
  };
  const rows = new Map([
    ["range (minmax)", []],
    ["histogram", []],
  ]);
  let stats;
  for (let r = 0; r < ROUNDS; r++) {
    const base = await plain();
    const [range] = await collect("range")();
    const [histogram, s] = await collect("histogram")();
    stats = s;
    rows.get("range (minmax)").push(range / base);
    rows.get("histogram").push(histogram / base);
  }
  const search = ["percentile", "mse", "entropy"].map((name) => {
    const start = performance.now();
    planOf(proposal, stats, rangeBy(calibratorNamed(name)));
    return [`search ${name}`, `${((performance.now() - start) / Math.max(1, proposal.values.length)).toFixed(2)} ms a tensor`];
  });
  console.log(
    `\nCalibration of ${indices.length} samples, ${proposal.values.length} values, against plain float inference (medians of ${ROUNDS})`,
  );
  printTable(["what", "ratio"], [...[...rows].map(([name, x]) => [name, `${median(x).toFixed(2)} ×`]), ...search]);
  await runtime.close();
}

/** The whole command with more and more samples; a set that is too small shows its own size. */
async function memory() {
  const rows = [];
  for (const n of [32, 128, 512]) {
    const r = await measure(
      process.execPath,
      [
        cli,
        "quantize",
        model,
        "--data",
        set,
        "--effort",
        "fast",
        "--calibrator",
        "entropy",
        "--samples",
        n,
        "--verify-samples",
        8,
        "-o",
        join(folder, "m.onnx"),
        "--json",
        "-q",
      ].map(String),
    );
    if (r.code !== 0) throw new Error(r.stderr);
    rows.push([n, JSON.parse(r.stdout).report.data.calibrate, r.peakMb.toFixed(0), r.cpu.toFixed(2)]);
  }
  console.log("\nPeak memory and CPU of the whole command, entropy");
  printTable(["samples asked", "in the set", "peak MB", "CPU s"], rows);
}

async function stages() {
  const rows = [];
  for (const effort of ["fast", "default"]) {
    const out = join(folder, `${effort}.onnx`);
    const r = await measure(process.execPath, [cli, "quantize", model, "--data", set, "--effort", effort, "-o", out, "-q"]);
    if (r.code !== 0) throw new Error(r.stderr);
    const report = readJson(out.replace(/\.onnx$/, ".report.json"));
    for (const s of report.stages) rows.push([effort, s.stage, s.seconds.toFixed(3)]);
    rows.push([effort, "process", r.wall.toFixed(3)]);
  }
  console.log("\nSeconds per stage");
  printTable(["effort", "stage", "seconds"], rows);
}

async function throughput() {
  const { readModel, writeModel } = await from("graph/onnx/index.js");
  const { modelHashes } = await from("graph/onnx/hash.js");
  const path = join(folder, "copy.onnx");
  copyFileSync(model, path);
  const bytes = new Uint8Array(readFileSync(path));
  const mb = statSync(path).size / 1e6;
  const time = (f) => {
    const t = [];
    for (let i = 0; i < 20; i++) {
      const start = performance.now();
      f();
      t.push((performance.now() - start) / 1000);
    }
    return median(t);
  };
  const parsed = readModel(bytes);
  console.log("\nThroughput");
  printTable(
    ["what", "MB/s"],
    [
      ["read", (mb / time(() => readModel(bytes))).toFixed(0)],
      ["write", (mb / time(() => writeModel(parsed))).toFixed(0)],
      ["hash", (mb / time(() => modelHashes(parsed))).toFixed(0)],
    ],
  );
}
