import { intAttr } from "../graph/attr.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Graph, Model, Node, Value } from "../graph/ir.ts";
import { asFloat32, floats } from "../graph/tensor.ts";
import type { Layer } from "./layers.ts";

/**
 * A place where channels can be given other units without changing the function: what makes the value is divided by s, and the weights of
 * everybody who reads it are multiplied, y = W₂ f(W₁ x + b₁) = (W₂ s) f((W₁ x + b₁) / s) for f(a / s) = f(a) / s, s > 0.
 */
export interface Rescale {
  readonly value: Value;
  readonly channels: number;
  /** The layer that makes it, through functions that keep a positive factor; or the factors of a normalization. */
  readonly from: { readonly kind: "layer"; readonly layer: Layer } | { readonly kind: "factors"; readonly constants: readonly Value[] };
  /** The layers that read it: all of its readers. */
  readonly to: readonly Layer[];
}

/** f(a / s) = f(a) / s for s > 0, channel by channel. */
const HOMOGENEOUS = new Set(["Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout"]);

/** Layer pairs (cross-layer equalization), and normalizations in front of layers (smoothing). Values that others read too are left alone. */
export function findRescales(model: Model, layers: readonly Layer[]): Rescale[] {
  const byNode = new Map(layers.map((l) => [l.node, l]));
  const out: Rescale[] = [];
  const seen = new Set<Value>();
  for (const layer of layers) {
    const value = layer.input;
    if (seen.has(value) || value.graph !== model.graph || value.isOutput || value.isConstant) continue;
    seen.add(value);
    const to = value.uses.map((u) => byNode.get(u.node));
    if (to.some((l) => l === undefined || l.input !== value)) continue;
    const readers = to as Layer[];
    if (!readers.every(plainWeight)) continue;
    const channels = readers.map(inputChannels);
    if (new Set(readers).size !== readers.length || channels.some((c) => c !== channels[0])) continue;
    const from = makerOf(model.graph, value, byNode, channels[0]!);
    // The factors of a normalization lie on the last axis, where a product reads its channels; a convolution reads them on the second.
    if (from?.kind === "factors" && readers.some((l) => l.window)) continue;
    if (from?.kind === "layer" && (!plainWeight(from.layer) || (from.layer.window === undefined) !== (readers[0]!.window === undefined)))
      continue;
    if (from) out.push({ value, channels: channels[0]!, from, to: readers });
  }
  return out;
}

const plainWeight = (l: Layer): boolean => l.weight.value.isConstant && l.weight.value.data?.dtype === "float32" && !l.columns;

/** Channels of a layer's input: the axis that carries one factor each. */
function inputChannels(l: Layer): number {
  return l.window ? l.groups * l.window.channels : l.k;
}

function makerOf(graph: Graph, value: Value, byNode: ReadonlyMap<Node, Layer>, channels: number): Rescale["from"] | undefined {
  let v = value;
  for (;;) {
    const p = v.producer;
    if (!p || p.graph !== graph || p.outputs[0] !== v || p.domain !== "") return undefined;
    const layer = byNode.get(p);
    if (layer) return layer.groups * layer.rows === channels && freeBias(layer) ? { kind: "layer", layer } : undefined;
    if (p.op === "LayerNormalization" || p.op === "Mul") {
      const constants = (p.op === "Mul" ? p.inputs : p.inputs.slice(1)).filter((x): x is Value => x?.isConstant === true);
      const own = constants.every(
        (c) => c.uses.length === 1 && c.data?.dtype === "float32" && c.data.shape.length === 1 && c.data.shape[0] === channels,
      );
      return constants.length > 0 && own && (p.op === "Mul" ? constants.length === 1 : constants.length === p.inputs.length - 1)
        ? { kind: "factors", constants }
        : undefined;
    }
    if (!HOMOGENEOUS.has(p.op)) return undefined;
    const x = p.inputs[0];
    if (x?.uses.length !== 1 || x.isOutput) return undefined;
    v = x;
  }
}

/** A layer without a bias has nothing to divide; one whose bias is elsewhere (shared, computed) cannot be divided. */
function freeBias(l: Layer): boolean {
  const biasInput = l.node.inputs[2];
  return l.bias !== undefined ? l.node.inputs[2] === l.bias.value : biasInput === undefined;
}

/** max|W| of every channel of the value: over the weights of all its readers. */
export function readerRanges(r: Rescale, weightOf: (l: Layer) => Float32Array): Float64Array {
  const out = new Float64Array(r.channels);
  for (const l of r.to)
    eachInput(l, (channel, at) => {
      out[channel] = Math.max(out[channel]!, Math.abs(weightOf(l)[at]!));
    });
  return out;
}

function makerRanges(l: Layer, weight: Float32Array): Float64Array {
  const out = new Float64Array(l.groups * l.rows);
  for (let m = 0; m < out.length; m++)
    for (let i = 0; i < l.k; i++) out[m] = Math.max(out[m]!, Math.abs(weight[m * l.rowStride + i * l.kStride]!));
  return out;
}

/** Calls with the input channel, the position in the operand and the row of each weight. */
function eachInput(l: Layer, visit: (channel: number, at: number, row: number) => void): void {
  const per = l.window ? l.k / l.window.channels : 1;
  for (let g = 0; g < l.groups; g++)
    for (let m = 0; m < l.rows; m++)
      for (let i = 0; i < l.k; i++) {
        const channel = l.window ? g * l.window.channels + Math.floor(i / per) : i;
        visit(channel, (g * l.rows + m) * l.rowStride + i * l.kStride, g * l.rows + m);
      }
}

/** The constants of a model while factors are moved about; `model()` is a copy with the new ones. */
export class Rescaling {
  readonly #model: Model;
  readonly #data = new Map<Value, Float32Array>();

  constructor(model: Model) {
    this.#model = model;
  }

  of(v: Value): Float32Array {
    let x = this.#data.get(v);
    if (!x) {
      x = Float32Array.from(asFloat32(v.data!));
      this.#data.set(v, x);
    }
    return x;
  }
  /** Another one that starts from here. */
  fork(): Rescaling {
    const out = new Rescaling(this.#model);
    for (const [v, x] of this.#data) out.#data.set(v, Float32Array.from(x));
    return out;
  }
  readonly weightOf = (l: Layer): Float32Array => this.of(l.weight.value);

  /** Divides what makes the value by `s` [channels] and multiplies the weights that read it. */
  apply(r: Rescale, s: Float64Array): void {
    if (r.from.kind === "layer") {
      const { layer } = r.from;
      const w = this.weightOf(layer);
      for (let m = 0; m < r.channels; m++) for (let i = 0; i < layer.k; i++) w[m * layer.rowStride + i * layer.kStride]! /= s[m]!;
      if (layer.bias) {
        const b = this.of(layer.bias.value);
        for (let m = 0; m < r.channels; m++) b[m]! /= s[m]!;
      }
    } else
      for (const c of r.from.constants) {
        const x = this.of(c);
        for (let m = 0; m < r.channels; m++) x[m]! /= s[m]!;
      }
    for (const l of r.to) {
      const w = this.weightOf(l);
      eachInput(l, (channel, at) => {
        w[at]! *= s[channel]!;
      });
    }
  }

  /** A copy of the model with the constants as they are now; and their names and contents. */
  finish(): { readonly model: Model; readonly changed: ReadonlyMap<string, Float32Array> } {
    const model = cloneModel(this.#model);
    const changed = new Map<string, Float32Array>();
    for (const [v, x] of this.#data) {
      const twin = model.graph.values.get(v.name)!;
      model.graph.setData(twin, floats(x, v.data!.shape));
      changed.set(v.name, x);
    }
    return { model, changed };
  }
}

/**
 * Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721): s = √(r₁ / r₂) makes the ranges r₁ of the rows of W₁ and r₂ of the columns
 * of W₂ equal, channel by channel; pairs in turn until nothing moves. For weights with one scale a tensor.
 */
export function equalize(model: Model, pairs: readonly Rescale[], rounds = 20): Rescaling {
  const out = new Rescaling(model);
  for (let n = 0; n < rounds; n++) {
    let most = 0;
    for (const r of pairs) {
      if (r.from.kind !== "layer") continue;
      const r1 = makerRanges(r.from.layer, out.weightOf(r.from.layer));
      const r2 = readerRanges(r, out.weightOf);
      const s = factors(r1, r2, 0.5);
      out.apply(r, s);
      for (const x of s) most = Math.max(most, Math.abs(Math.log(x)));
    }
    if (most < 1e-3) break;
  }
  return out;
}

/**
 * SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): s = max|x|^α / max|W|^(1 − α), so that the activation's outlying channels move into
 * the weights. `ranges`: max|x| of each channel of each value.
 */
export function smooth(model: Model, places: readonly Rescale[], ranges: ReadonlyMap<Value, Float64Array>, alpha: number): Rescaling {
  const out = new Rescaling(model);
  for (const r of places) {
    const x = ranges.get(r.value);
    if (r.from.kind === "factors" && x) out.apply(r, factors(x, readerRanges(r, out.weightOf), alpha));
  }
  return out;
}

/**
 * Places whose function also keeps a shift, f(a − c) = f(a) − c for a ≥ c ≥ 0, all the way from the layer to its readers: both have a bias
 * of their own, and no zero of a padding is read among the values (a shifted border would have to be padded with −c).
 */
export function findShifts(places: readonly Rescale[]): Rescale[] {
  return places.filter((r) => r.from.kind === "layer" && r.from.layer.bias && r.to.every((l) => l.bias && unpadded(l)) && keepsShift(r));
}

const unpadded = (l: Layer): boolean =>
  !l.window || ((l.window.autoPad === "NOTSET" || l.window.autoPad === "VALID") && l.window.pads.every((p) => p === 0));

function keepsShift(r: Rescale): boolean {
  for (
    let v: Value | undefined = r.value;
    r.from.kind === "layer" && v?.producer && v.producer !== r.from.layer.node;
    v = v.producer.inputs[0]
  )
    if (v.producer.op === "AveragePool" && intAttr(v.producer, "count_include_pad", 0) !== 0) return false;
  return true;
}

/**
 * Absorbs high biases (Nagel et al. 2019, §4.1.3): channels that stay above c > 0 in front of the activation f are shifted down, and the
 * readers' biases take the rest,
 *
 *   y = W₂ f(W₁ x + b₁) + b₂ = W₂ f(W₁ x + b₁ − c) + (b₂ + W₂ c)        where W₁ x + b₁ ≥ c ≥ 0
 *
 * so that the value's range is that of what varies. `shifts`: c [channels] of each place. Changes the rescaling, and tells how many
 * channels moved.
 */
export function absorb(out: Rescaling, places: readonly Rescale[], shifts: ReadonlyMap<Rescale, Float64Array>): number {
  let moved = 0;
  for (const r of places) {
    const c = shifts.get(r);
    if (!c?.some((x) => x > 0) || r.from.kind !== "layer" || !r.from.layer.bias) continue;
    const b1 = out.of(r.from.layer.bias.value);
    c.forEach((x, m) => {
      if (!(x > 0)) return;
      b1[m]! -= x;
      moved++;
    });
    for (const l of r.to) {
      const w = out.weightOf(l);
      const sums = new Float64Array(l.groups * l.rows);
      eachInput(l, (channel, at, row) => {
        sums[row]! += w[at]! * c[channel]!;
      });
      const b2 = out.of(l.bias!.value);
      sums.forEach((x, m) => {
        b2[m]! += x;
      });
    }
  }
  return moved;
}

/** a^α / b^(1 − α), 1 for dead channels, around 1 on average (units in common cancel), and not beyond 1e±3. */
function factors(a: Float64Array, b: Float64Array, alpha: number): Float64Array {
  const live = (i: number) => a[i]! > 1e-12 && b[i]! > 1e-12;
  const s = a.map((x, i) => (live(i) ? alpha * Math.log(x) - (1 - alpha) * Math.log(b[i]!) : 0));
  let mean = 0;
  let n = 0;
  s.forEach((x, i) => {
    if (!live(i)) return;
    mean += x;
    n++;
  });
  return s.map((x, i) => (live(i) ? Math.exp(Math.max(-7, Math.min(7, x - mean / Math.max(1, n)))) : 1));
}
