// Fine-tuning measured on samples that training never saw.
//
//   node bench/qat.mjs MODEL.onnx CALIB.npy SCORE.npy LABELS.npy [--weights int4/channel | --recipe w4a4] [--calibrator mse] [--improve [--effort best]] [--extra 3000] [--steps 400] [--rate 0.002] …
//
// CALIB is trained on (a fifth of it judges), with `--extra` samples drawn from SCORE by the printed seed; the rest of SCORE is held out.
// Prints metric, SQNR at the output, agreement, flips, steps and seconds of the start and of what came back, and what a step costs beside a
// float forward pass of the same batch (CPU time, runs interleaved).

import { resolve } from "node:path";
import { parseArgs } from "node:util";

const dist = new URL("../dist/", import.meta.url);
const from = (path) => import(new URL(path, dist));
const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    weights: { type: "string", default: "int8/tensor" },
    recipe: { type: "string", default: "" },
    calibrator: { type: "string", default: "minmax" },
    improve: { type: "boolean", default: false },
    effort: { type: "string", default: "default" },
    extra: { type: "string", default: "0" },
    seed: { type: "string", default: "7" },
    steps: { type: "string", default: "400" },
    batch: { type: "string", default: "32" },
    rate: { type: "string", default: "0.002" },
    options: { type: "string", default: "{}" },
    most: { type: "string", default: "1000000" },
    cost: { type: "boolean", default: false },
  },
});
const [modelPath, calibPath, scorePath, labelPath] = positionals;
if (!labelPath) {
  console.error("usage: node bench/qat.mjs MODEL.onnx CALIB.npy SCORE.npy LABELS.npy [flags]");
  process.exit(2);
}
const [
  onnx,
  { createRuntime },
  { prepareModel },
  { proposeSites },
  { planOf },
  calibrate,
  { targetOf },
  { improvePlan },
  { lower },
  { openNpy },
  { fileSource },
  { Random },
  qat,
  { batchOf },
  driver,
  { recipeOf },
] = await Promise.all(
  [
    "graph/onnx/index.js",
    "runtime/index.js",
    "prepare/index.js",
    "ptq/propose.js",
    "ptq/ranges.js",
    "calibrate/index.js",
    "plan/targets/index.js",
    "ptq/improve.js",
    "export/lower/index.js",
    "io/npy.js",
    "io/source.js",
    "data/random.js",
    "qat/index.js",
    "qat/shapes.js",
    "qat/driver.js",
    "plan/recipes/index.js",
  ].map(from),
);

const runtime = createRuntime();
try {
  const source = onnx.loadModel(resolve(modelPath));
  const input = source.graph.inputs.find((v) => v.data === undefined).name;
  const [calib, score] = [calibPath, scorePath].map((p) => openNpy(fileSource(resolve(p))));
  const labels = openNpy(fileSource(resolve(labelPath))).all().data;
  const [seed, extra] = [Number(flags.seed), Number(flags.extra)];
  const order = new Random(seed).shuffle(Array.from({ length: score.shape[0] }, (_, i) => i));
  const n = calib.shape[0];
  const pool = new Random(seed + 1).shuffle([...Array.from({ length: n }, (_, i) => i), ...order.slice(0, extra).map((i) => i + n)]);
  const select = Math.max(1, Math.floor(pool.length / 5));
  const heldOut = order.slice(extra, extra + Number(flags.most)).map((i) => i + n);
  const data = {
    name: modelPath,
    size: n + score.shape[0],
    sha256: "",
    metric: undefined,
    classes: undefined,
    roles: { calibrate: pool.slice(select), select: pool.slice(0, select), heldOut },
    async sample(i) {
      const a = i < n ? calib.rows(i, 1) : score.rows(i - n, 1);
      return { id: String(i), feeds: { [input]: { dtype: "float32", dims: a.shape, data: a.data } } };
    },
  };
  console.log(`seed ${seed}: ${data.roles.calibrate.length} train, ${select} select, ${heldOut.length} held out`);
  const prepared = await prepareModel(source, runtime, { feeds: (await data.sample(0)).feeds });
  const target = targetOf("portable");
  const [dtype, per] = flags.weights.split("/");
  const plain = {
    name: flags.weights,
    activations: "static",
    activationBits: 8,
    floatType: "float32",
    data: true,
    summary: "",
    weight: { dtype, per, symmetric: true },
  };
  const recipe = flags.recipe ? recipeOf(flags.recipe) : plain;
  const proposal = proposeSites({ model: prepared.model, types: prepared.types, target, recipe });
  const indices = Array.from({ length: n }, (_, i) => i);
  const stats = await calibrate.collectStats({ model: prepared.model, values: proposal.values, data, indices, runtime });
  let bundle = planOf(proposal, stats, calibrate.CALIBRATORS[flags.calibrator]);
  if (flags.improve)
    bundle = await improvePlan({
      model: prepared.model,
      types: prepared.types,
      bundle,
      stats,
      data,
      runtime,
      target,
      effort: flags.effort,
    });

  const outputs = async (model) => {
    const session = await runtime.open(onnx.writeModel(model));
    const rows = [];
    for (let at = 0; at < heldOut.length; at += 50) {
      const samples = await Promise.all(heldOut.slice(at, at + 50).map((i) => data.sample(i)));
      const [y] = Object.values(await session.run(batchOf(samples)));
      const k = y.data.length / samples.length;
      for (let i = 0; i < samples.length; i++) rows.push(y.data.subarray(i * k, (i + 1) * k));
    }
    await session.release();
    return rows;
  };
  const best = (row) => row.indexOf(Math.max(...row));
  const float = await outputs(prepared.model);
  const compare = async (name, b) => {
    const rows = await outputs(lower(prepared.model, b, target));
    let [error, power, right, rightFloat, same, up, down] = [0, 0, 0, 0, 0, 0, 0];
    rows.forEach((q, i) => {
      const f = float[i];
      for (let k = 0; k < f.length; k++) {
        error += (q[k] - f[k]) ** 2;
        power += f[k] ** 2;
      }
      const label = Number(labels[heldOut[i] - n]);
      const [a, c] = [best(f) === label, best(q) === label];
      rightFloat += a;
      right += c;
      same += best(f) === best(q);
      up += !a && c;
      down += a && !c;
    });
    const percent = (x) => ((100 * x) / rows.length).toFixed(2);
    // 95 % interval of the paired difference in points.
    const width = (196 * Math.sqrt(Math.max(0, up + down - (up - down) ** 2 / rows.length))) / rows.length;
    console.log(
      `${name.padEnd(8)} top-1 ${percent(rightFloat)} → ${percent(right)} (n ${rows.length}, flips +${up} −${down}, ±${width.toFixed(2)})  agreement ${percent(same)} %  SQNR ${(10 * Math.log10(power / error)).toFixed(2)} dB`,
    );
  };
  await compare("start", bundle);
  const options = { steps: Number(flags.steps), batch: Number(flags.batch), rate: Number(flags.rate), ...JSON.parse(flags.options) };
  const given = { model: prepared.model, bundle, data, runtime, options };
  if (flags.cost) await cost(given, prepared.model, data, options.batch);
  let shown = "";
  const r = await qat.trainQat({
    ...given,
    progress: (p) => {
      const line = `select ${p.startDb.toFixed(2)} → ${p.selectDb.toFixed(2)} dB (best ${p.bestDb.toFixed(2)})`;
      if (line !== shown)
        console.error(`step ${p.step}/${p.steps}  loss ${p.loss.toPrecision(3)}  ${line}  ${p.etaSeconds.toFixed(0)} s left`);
      shown = line;
    },
  });
  await compare("trained", r.bundle);
  console.log(`best at step ${r.bestStep} of ${r.steps}, batch ${options.batch}, ${r.seconds.toFixed(1)} s, ${r.samples} samples`);
} finally {
  await runtime.close();
}

/** CPU milliseconds of a float forward pass and of a training step (teacher included) of one batch. */
async function cost(given, model, set, batch) {
  const { graph } = await qat.stepGraphOf(given);
  const samples = await Promise.all(
    Array.from({ length: batch }, (_, i) => set.sample(set.roles.calibrate[i % set.roles.calibrate.length])),
  );
  const feeds = batchOf(samples);
  const steps = 4;
  const stacked = { "train/steps": { dtype: "int64", dims: [], data: BigInt64Array.of(BigInt(steps)) } };
  for (const [name, t] of Object.entries(feeds)) {
    const data = new Float32Array(t.data.length * steps);
    for (let i = 0; i < steps; i++) data.set(t.data, i * t.data.length);
    stacked[name] = { dtype: t.dtype, dims: [steps, ...t.dims], data };
  }
  for (const name of graph.scheduled)
    stacked[`schedule/${name}`] = { dtype: "float32", dims: [steps], data: new Float32Array(steps).fill(1e-6) };
  for (const s of graph.states) stacked[`state/${s.name}`] = { dtype: "float32", dims: s.shape, data: s.init };
  const forward = await runtime.open(onnx.writeModel(model), { level: "basic" });
  const step = await driver.openSteps(runtime, graph, 1);
  const cpu = async (work, count) => {
    const before = process.cpuUsage();
    await work();
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000 / count;
  };
  const [f, s] = [[], []];
  for (let round = 0; round < 8; round++) {
    f.push(await cpu(() => forward.time(feeds, 8), 8));
    s.push(await cpu(() => step.time(stacked, 1), steps));
  }
  await forward.release();
  await step.release();
  // The middle of each: CPU time, which other work disturbs less than it does the clock.
  const middle = (x) => x.sort((p, q) => p - q)[x.length >> 1];
  const [a, b] = [middle(f), middle(s)];
  console.log(
    `forward ${a.toFixed(2)} ms, step ${b.toFixed(2)} ms with its teacher: ${((b - a) / a).toFixed(2)} forwards without (CPU, batch ${batch}, one thread)`,
  );
}
