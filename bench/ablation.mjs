// What each part of the rounding step is worth: each alone, and the whole without it, on one model and one plan. Prints the output SQNR
// on samples that took no part in the statistics.
//
//   node bench/ablation.mjs MODEL.onnx CALIB.npy [--recipe w4a8] [--target portable] [--calibrator auto] …

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
const [modelPath, calibPath] = positionals;
if (!calibPath) {
  console.error("usage: node bench/ablation.mjs MODEL.onnx CALIB.npy [flags]");
  process.exit(2);
}
const [
  { loadModel },
  { createRuntime },
  { openData },
  { prepareModel },
  { proposeSites },
  choose,
  { targetOf },
  { recipeOf },
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
    "graph/onnx/hash.js",
  ].map(from),
);

const cpu = () => {
  const c = process.cpuUsage();
  return (c.user + c.system) / 1e6;
};
const runtime = createRuntime({ workers: 1 });
await runtime.versions();

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

const [{ Judge }, { layersOf }, { Streams }, { solveSequentially, solveLayer, LAMBDA }, { withSolved }, solver, { AdaRound }] =
  await Promise.all(
    [
      "ptq/judge.js",
      "ptq/layers.js",
      "ptq/streams.js",
      "ptq/sequential.js",
      "ptq/amend.js",
      "ptq/solve/rows.js",
      "ptq/solve/adaround.js",
    ].map(from),
  );
const judge = new Judge({ model: prepared.model, target, runtime, data, indices: select });
const engine = new AdaRound(runtime);
const full = { lambda: LAMBDA, asymmetric: true, correctBias: true, effort: solver.SOLVE_DEFAULT };
const shallow = { ...solver.SOLVE_DEFAULT, deep: 0, beam: 0 };
const variants = {
  "bias alone": { ...full, asymmetric: false, keepCodes: true },
  "rounding alone": { ...full, asymmetric: false, correctBias: false },
  all: full,
  "without target W*": { ...full, asymmetric: false },
  "without bias": { ...full, correctBias: false },
  "without beam and pairs": { ...full, effort: shallow },
  "without scale search": { ...full, effort: { ...solver.SOLVE_DEFAULT, coarse: 1, fine: 0, keep: 1 } },
  harder: { ...full, effort: solver.SOLVE_BEST, light: false },
  "harder, learned": { ...full, effort: solver.SOLVE_BEST, light: false, learned: { engine, steps: 1500 } },
};
const wanted = flags.steps === undefined ? Object.keys(variants) : flags.steps.split(",");
const row = {
  model: modelPath.split("/").pop(),
  recipe: flags.recipe,
  target: flags.target,
  calibrator: bundle.plan.calibrator,
  statistics: calibrate.length,
  judged: select.length,
};
row["round-to-nearest"] = Number((await judge.measure(bundle)).pooledDb.toFixed(2));
for (const name of wanted) {
  const t = cpu();
  const solved = await solveSequentially({
    streams: new Streams(prepared.model, bundle, prepared.types),
    runtime,
    layers: layersOf(prepared.model, bundle),
    indices: calibrate,
    load: async (i) => (await data.sample(i)).feeds,
    memoryBytes: 64 * 2 ** 20,
    seed: Number(flags.seed),
    solve: (l, g, h) => solveLayer(l, g, h, variants[name]),
  });
  const seconds = cpu() - t;
  row[name] = [Number((await judge.measure(withSolved(bundle, solved, name))).pooledDb.toFixed(2)), `${seconds.toFixed(1)} s`];
  console.error(name, row[name].join(" "));
}
console.log(JSON.stringify(row));
await judge.close();
await engine.release();
await runtime.close();
