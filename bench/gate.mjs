// How often the gate is right: 60 candidates with known damage and 60 harmless ones, and one file against itself.
//   node bench/gate.mjs [--model FILE --data SET] [--latency 400] [--draws 1]
// Accuracy verdicts come from draws of 200 and 1000 of the held-out samples; the truth is the change on all of them. With one draw each the
// verdicts are independent, and the intervals mean what they say.
import { openData } from "../dist/data/index.js";
import { Random } from "../dist/data/random.js";
import { cloneModel } from "../dist/graph/clone.js";
import { loadModel, writeModel } from "../dist/graph/onnx/index.js";
import { floats } from "../dist/graph/tensor.js";
import { createRuntime } from "../dist/runtime/index.js";
import { inputsOf } from "../dist/source.js";
import { DEFAULT_GATE, judgeGate } from "../dist/verify/gate/index.js";
import { timeInTurn, timeModels } from "../dist/verify/gate/timing.js";
import { wilson } from "../dist/verify/statistics.js";

const argument = (name, otherwise) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : otherwise);
const own = new URL("../calibration-sets/digits", import.meta.url).pathname;
const set = argument("--data", own);
const file = argument("--model", `${own}/model.onnx`);
const DRAWS = Number(argument("--draws", 1));
const model = loadModel(file);
const runtime = createRuntime({ workers: 2 });
const data = await openData(set, inputsOf(model), { seed: 0 });
/** More would only take longer: the largest draw is 1000. */
const held = data.roles.heldOut.slice(0, 2000);
const kept = new Map();
for (const i of held) kept.set(i, await data.sample(i));
const r = new Random(2024);

// Samples side by side in chunks, a chunk a worker: the gate sees only which are right.
const CHUNK = 250;
const input = Object.keys(kept.get(held[0]).feeds)[0];
const chunks = Array.from({ length: Math.ceil(held.length / CHUNK) }, (_, c) => {
  const part = held.slice(c * CHUNK, (c + 1) * CHUNK).map((i) => kept.get(i).feeds[input]);
  const each = part[0].data.length;
  const x = new Float32Array(part.length * each);
  part.forEach((t, k) => void x.set(t.data, k * each));
  return { dtype: "float32", dims: [part.length, ...part[0].dims.slice(1)], data: x };
});
const right = async (bytes) => {
  const pool = await runtime.openPool(bytes, { level: "all" });
  const outs = await Promise.all(chunks.map((t, c) => pool[c % pool.length].run({ [input]: t })));
  await Promise.all(pool.map((s) => s.release()));
  return outs.flatMap((out, c) => {
    const { data: y, dims } = Object.values(out)[0];
    const width = dims.at(-1);
    return Array.from({ length: dims[0] }, (_, k) => {
      let best = 0;
      for (let j = 1; j < width; j++) if (y[k * width + j] > y[k * width + best]) best = j;
      return best === kept.get(held[c * CHUNK + k]).label ? 1 : 0;
    });
  });
};
const weightsOf = (m) => m.graph.initializers.filter((v) => v.data && v.data.shape.length >= 2);
/** A copy with every weight changed by `change(value, index, elements of an output channel, root mean square)`. */
function changed(change) {
  const m = cloneModel(model);
  for (const v of weightsOf(m)) {
    const w = new Float32Array(v.data.bytes().slice().buffer);
    const spread = Math.sqrt(w.reduce((s, x) => s + x * x, 0) / w.length);
    const next = m.graph.constant(
      floats(
        w.map((x, i) => change(x, i, w.length / v.data.shape[0], spread)),
        v.data.shape,
      ),
      `${v.name}_c`,
    );
    for (const use of [...v.uses]) m.graph.replaceUse(use.node, use.input, next);
  }
  return writeModel(m);
}
/** Each kind of damage with a strength; seeds make the candidates differ. */
const KINDS = {
  noise: (s, seed) => {
    const q = new Random(seed);
    const g = () => Math.sqrt(-2 * Math.log(1 - q.float())) * Math.cos(6.283185307179586 * q.float());
    return changed((x, _i, _row, spread) => x + s * spread * g());
  },
  rounding: (s, seed) =>
    changed((x, _i, _row, spread) => {
      const d = 2 * s * spread;
      return Math.round(x / d + (seed % 97) / 97) * d - ((seed % 97) / 97) * d;
    }),
  scale: (s, seed) => changed((x, i, row) => (Math.floor(i / row) % 7 === seed % 7 ? x * (1 + 3 * s) : x)),
};
const reference = await right(writeModel(model));
const base = reference.reduce((a, b) => a + b, 0) / reference.length;
const dropOf = (v) => (base - v.reduce((a, b) => a + b, 0) / v.length) / base;

/** The strength at which the true drop lies in [low, high]. */
async function damaged(kind, seed, low, high) {
  let [a, b] = [0, 2];
  for (let step = 0; step < 14; step++) {
    const s = (a + b) / 2;
    const v = await right(KINDS[kind](s, seed));
    const d = dropOf(v);
    if (d >= low && d <= high) return v;
    if (d < low) a = s;
    else b = s;
  }
  return undefined;
}
const classes = held.map((i) => data.classes[i]);

const bad = [];
const good = [];
for (let k = 0; bad.length < 36 && k < 80; k++) {
  // From twice the limit to five times it, half of them below three times.
  const low = 0.06 + 0.1 * r.float() ** 2;
  const v = await damaged(Object.keys(KINDS)[k % 3], k + 1, low, low + 0.01);
  if (v) bad.push({ kind: Object.keys(KINDS)[k % 3], right: v, drop: dropOf(v) });
}
const names = [...new Set(classes)].sort((a, b) => a - b);
for (const c of names.slice(0, 8)) {
  const v = reference.map((x, i) => (classes[i] === c ? 0 : x));
  bad.push({ kind: "class", right: v, drop: dropOf(v) });
}
for (let k = 0; k < 400 && good.length < 44; k++) {
  const v = await right(KINDS[["noise", "rounding"][k % 2]](0.005 + 0.03 * r.float(), 1000 + k));
  if (Math.abs(dropOf(v)) <= 0.005) good.push({ kind: "harmless", right: v, drop: dropOf(v) });
}
const sizes = { bad: 60 - 8 - bad.length, good: 8 };

function judge(right, indices, o = {}) {
  const run = (v) => ({ value: (100 * v.reduce((a, b) => a + b, 0)) / v.length, n: v.length, perSample: v });
  const score = (v) => {
    const by = {};
    for (const i of indices) (by[classes[i]] ??= []).push(v[i]);
    return {
      n: indices.length,
      metric: run(indices.map((i) => v[i])),
      classes: Object.fromEntries(Object.entries(by).map(([c, x]) => [c, run(x)])),
      groups: {},
      tops: [],
    };
  };
  return judgeGate({
    gate: DEFAULT_GATE,
    reference: { sizeBytes: 100_000, score: score(reference) },
    candidate: { sizeBytes: o.bytes ?? 100_000, score: score(right) },
    metric: data.metric,
    ids: [],
    outputs: [],
    paired: true,
  });
}
const draw = (n) => r.shuffle(held.map((_, i) => i)).slice(0, n);
const percent = (k, n) => {
  const [lo, hi] = wilson(k, n);
  return `${((100 * k) / n).toFixed(1)} % of ${n} (95 % ${(100 * lo).toFixed(1)} to ${(100 * hi).toFixed(1)})`;
};
// Times: one file against itself, and with its fused kernels switched off: 8 of the 60 each, at either sample size.
const feeds = held.slice(0, 8).map((i) => kept.get(i).feeds);
const bytes = writeModel(model);
const side = (latency) => ({ sizeBytes: 1, latency });
const gate = { ...DEFAULT_GATE, accuracy: undefined, throughput: undefined, size: undefined };
const judged = (t) =>
  judgeGate({ gate, reference: side(t[0].rounds), candidate: side(t[1].rounds), ids: [], outputs: [], paired: true }).findings.find(
    (f) => f.check === "latency",
  );
const models = (a, b) => [a, b].map((level) => ({ label: level, model: bytes, options: { level } }));
/** As qc check does it: both models in one thread. */
const oneThread = async (a, b) => judged(await timeModels(models(a, b), feeds, 60));
/** For comparison: a thread each, on cores that may differ. */
const twoThreads = async (a, b) => {
  const sessions = await Promise.all(models(a, b).map(async (m) => ({ label: m.label, session: await runtime.open(bytes, m.options) })));
  const t = await timeInTurn(sessions, feeds, 60);
  await Promise.all(sessions.map((s) => s.session.release()));
  return judged(t);
};
const TIMED = 8;
const slow = [];
const equal = [];
for (let t = 0; t < TIMED; t++) {
  slow.push((await oneThread("all", "disabled")).outcome);
  equal.push((await oneThread("all", "all")).outcome);
}
console.log(
  `reference ${(100 * base).toFixed(2)} %; ${bad.length} damaged in accuracy (true drop ${(100 * Math.min(...bad.map((b) => b.drop))).toFixed(1)} to ${(100 * Math.max(...bad.map((b) => b.drop))).toFixed(1)} %), ${sizes.bad} bloated, ${TIMED} slow; ${good.length + sizes.good + TIMED} harmless`,
);
for (const n of [200, 1000]) {
  let [found, open, silent, of] = [0, 0, 0, 0];
  const missed = {};
  for (const b of bad)
    for (let d = 0; d < DRAWS; d++) {
      const j = judge(b.right, draw(n));
      of++;
      if (j.failed.length > 0) found++;
      else if (j.findings[0].outcome === "undecided") open++;
      else silent++;
      if (j.failed.length === 0) missed[b.kind] = (missed[b.kind] ?? 0) + 1;
    }
  for (let k = 0; k < sizes.bad; k++)
    for (let d = 0; d < DRAWS; d++) {
      of++;
      if (judge(reference, draw(n), { bytes: 120_000 + 10_000 * k }).failed.length > 0) found++;
      else silent++;
    }
  for (const o of slow) {
    of++;
    if (o === "fail") found++;
    else if (o === "undecided") open++;
    else silent++;
    if (o !== "fail") missed.slow = (missed.slow ?? 0) + 1;
  }
  let [alarms, loose, all] = [equal.filter((o) => o === "fail").length, equal.filter((o) => o === "undecided").length, TIMED];
  for (const g of good)
    for (let d = 0; d < DRAWS; d++) {
      const j = judge(g.right, draw(n));
      all++;
      if (j.failed.length > 0) alarms++;
      else if (j.findings[0].outcome === "undecided") loose++;
    }
  for (let k = 0; k < sizes.good; k++)
    for (let d = 0; d < DRAWS; d++) {
      all++;
      if (judge(reference, draw(n), { bytes: 95_000 + 1_000 * k }).failed.length > 0) alarms++;
    }
  console.log(
    `${n} samples: detected ${percent(found, of)}, undecided ${open}, passed unseen ${percent(silent, of)}; false alarms ${percent(alarms, all)}, undecided ${loose}; not detected by kind ${JSON.stringify(missed)}`,
  );
}

const times = Number(argument("--latency", 400));
const ways = { "one thread": oneThread, "two threads": twoThreads };
const counts = Object.fromEntries(Object.keys(ways).map((k) => [k, { pass: 0, fail: 0, undecided: 0, above: 0, most: 0 }]));
// Both ways in turn: what the machine does meanwhile falls on both.
for (let k = 0; k < times; k++)
  for (const [name, way] of Object.entries(ways)) {
    const f = await way("all", "all");
    const c = counts[name];
    c[f.outcome]++;
    if (f.low > 0) c.above++;
    c.most = Math.max(c.most, Math.abs(f.change));
  }
for (const [name, c] of Object.entries(times > 0 ? counts : {}))
  console.log(
    `one file against itself, ${name}: false alarms ${percent(c.fail, times)}, undecided ${c.undecided}, lower bound above 1 ${percent(c.above, times)}, largest change ${(100 * c.most).toFixed(1)} %`,
  );
await runtime.close();
