// What each part of the rounding step is worth: each alone, and the whole without it, on one model and one plan. Prints the output SQNR
// on samples that took no part in the statistics.
//
//   node bench/ablation.mjs MODEL.onnx CALIB.npy [--recipe w4a8] [--target portable] [--calibrator auto] …

import { from } from "./common.mjs";
import { cpuSeconds, plannedModel, readFlags } from "./planned.mjs";

const { flags, positionals } = readFlags("MODEL.onnx CALIB.npy");
const [modelPath, calibPath] = positionals;
const { createRuntime } = await from("runtime/index.js");
const runtime = createRuntime({ workers: 1 });
await runtime.versions();
const { prepared, bundle, data, calibrate, select, target } = await plannedModel(runtime, modelPath, calibPath, flags);

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
  const t = cpuSeconds();
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
  const seconds = cpuSeconds() - t;
  row[name] = [Number((await judge.measure(withSolved(bundle, solved, name))).pooledDb.toFixed(2)), `${seconds.toFixed(1)} s`];
  console.error(name, row[name].join(" "));
}
console.log(JSON.stringify(row));
await judge.close();
await engine.release();
await runtime.close();
