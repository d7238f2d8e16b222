import type { DataSet } from "../../data/types.ts";
import type { Model, Node } from "../../graph/ir.ts";
import { floats, type TensorData } from "../../graph/tensor.ts";
import { staticShape, type ValueType } from "../../graph/types.ts";
import { recipeOf } from "../../plan/recipes/index.ts";
import { targetOf } from "../../plan/targets/index.ts";
import type { PlanBundle, Pruned } from "../../plan/types.ts";
import type { Runtime } from "../../runtime/types.ts";
import { crossOf, type Gram } from "../gram.ts";
import { type Layer, layersOf, rowsOf } from "../layers.ts";
import { proposeSites } from "../propose.ts";
import { planOf } from "../ranges.ts";
import { type Solved, solveSequentially } from "../sequential.ts";
import { choleskyUpper, multiply, solveRows } from "../solve/linalg.ts";
import { correctedBias } from "../solve/target.ts";
import { Streams } from "../streams.ts";
import { withConstants, without } from "./apply.ts";
import { type Channel, channelsOf } from "./groups.ts";
import { outputWeights } from "./outputs.ts";
import { DAMPING, selectChannels } from "./select.ts";

export { prunedModel } from "./apply.ts";

export interface PruneInput {
  /** The prepared model and its types. */
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly runtime: Runtime;
  readonly data: DataSet;
  readonly calibrate: readonly number[];
  /** Part of the multiplications of all products that goes. */
  readonly fraction: number;
  /** What is left of channels that a kernel computes together is a multiple of this. */
  readonly multiple?: number;
  readonly seed: number;
  readonly memoryBytes?: number;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}
export interface PruneResult {
  readonly model: Model;
  /** undefined: nothing was taken out. */
  readonly pruned: Pruned | undefined;
  readonly tensors: ReadonlyMap<string, TensorData>;
  readonly macs: { readonly before: number; readonly after: number };
}

/** Vector kernels work on so many channels at once: onnxruntime's blocked convolutions on 8 (AVX2) or 16 (AVX-512), int8 products on 16. */
const MULTIPLE = 8;
const MEMORY = 64 * 2 ** 20;
/** Samples of the gradients. */
const GRADIENT_SAMPLES = 16;
/** Statistics of a layer with more inputs are not taken: k² numbers twice over. Its input channels stay. */
const MOST_INPUTS = 2304;

/**
 * Takes channels out of the float network, the least missed first, and lets what is left make good for them.
 *
 * Which: `selectChannels`, from the second-order statistics of every reader's input and from what an error of its output does to the
 * network's. Repair, layer by layer behind the pruned prefix, x of the whole network and x̂ of the pruned one:
 *
 *   W* = (W C_K + d W_K)(Ĥ_KK + d I)⁻¹,  b* = b + W μ − W* μ̂_K,   K the inputs that are left (He et al. 2017, arXiv:1707.06168; Ĥ, C centred)
 */
export async function pruneModel(o: PruneInput): Promise<PruneResult> {
  const nothing = { model: o.model, pruned: undefined, tensors: new Map(), macs: { before: 0, after: 0 } };
  if (!(o.fraction > 0)) return nothing;
  const bundle = weightsAlone(o);
  const layers = layersOf(o.model, bundle);
  const positions = new Map(layers.map((l) => [l.key, positionsOf(l, o.types)]));
  const known = layers.filter((l) => positions.get(l.key) !== undefined);
  const small = new Set(known.filter((l) => l.k <= MOST_INPUTS).map((l) => l.key));
  const channels = channelsOf(o.model, o.types, known).filter((c) => c.reads.every((r) => small.has(r.layer.key)));
  if (channels.length === 0) return nothing;

  const grams = await statistics(o, bundle, layers, channels);
  const feeds = await Promise.all(o.calibrate.slice(0, GRADIENT_SAMPLES).map(async (i) => (await o.data.sample(i)).feeds));
  const read = layers.filter((l) => grams.has(l.key));
  const found = await outputWeights({ ...o, layers: read, feeds });
  const weights = found.size === read.length ? found : new Map(read.map((l) => [l.key, evenWeights(l, grams.get(l.key)!)]));
  const { removed, macs } = selectChannels({
    channels,
    costs: known.map((layer) => ({ layer, positions: positions.get(layer.key)! })),
    grams,
    weights,
    fraction: o.fraction,
    multiple: o.multiple ?? MULTIPLE,
    ...(o.signal && { signal: o.signal }),
  });
  if (removed.size === 0) return { ...nothing, macs };
  const gone = channels.filter((c) => removed.has(c.id));
  const solved = await repaired(o, bundle, layers, gone);

  const cut = new Map<string, { readonly data: TensorData; readonly axes: Map<number, Set<number>> }>();
  for (const c of gone)
    for (const s of c.slices) {
      const at = cut.get(s.value.name) ?? { data: s.value.data!, axes: new Map<number, Set<number>>() };
      at.axes.set(s.axis, (at.axes.get(s.axis) ?? new Set()).add(s.index));
      cut.set(s.value.name, at);
    }
  const contents = new Map<string, { readonly data: TensorData; readonly content: Float32Array }>();
  for (const s of solved) {
    contents.set(s.layer.weight.value.name, { data: s.layer.weight.value.data!, content: s.weight });
    if (s.bias && s.layer.bias) contents.set(s.layer.bias.value.name, { data: s.layer.bias.value.data!, content: s.bias });
  }
  const constants = new Map<string, TensorData>();
  for (const name of [...new Set([...contents.keys(), ...cut.keys()])].sort()) {
    const { data } = contents.get(name) ?? cut.get(name)!;
    constants.set(name, without(data, cut.get(name)?.axes ?? new Map(), contents.get(name)?.content));
  }
  const tensors = new Map([...constants].map(([name, t]) => [`pruned.${name}`, t]));
  const percent = (x: number) => `${(100 * x).toFixed(1)} %`;
  return {
    model: withConstants(o.model, constants),
    pruned: {
      groups: groupsOf(channels, removed),
      constants: [...constants.keys()].map((value) => ({ value, tensor: { tensor: `pruned.${value}` } })),
      because: `${percent(1 - macs.after / macs.before)} of the multiplications, asked for: ${percent(o.fraction)}; least squares repaired the readers`,
    },
    tensors,
    macs,
  };
}

/** Every product with a weight site and none on activations: layers to walk over. */
function weightsAlone({ model, types }: PruneInput): PlanBundle {
  return planOf(proposeSites({ model, types, target: targetOf("portable"), recipe: recipeOf("int8-weights") }), undefined, undefined);
}

/** Places of the kernel in one run: output elements ÷ rows. */
function positionsOf(l: Layer, types: ReadonlyMap<string, ValueType>): number | undefined {
  const v = l.node.outputs[0]!;
  const shape = staticShape(types.get(v.name) ?? v.type);
  return shape && shape.reduce((a, b) => a * b, 1) / (l.groups * l.rows);
}

const original = (l: Layer): Float32Array => l.weight.constant.float32();

/** Input statistics in the float network of the layers that read channels. */
async function statistics(
  o: PruneInput,
  bundle: PlanBundle,
  layers: readonly Layer[],
  channels: readonly Channel[],
): Promise<Map<string, Gram>> {
  const wanted = new Set(channels.flatMap((c) => c.reads.map((r) => r.layer.key)));
  const streams = new Streams(o.model, bundle, o.types, true);
  for (const l of layers) streams.setWeight(l.weight.value, floats(original(l), l.weight.constant.shape));
  const out = new Map<string, Gram>();
  await solveSequentially({
    ...walk(o, streams),
    layers: layers.filter((l) => wanted.has(l.key)),
    solve: (layer, grams) => {
      out.set(layer.key, grams[0]!);
      return asIs(layer, original(layer), undefined);
    },
  });
  return out;
}

const walk = (o: PruneInput, streams: Streams) => ({
  streams,
  runtime: o.runtime,
  indices: o.calibrate,
  load: async (i: number) => (await o.data.sample(i)).feeds,
  memoryBytes: o.memoryBytes ?? MEMORY,
  seed: o.seed,
  ...(o.progress && { progress: o.progress }),
  ...(o.signal && { signal: o.signal }),
});

function asIs(layer: Layer, weight: Float32Array, bias: Float32Array | undefined): Solved {
  const none = { codes: new Int32Array(0), scales: new Float32Array(0), zeros: new Int32Array(0) };
  return { layer, ...none, weight, bias, target: weight, targetBias: bias, error: 0 };
}

/** Without gradients: the relative error of every reader counts the same. */
function evenWeights(l: Layer, gram: Gram): Float64Array {
  const w = rowsOf(l, original(l))[0]!;
  const wh = new Float64Array(l.rows * l.k);
  multiply(w, gram.h, l.rows, l.k, l.k, wh);
  let energy = 0;
  for (let i = 0; i < w.length; i++) energy += w[i]! * wh[i]!;
  return new Float64Array(l.rows).fill(energy > 0 ? 1 / energy : 0);
}

/** Layers behind what was taken out, in order, each solved behind the pruned and repaired prefix; shapes as before, zeros where nothing is left. */
async function repaired(o: PruneInput, bundle: PlanBundle, layers: readonly Layer[], gone: readonly Channel[]): Promise<Solved[]> {
  const rows = new Map<string, Set<number>>();
  const inputs = new Map<string, Set<number>>();
  const note = (map: Map<string, Set<number>>, key: string, i: number) => map.set(key, (map.get(key) ?? new Set<number>()).add(i));
  for (const c of gone) {
    for (const r of c.rows) note(rows, r.layer.key, r.row);
    for (const t of c.through) note(rows, t.layer.key, t.group);
    for (const r of c.reads) for (const i of r.inputs) note(inputs, r.layer.key, i);
  }
  const streams = new Streams(o.model, bundle, o.types);
  const masked = (l: Layer) => {
    const weight = original(l).slice();
    const bias = l.bias && Float32Array.from(l.bias.data);
    for (const m of rows.get(l.key) ?? []) {
      for (let i = 0; i < l.k; i++) weight[m * l.rowStride + i * l.kStride] = 0;
      if (bias) bias[m] = 0;
    }
    return { weight, bias };
  };
  for (const l of layers) {
    const { weight, bias } = masked(l);
    streams.setWeight(l.weight.value, floats(weight, l.weight.constant.shape));
    if (bias && rows.has(l.key)) streams.setConstant(l.bias!.value, floats(bias, l.bias!.value.data!.shape));
  }
  const behind = behindOf(
    o.model,
    layers.filter((l) => rows.has(l.key)).map((l) => l.node),
  );
  const changed = layers.filter((l) => rows.has(l.key) || behind.has(l.node));
  return solveSequentially({
    ...walk(o, streams),
    layers: changed,
    solve: (layer, grams) => {
      const { weight, bias } = masked(layer);
      // In front of everything that was taken out: rows go, nothing is to be repaired.
      if (!behind.has(layer.node)) return asIs(layer, weight, bias);
      return repair(layer, grams, { rows: rows.get(layer.key), inputs: inputs.get(layer.key) });
    },
  });
}

function repair(
  layer: Layer,
  grams: readonly Gram[],
  gone: { readonly rows: ReadonlySet<number> | undefined; readonly inputs: ReadonlySet<number> | undefined },
): Solved {
  const { rows, k, groups, rowStride, kStride } = layer;
  const all = rowsOf(layer, original(layer));
  const weight = new Float32Array(groups * rows * k);
  const bias = layer.bias && Float32Array.from(layer.bias.data);
  for (let g = 0; g < groups; g++) {
    const gram = grams[g]!;
    const w = all[g]!;
    const what = solveKept(w, gram, rows, k, gone.inputs);
    for (let m = 0; m < rows; m++) {
      const row = g * rows + m;
      if (gone.rows?.has(row)) what.fill(0, m * k, (m + 1) * k);
      for (let i = 0; i < k; i++) weight[row * rowStride + i * kStride] = what[m * k + i]!;
    }
    if (!bias) continue;
    const own = Float64Array.from(bias.subarray(g * rows, (g + 1) * rows));
    bias.set(correctedBias(own, w, what, gram, rows, k), g * rows);
    for (let m = 0; m < rows; m++) if (gone.rows?.has(g * rows + m)) bias[g * rows + m] = 0;
  }
  return asIs(layer, weight, bias);
}

/** W* over the inputs that are left, zero elsewhere. */
function solveKept(w: Float64Array, gram: Gram, rows: number, k: number, gone: ReadonlySet<number> | undefined): Float64Array {
  const kept = Array.from({ length: k }, (_, i) => i).filter((i) => !gone?.has(i));
  const n = kept.length;
  const r = new Float64Array(n * n);
  let trace = 0;
  for (const i of kept) trace += gram.h[i * k + i]!;
  const out = new Float64Array(rows * k);
  const d = (DAMPING * trace) / Math.max(1, n);
  if (!(d > 0)) {
    for (let m = 0; m < rows; m++) for (const i of kept) out[m * k + i] = w[m * k + i]!;
    return out;
  }
  for (let a = 0; a < n; a++) for (let b = 0; b < n; b++) r[a * n + b] = gram.h[kept[a]! * k + kept[b]!]! + (a === b ? d : 0);
  if (!choleskyUpper(r, n)) throw new Error("internal: damped statistics are not positive definite");
  const wc = crossOf(w, gram, rows, k);
  const b = new Float64Array(rows * n);
  for (let m = 0; m < rows; m++) for (let a = 0; a < n; a++) b[m * n + a] = wc[m * k + kept[a]!]! + d * w[m * k + kept[a]!]!;
  solveRows(r, n, b, rows);
  for (let m = 0; m < rows; m++) for (let a = 0; a < n; a++) out[m * k + kept[a]!] = b[m * n + a]!;
  return out;
}

/** Nodes that depend on outputs of these. */
function behindOf(model: Model, from: readonly Node[]): Set<Node> {
  const out = new Set<Node>();
  const stack = [...from];
  for (let n = stack.pop(); n; n = stack.pop())
    for (const v of n.outputs)
      for (const u of v?.uses ?? []) {
        const at = model.graph.nodes.includes(u.node) ? u.node : undefined;
        if (at && !out.has(at)) {
          out.add(at);
          stack.push(at);
        }
      }
  return out;
}

/** What was taken out of each family, for the plan. */
function groupsOf(channels: readonly Channel[], removed: ReadonlySet<number>): Pruned["groups"] {
  const families = new Map<string, { all: number; gone: number }>();
  for (const c of channels) {
    const f = families.get(c.family) ?? { all: 0, gone: 0 };
    families.set(c.family, { all: f.all + 1, gone: f.gone + (removed.has(c.id) ? 1 : 0) });
  }
  return [...families].flatMap(([family, f]) => (f.gone > 0 ? [{ of: family.split("\n"), channels: f.all, kept: f.all - f.gone }] : []));
}
