// How often the gate is right: candidates with known damage and harmless ones, and one file against itself.
//   node bench/gate.mjs [--latency 400]
// Accuracy verdicts come from draws of 200 and 1000 of the 1500 held-out digits; the truth is the change on all of them.
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

const set = new URL("../calibration-sets/digits", import.meta.url).pathname;
const model = loadModel(`${set}/model.onnx`);
const runtime = createRuntime({ workers: 2 });
const data = await openData(set, inputsOf(model), { seed: 0 });
const held = [...data.roles.heldOut];
const kept = new Map();
for (const i of held) kept.set(i, await data.sample(i));
const r = new Random(2024);

// One run over all held-out digits side by side: the gate sees only which are right.
const pixels = new Float32Array(held.length * 784);
for (const [k, i] of held.entries()) pixels.set(kept.get(i).feeds.input.data, k * 784);
const right = async (bytes) => {
  const session = await runtime.open(bytes, { level: "all" });
  const { logits } = await session.run({ input: { dtype: "float32", dims: [held.length, 1, 28, 28], data: pixels } });
  await session.release();
  return held.map((i, k) => {
    let best = 0;
    for (let c = 1; c < 10; c++) if (logits.data[k * 10 + c] > logits.data[k * 10 + best]) best = c;
    return best === kept.get(i).label ? 1 : 0;
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
for (let k = 0; bad.length < 36 && k < 60; k++) {
  // From twice the limit to five times it, half of them below three times.
  const low = 0.06 + 0.1 * r.float() ** 2;
  const v = await damaged(Object.keys(KINDS)[k % 3], k + 1, low, low + 0.01);
  if (v) bad.push({ kind: Object.keys(KINDS)[k % 3], right: v, drop: dropOf(v) });
}
for (let c = 0; c < 8; c++) {
  const v = reference.map((x, i) => (classes[i] === c ? 0 : x));
  bad.push({ kind: "class", right: v, drop: dropOf(v) });
}
for (let k = 0; k < 400 && good.length < 48; k++) {
  const v = await right(KINDS[["noise", "rounding"][k % 2]](0.005 + 0.03 * r.float(), 1000 + k));
  if (Math.abs(dropOf(v)) <= 0.005) good.push({ kind: "harmless", right: v, drop: dropOf(v) });
}
const sizes = { bad: 8, good: 12 };

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
console.log(
  `reference ${(100 * base).toFixed(2)} %; ${bad.length} damaged in accuracy (true drop ${(100 * Math.min(...bad.map((b) => b.drop))).toFixed(1)} to ${(100 * Math.max(...bad.map((b) => b.drop))).toFixed(1)} %), ${sizes.bad} bloated; ${good.length + sizes.good} harmless`,
);
const DRAWS = 10;
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
  let [alarms, loose, all] = [0, 0, 0];
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

// Times: one file against itself, and with its fused kernels switched off.
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
const times = Number(process.argv[process.argv.indexOf("--latency") + 1]) || 400;
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
for (const [name, c] of Object.entries(counts))
  console.log(
    `one file against itself, ${name}: false alarms ${percent(c.fail, times)}, undecided ${c.undecided}, lower bound above 1 ${percent(c.above, times)}, largest change ${(100 * c.most).toFixed(1)} %`,
  );
const found = { pass: 0, fail: 0, undecided: 0 };
const slow = 12;
for (let k = 0; k < slow; k++) found[(await oneThread("all", "disabled")).outcome]++;
console.log(`slow kernels (fusions switched off), ${slow} times: detected ${percent(found.fail, slow)}, undecided ${found.undecided}`);
await runtime.close();
