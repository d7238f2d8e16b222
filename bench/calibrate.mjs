/**
 * What calibration costs beside plain float inference of the same samples, and its peak memory:
 *
 *   node bench/calibrate.mjs MODEL.onnx SAMPLES.npy [--samples N] [--rounds N] [--workers N] [--memory]
 *
 * Placement: the values that `portable` asks for. CPU seconds of the whole process (threads included), rounds interleaved, medians. Plain
 * inference: the prepared model, one thread, reference level, outputs dropped. --memory: peak RSS at 32, 128 and 512 samples, each in a
 * fresh process (a smaller set is repeated).
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { CALIBRATORS, chooseRange, collectStats } from "../dist/calibrate/index.js";
import { loadModel, writeModel } from "../dist/graph/onnx/index.js";
import { openNpy } from "../dist/io/npy.js";
import { fileSource } from "../dist/io/source.js";
import { recipeOf } from "../dist/plan/recipes/index.js";
import { targetOf } from "../dist/plan/targets/index.js";
import { prepareModel } from "../dist/prepare/index.js";
import { proposeSites } from "../dist/ptq/propose.js";
import { createRuntime } from "../dist/runtime/index.js";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    samples: { type: "string", default: "64" },
    rounds: { type: "string", default: "5" },
    workers: { type: "string", default: "1" },
    memory: { type: "boolean" },
    child: { type: "boolean" },
  },
});
const [modelPath, samplesPath] = positionals;
const SIZES = [32, 128, 512];
if (flags.memory && !flags.child) {
  for (const n of SIZES) {
    const args = [
      fileURLToPath(import.meta.url),
      modelPath,
      samplesPath,
      "--samples",
      String(n),
      "--memory",
      "--child",
      "--workers",
      flags.workers,
    ];
    process.stdout.write(spawnSync(process.execPath, args, { encoding: "utf8" }).stdout);
  }
  process.exit();
}

const workers = Number(flags.workers);
const runtime = createRuntime({ workers });
const source = loadModel(modelPath);
const input = source.graph.inputs.find((v) => v.data === undefined);
const npy = openNpy(fileSource(samplesPath));
const rank = input.type?.shape?.length;
const feedsOf = (i) => {
  const a = npy.rows(i % npy.shape[0], 1);
  const dims = rank !== undefined && a.shape.length > rank ? a.shape.slice(1) : a.shape;
  return { [input.name]: { dtype: "float32", dims, data: Float32Array.from(a.data) } };
};
const n = Number(flags.samples);
const indices = Array.from({ length: n }, (_, i) => i);
const prepared = await prepareModel(source, runtime, { feeds: feedsOf(0) });
const { values } = proposeSites({
  model: prepared.model,
  types: prepared.types,
  target: targetOf("portable"),
  recipe: recipeOf("int8"),
  source: { structure: "", weights: "" },
  prepare: prepared.version,
});
const data = {
  name: samplesPath,
  size: n,
  sha256: samplesPath,
  metric: undefined,
  classes: undefined,
  roles: { calibrate: indices, select: [], heldOut: [] },
  sample: async (i) => ({ id: String(i), feeds: feedsOf(i) }),
};
const collect = (detail) => collectStats({ model: prepared.model, types: prepared.types, values, data, indices, runtime, detail, workers });
const bytes = writeModel(prepared.model);

async function plain() {
  const sessions = await Promise.all(Array.from({ length: workers }, () => runtime.open(bytes)));
  await Promise.all(
    sessions.map(async (s, w) => {
      for (let i = w; i < n; i += workers) await s.time(feedsOf(i));
    }),
  );
  await Promise.all(sessions.map((s) => s.release()));
}
async function choose(names) {
  const stats = await collect("histogram");
  const times = [];
  for (const [name, calibrator] of Object.entries(CALIBRATORS)) {
    if (!names.includes(name)) continue;
    for (const symmetric of [false, true]) {
      for (const v of stats.values.values()) {
        const start = performance.now();
        chooseRange(v, calibrator, { levels: 256, symmetric });
        times.push(performance.now() - start);
      }
    }
  }
  return times;
}

if (flags.child) {
  await choose(["entropy"]);
  console.log(`${n} samples: peak ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MB`);
} else {
  const cases = { plain, minmax: () => collect("range"), histogram: () => collect("histogram") };
  const cpu = Object.fromEntries(Object.keys(cases).map((k) => [k, []]));
  const wall = Object.fromEntries(Object.keys(cases).map((k) => [k, []]));
  for (let round = -1; round < Number(flags.rounds); round++) {
    for (const [name, run] of Object.entries(cases)) {
      const c = process.cpuUsage();
      const t = performance.now();
      await run();
      const d = process.cpuUsage(c);
      if (round < 0) continue;
      cpu[name].push((d.user + d.system) / 1e6);
      wall[name].push((performance.now() - t) / 1e3);
    }
  }
  const median = (x) => x.sort((a, b) => a - b)[x.length >> 1];
  console.log(`${modelPath}: ${values.length} values, ${n} samples, ${workers} worker(s)`);
  const base = { cpu: median(cpu.plain), wall: median(wall.plain) };
  for (const name of Object.keys(cases)) {
    const [c, w] = [median(cpu[name]), median(wall[name])];
    console.log(
      `  ${name.padEnd(10)} CPU ${c.toFixed(2)} s (${(c / base.cpu).toFixed(2)}x)   wall ${w.toFixed(2)} s (${(w / base.wall).toFixed(2)}x)`,
    );
  }
  const times = (await choose(["entropy"])).sort((a, b) => a - b);
  console.log(`  entropy search a tensor: median ${median(times).toFixed(1)} ms, most ${times.at(-1).toFixed(1)} ms`);
}
await runtime.close();
