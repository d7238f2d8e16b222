// What bench/accuracy.mjs and bench/ablation.mjs share: flags, and a model with the plan that calibration alone gives it.

import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { from } from "./common.mjs";

/** Flags of both; `usage` names the positional arguments. */
export function readFlags(usage, more = {}) {
  const { values, positionals } = parseArgs({
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
      ...more,
    },
  });
  if (positionals.length < usage.split(" ").length) {
    console.error(`usage: node ${process.argv[1]} ${usage} [flags]`);
    process.exit(2);
  }
  return { flags: values, positionals };
}

export const cpuSeconds = () => {
  const c = process.cpuUsage();
  return (c.user + c.system) / 1e6;
};

/** Reads MODEL.onnx, prepares and calibrates it. Every fourth calibration sample decides, the others feed the statistics. */
export async function plannedModel(runtime, modelPath, calibPath, flags) {
  const [{ loadModel }, { openData }, { prepareModel }, { proposeSites }, choose, { targetOf }, { recipeOf }, { modelHashes }] =
    await Promise.all(
      [
        "graph/onnx/index.js",
        "data/index.js",
        "prepare/index.js",
        "ptq/propose.js",
        "choose.js",
        "plan/targets/index.js",
        "plan/recipes/index.js",
        "graph/onnx/hash.js",
      ].map(from),
    );
  const source = loadModel(resolve(modelPath));
  const probe = await runtime.open(resolve(modelPath));
  const data = await openData(resolve(calibPath), probe.inputs, { report: () => {} });
  await probe.release();
  const all = Array.from({ length: data.size }, (_, i) => i).slice(0, Number(flags.samples));
  const select = all.filter((i) => i % 4 === 3).slice(0, 128);
  const chosen = new Set(select);
  const calibrate = all.filter((i) => !chosen.has(i));
  const prepared = await prepareModel(source, runtime, { feeds: (await data.sample(0)).feeds });
  const target = targetOf(flags.target);
  const base = recipeOf(flags.recipe);
  const recipe = flags.per ? { ...base, weight: { ...base.weight, per: flags.per } } : base;
  const job = { runtime, report: () => {}, progress: () => () => {}, signal: undefined, stages: [], diagnostics: [] };
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
  return { prepared, bundle, ...(calibrated && { stats: calibrated.stats }), data, calibrate, select, target };
}
