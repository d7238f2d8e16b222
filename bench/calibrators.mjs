/**
 * Output SQNR of each calibrator on one model, activations in uint8 (asymmetric) and int8 (symmetric), weights int8 per channel:
 *
 *   node bench/calibrators.mjs MODEL.onnx CALIB.npy SCORE.npy [--calibrate N] [--score N] [--dense] [--auto]
 *
 * The samples lie along axis 0 of the arrays. Placement: the inputs of Conv, ConvTranspose, Gemm and MatMul with constant weights; with
 * --dense every float activation of the graph. The model must be prepared already (BatchNorm folded, opset 13 or later).
 */
import { parseArgs } from "node:util";
import * as cal from "../dist/calibrate/index.js";
import { loadModel, writeModel } from "../dist/graph/onnx/index.js";
import { opFacts } from "../dist/graph/ops/index.js";
import { floats } from "../dist/graph/tensor.js";
import { pathOf, pathOfNode } from "../dist/graph/walk.js";
import { openNpy } from "../dist/io/npy.js";
import { fileSource } from "../dist/io/source.js";
import { chooseAsymmetric, chooseSymmetric, dequantize, quantize } from "../dist/quant/affine.js";
import { createRuntime } from "../dist/runtime/index.js";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    calibrate: { type: "string" },
    score: { type: "string" },
    dense: { type: "boolean" },
    auto: { type: "boolean" },
    only: { type: "string" },
  },
});
const [modelPath, calibPath, scorePath] = positionals;
const model = loadModel(modelPath);
const input = model.graph.inputs.find((v) => v.data === undefined);

function setOf(path, most) {
  const npy = openNpy(fileSource(path));
  const size = Math.min(npy.shape[0], Number(most ?? Infinity));
  return {
    name: path,
    size,
    sha256: path,
    metric: undefined,
    classes: undefined,
    roles: { calibrate: [], select: [], heldOut: [] },
    async sample(i) {
      const a = npy.rows(i, 1);
      return { id: String(i), feeds: { [input.name]: { dtype: "float32", dims: dimsOf(a.shape), data: Float32Array.from(a.data) } } };
    },
  };
}
/** A file of clips has an axis more than the model: each of its rows is a batch. */
const dimsOf = (shape) => (shape.length > (input.type?.shape?.length ?? shape.length) ? shape.slice(1) : shape);
const range = (n) => Array.from({ length: n }, (_, i) => i);

/** Sites, and weights rounded to int8 per channel where they stand. */
function prepare() {
  const sites = new Map();
  const product = new Set();
  for (const node of model.graph.allNodes()) {
    const f = opFacts(node);
    const w = f?.weights.find((x) => x.kind === "product");
    const x = node.inputs[f?.data[0]];
    if (f?.trait === "compute" && w !== undefined && x?.type?.elem !== "int64") {
      const value = pathOf(x);
      const site = sites.get(value) ?? { value, uses: [], producer: x.producer };
      site.uses.push({ node: pathOfNode(node), input: f.data[0] });
      sites.set(value, site);
      if (product.has(w.value)) continue;
      product.add(w.value);
      node.graph.setData(w.value, floats(roundWeight(w), w.value.data.shape));
    }
  }
  if (!flags.dense) return [...sites.values()];
  const all = new Map();
  const add = (v) => {
    if (v === undefined || v.isConstant || v.data !== undefined || (v.type?.elem ?? "float32") !== "float32") return;
    if (v.uses.length === 1 && ["Relu", "Clip"].includes(v.uses[0].node.op)) return;
    const data = v.uses.filter((u) => opFacts(u.node)?.data.includes(u.input));
    all.set(v, { value: pathOf(v), uses: data.map((u) => ({ node: pathOfNode(u.node), input: u.input })), producer: v.producer });
  };
  for (const node of model.graph.nodes) {
    const f = opFacts(node);
    if (f === undefined || f.trait === "integer" || f.trait === "source") continue;
    for (const i of f.data) add(node.inputs[i]);
    for (const o of f.outputs) if (node.outputs[o].uses.length > 0) add(node.outputs[o]);
  }
  return [...all.values()];
}

function roundWeight(w) {
  const shape = w.value.data.shape;
  const x = w.value.data.float32?.() ?? new Float32Array(w.value.data.bytes().slice().buffer);
  const inner = shape.slice(w.channel + 1).reduce((a, b) => a * b, 1);
  const n = shape[w.channel];
  const top = new Float64Array(n);
  const out = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const c = Math.floor(i / inner) % n;
    top[c] = Math.max(top[c], Math.abs(x[i]));
  }
  const q = [...top].map((t) => chooseSymmetric(t, "int8"));
  for (let i = 0; i < x.length; i++) {
    const c = q[Math.floor(i / inner) % n];
    out[i] = dequantize(quantize(x[i], c), c);
  }
  return out;
}

const runtime = createRuntime({ workers: 1 });
const reference = await runtime.open(writeModel(model));
const sites = prepare().map(({ producer, ...s }) => ({ ...s, producer }));
const data = setOf(calibPath, flags.calibrate);
const score = setOf(scorePath, flags.score);
const common = { model: loadModel(modelPath), values: sites.map((s) => s.value), runtime, data };
const outputs = new Set(model.graph.outputs.map((v) => v.name));

function parameters(stats, calibrator, symmetric) {
  return sites.map((site) => {
    const fixed = ["Softmax", "Sigmoid"].includes(site.producer?.op) ? { min: 0, max: 1 } : undefined;
    const r = cal.chooseRange(stats.values.get(site.value), calibrator, { levels: 256, symmetric, fixed, output: outputs.has(site.value) });
    return symmetric ? chooseSymmetric(r.max, "int8") : chooseAsymmetric(r.min, r.max, "uint8");
  });
}
async function* feeds(set, indices) {
  for (const i of indices) yield (await set.sample(i)).feeds;
}
const db = (ratio) => (-10 * Math.log10(ratio)).toFixed(1);
const candidates = cal.autoCandidates().filter((c) => flags.only === undefined || flags.only.split(",").includes(c.spec));
const stats = await cal.collectStats({ ...common, indices: range(data.size) });
console.log(`${modelPath}: ${sites.length} sites, ${data.size} calibration samples, ${score.size} scored`);
for (const symmetric of [false, true]) {
  const dtype = symmetric ? "int8" : "uint8";
  const kinds = sites.map((s) => ({ value: s.value, uses: s.uses, dtype }));
  const quantized = await runtime.open(writeModel(cal.parametricQdq(model, kinds)));
  const evaluate = (set, indices, from) =>
    cal.outputErrors(
      reference,
      quantized,
      feeds(set, indices),
      candidates.map((c) => cal.siteFeeds(kinds, parameters(from, c.calibrator, symmetric))),
    );
  const got = await evaluate(score, range(score.size), stats);
  console.log(`${symmetric ? "s8" : "u8"}  ${candidates.map((c, i) => `${c.spec} ${db(got[i])}`).join("   ")}`);
  if (flags.auto) {
    const { folds, confirm } = cal.splitForAuto(range(data.size));
    const judge = (set, from, among) =>
      cal.outputErrors(
        reference,
        quantized,
        feeds(data, set),
        among.map((c) => cal.siteFeeds(kinds, parameters(from, c.calibrator, symmetric))),
      );
    const choice = await cal.chooseAuto({
      candidates,
      samples: folds.reduce((sum, f) => sum + f.select.length, 0),
      async evaluate(among) {
        const all = [];
        for (const f of folds) all.push(await judge(f.select, await cal.collectStats({ ...common, indices: f.ranges }), among));
        return among.map((_, i) => all.reduce((sum, e) => sum + e[i] / all.length, 0));
      },
      confirm: (among) => judge(confirm, stats, among),
    });
    const spec = choice.chosen.spec;
    const at = candidates.findIndex((c) => c.spec === spec);
    const regret = 10 * Math.log10(got[at] / Math.min(...got));
    console.log(`    auto: ${spec}, ${regret.toFixed(2)} dB below the best (${choice.because})`);
  }
  await quantized.release();
}
await runtime.close();
