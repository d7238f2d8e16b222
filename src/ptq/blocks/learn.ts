import { gradients, type Rule } from "../../grad/index.ts";
import type { Model } from "../../graph/ir.ts";
import { readModel, writeModel } from "../../graph/onnx/index.ts";
import { asIntegers, floats } from "../../graph/tensor.ts";
import { tensorType, type ValueType } from "../../graph/types.ts";
import { requireOpset } from "../../prepare/opset/index.ts";
import { INT_DTYPES, isIntDType } from "../../quant/dtype.ts";
import type { Runtime, Session, Tensor } from "../../runtime/types.ts";
import type { Layer } from "../layers.ts";
import { uniformAt } from "../random.ts";

/** One sample of a block: what goes in in the quantized network, and what comes out of the float one. */
export interface Example {
  readonly x: Tensor;
  readonly y: Tensor;
}

/** A layer's rounding: element p is `scale[p] · clip(base[p] + h, lo, hi)`, in the layout of the weight operand. */
export interface Soft {
  readonly layer: Layer;
  readonly scale: Float32Array;
  /** Of the codes at the start: c = code − zero point. */
  readonly codes: Int32Array;
  readonly lo: number;
  readonly hi: number;
}

export interface Learned {
  /** Codes of each layer, as good as the start or better. */
  readonly codes: readonly Int32Array[];
  /** Mean squared error of the block's output over the energy of the float one, all examples. */
  readonly before: number;
  readonly after: number;
}

/** ζ and γ of the rectified sigmoid, and the schedule, as in `solve/adaround.ts`. */
const ZETA = 1.1;
const GAMMA = -0.1;
/** Three times that of single layers: there are few steps. */
const RATE = 0.03;
const [B1, B2, EPS] = [0.9, 0.999, 1e-8];
const WARM = 0.2;
/** λ = WEIGHT / count(V) beside a loss of 1 at the start. Between solved codes 25, as for single layers, ends 17 % above the start, 1 next to it. */
const WEIGHT = 1;
/** More undecided elements than this, and the search goes on with twice the regularizer. */
const UNDECIDED = 0.005;
const MOST_ROUNDS = 6;
const BATCH = 16;
const OPSET = 18;

/**
 * Block reconstruction (BRECQ, Li et al. 2021, arXiv:2102.05426): the roundings of all layers of a block together, on quantized inputs x̂
 * against float outputs y, at fixed scales:
 *
 *   min over V   ‖block(x̂; Ŵ(V)) − y‖² / L₀ + λ Σ (1 − |2 h(V) − 1|^β),   Ŵ = s · clip(base + h(V), lo, hi),  λ = 1 / count(V)
 *
 * L₀ is the loss of the start. Forward and backward pass are one ONNX graph (gradients straight through Q/DQ inside their range); Adam is
 * done here. V starts at the codes given; hard codes are taken only where the loss over all examples falls.
 */
export class BlockLearner {
  readonly #session: Session;
  readonly #x: string;
  readonly #weights: readonly string[];
  readonly #layers: readonly Soft[];
  readonly #examples: readonly Example[];

  private constructor(session: Session, x: string, weights: readonly string[], layers: readonly Soft[], examples: readonly Example[]) {
    this.#session = session;
    this.#x = x;
    this.#weights = weights;
    this.#layers = layers;
    this.#examples = examples;
  }

  /**
   * `segment`: the block in the quantized stream as a model with input `x` and one output; `types`: of its values, the first axis free.
   * Undefined where gradients cannot pass.
   */
  static async open(
    runtime: Runtime,
    segment: { readonly bytes: Uint8Array; readonly x: string; readonly output: string },
    layers: readonly Soft[],
    examples: readonly Example[],
    types: ReadonlyMap<string, ValueType>,
  ): Promise<BlockLearner | undefined> {
    const model = readModel(segment.bytes);
    if ((model.opsets.get("") ?? 1) < OPSET) requireOpset(model, OPSET);
    const g = model.graph;
    const inputs = layers.map(({ layer }) => {
      const old = g.values.get(`q/${layer.weight.value.name}`);
      if (!old) throw new Error(`internal: "${layer.key}" is not in its block`);
      const v = g.addInput(g.freshName("weight"), tensorType("float32", layer.weight.constant.shape));
      g.replaceAllUses(old, v);
      return v;
    });
    const out = g.values.get(segment.output)!;
    const y = g.addInput(g.freshName("target"), types.get(segment.output) ?? tensorType("float32"));
    const e = g.append({ op: "Sub", inputs: [out, y] }).outputs[0]!;
    const square = g.append({ op: "ReduceSumSquare", inputs: [e], attrs: { keepdims: 0 } }).outputs[0]!;
    const seed = g.append({ op: "Mul", inputs: [e, g.constant(floats([2], []), "two")] }).outputs[0]!;
    const found = gradients(model, { of: [{ value: out, seed }], wrt: inputs, types, rules: STRAIGHT });
    if (found.blocked.length > 0 || inputs.some((v) => !found.of.get(v))) return undefined;
    const slopes = inputs.map((v) => found.of.get(v)!);
    for (const o of [...g.outputs]) g.outputs.splice(g.outputs.indexOf(o), 1);
    const names = [square, ...slopes].map((v) => {
      const o = g.append({ op: "Identity", inputs: [v] }).outputs[0]!;
      o.type = tensorType("float32");
      g.addOutput(o);
      return o.name;
    });
    const session = await open(runtime, model);
    const learner = new BlockLearner(
      session,
      segment.x,
      inputs.map((v) => v.name),
      layers,
      examples,
    );
    learner.#target = y.name;
    learner.#outputs = names;
    return learner;
  }
  #target = "";
  #outputs: readonly string[] = [];

  async learn(steps: number, seed: number): Promise<Learned> {
    const layers = this.#layers;
    const start = layers.map((l) => l.codes);
    const energy = this.#examples.reduce((sum, { y }) => sum + squares(y.data as Float32Array), 0);
    const before = await this.#total(start);
    if (!(before > 0)) return { codes: start, before: 0, after: 0 };
    const softs = layers.map(softStart);
    const count = softs.reduce((n, s) => n + s.v.length, 0);
    const unit = this.#examples.length / before;
    let t = 0;
    const step = async (progress: number, weight: number) => {
      const batch = Array.from({ length: this.#batch }, (_, i) =>
        Math.min(this.#examples.length - 1, Math.floor(uniformAt(seed, t, i) * this.#examples.length)),
      );
      const { slopes } = await this.#run(batch, softs.map(weightOf));
      const p = Math.max(0, (progress - WARM) / (1 - WARM));
      const beta = 2 + 9 * (1 + Math.cos(Math.PI * p));
      t++;
      softs.forEach((s, n) => {
        descendSoft(s, slopes[n]!, unit / batch.length, p > 0 ? weight / count : 0, beta, t);
      });
    };
    for (let n = 0; n < steps; n++) await step(n / steps, WEIGHT);
    // Elements that are still between two codes would be rounded by chance.
    for (let round = 1; steps > 0 && round <= MOST_ROUNDS && undecided(softs) > UNDECIDED; round++)
      for (let n = 0; n < steps / 4; n++) await step(1, WEIGHT * 2 ** round);
    const codes = softs.map(hardOf);
    const after = await this.#total(codes);
    const won = after < before;
    return { codes: won ? codes : start, before: before / energy, after: (won ? after : before) / energy };
  }

  /** Samples a run: those whose first axis is 1 are stacked. */
  get #batch(): number {
    const { x, y } = this.#examples[0]!;
    const same = this.#examples.every((e) => e.x.dims.join() === x.dims.join() && e.y.dims.join() === y.dims.join());
    return same && x.dims[0] === 1 && y.dims[0] === 1 ? Math.min(BATCH, this.#examples.length) : 1;
  }

  async #total(codes: readonly Int32Array[]): Promise<number> {
    const weights = codes.map((c, n) => Float32Array.from(c, (q, p) => q * this.#layers[n]!.scale[p]!));
    let sum = 0;
    const width = this.#batch;
    for (let i = 0; i < this.#examples.length; i += width) {
      const batch = Array.from({ length: Math.min(width, this.#examples.length - i) }, (_, j) => i + j);
      sum += (await this.#run(batch, weights, true)).loss;
    }
    return sum;
  }

  async #run(batch: readonly number[], weights: readonly Float32Array[], lossAlone = false) {
    const feeds: Record<string, Tensor> = {
      [this.#x]: stacked(batch.map((i) => this.#examples[i]!.x)),
      [this.#target]: stacked(batch.map((i) => this.#examples[i]!.y)),
    };
    weights.forEach((data, n) => {
      feeds[this.#weights[n]!] = { dtype: "float32", dims: this.#layers[n]!.layer.weight.constant.shape, data };
    });
    const out = await this.#session.run(feeds, lossAlone ? this.#outputs.slice(0, 1) : this.#outputs);
    const slopes = lossAlone ? [] : this.#outputs.slice(1).map((name) => out[name]!.data as Float32Array);
    return { loss: Number(out[this.#outputs[0]!]!.data[0]), slopes };
  }

  release(): Promise<void> {
    return this.#session.release();
  }
}

const open = (runtime: Runtime, model: Model): Promise<Session> => runtime.open(writeModel(model), { label: "block", level: "basic" });

/** Straight through: dx = dy inside the range of the codes, 0 outside; a DequantizeLinear passes on what it gets. */
const STRAIGHT: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  [
    "com.microsoft:QuantizeLinear",
    (r) => {
      const scale = r.x(1).data;
      const zero = r.x(2).data;
      if (!scale || !zero || !isIntDType(zero.dtype) || scale.shape.length > 0) return r.refuse("it has a scale for each channel");
      const s = new Float32Array(scale.bytes().slice().buffer)[0]!;
      const z = Number(asIntegers(zero)[0]);
      const { min, max } = INT_DTYPES[zero.dtype];
      const bound = (v: number) => r.e.graph.constant(floats([(v - z) * s], []), "bound");
      const inside = r.op("And", r.op("GreaterOrEqual", r.x(), bound(min)), r.op("LessOrEqual", r.x(), bound(max)));
      return [r.masked(inside, r.dy())];
    },
  ],
  ["com.microsoft:DequantizeLinear", (r) => [r.dy()]],
]);

interface SoftState extends Soft {
  readonly base: Float32Array;
  readonly v: Float32Array;
  readonly m1: Float32Array;
  readonly m2: Float32Array;
}

/** V whose rounding is the code given, as near to the real weight as that allows. */
function softStart(l: Soft): SoftState {
  const real = l.layer.weight.constant.float32();
  const n = l.codes.length;
  const base = new Float32Array(n);
  const v = new Float32Array(n);
  for (let p = 0; p < n; p++) {
    const c = l.codes[p]!;
    const off = real[p]! / l.scale[p]! - c;
    const up = off < 0;
    base[p] = up ? c - 1 : c;
    const h = up ? Math.max(0.51, Math.min(0.99, 1 + off)) : Math.min(0.49, Math.max(0.01, off));
    v[p] = -Math.log((ZETA - GAMMA) / (h - GAMMA) - 1);
  }
  return { ...l, base, v, m1: new Float32Array(n), m2: new Float32Array(n) };
}

const soften = (v: number): number => Math.min(1, Math.max(0, (ZETA - GAMMA) / (1 + Math.exp(-v)) + GAMMA));

function weightOf(s: SoftState): Float32Array {
  const out = new Float32Array(s.v.length);
  for (let p = 0; p < out.length; p++) out[p] = s.scale[p]! * Math.min(s.hi, Math.max(s.lo, s.base[p]! + soften(s.v[p]!)));
  return out;
}

/** Part of the elements whose rounding is open. */
function undecided(softs: readonly SoftState[]): number {
  let open = 0;
  let all = 0;
  for (const { v } of softs) {
    all += v.length;
    for (let p = 0; p < v.length; p++) if (Math.abs(soften(v[p]!) - 0.5) < 0.49) open++;
  }
  return open / all;
}

function hardOf(s: SoftState): Int32Array {
  const out = new Int32Array(s.v.length);
  for (let p = 0; p < out.length; p++) out[p] = Math.min(s.hi, Math.max(s.lo, s.base[p]! + (soften(s.v[p]!) >= 0.5 ? 1 : 0)));
  return out;
}

/** One step of Adam on V. `slope`: of the loss by the weight, to be multiplied by `unit`. */
function descendSoft(s: SoftState, slope: Float32Array, unit: number, push: number, beta: number, t: number): void {
  const { v, m1, m2, base, scale, lo, hi } = s;
  const c1 = 1 - B1 ** t;
  const c2 = 1 - B2 ** t;
  for (let p = 0; p < v.length; p++) {
    const sigma = 1 / (1 + Math.exp(-v[p]!));
    const raw = (ZETA - GAMMA) * sigma + GAMMA;
    const h = Math.min(1, Math.max(0, raw));
    const q = base[p]! + h;
    let d = q >= lo && q <= hi ? slope[p]! * unit * scale[p]! : 0;
    if (push > 0) {
      const far = 2 * h - 1;
      d -= push * 2 * beta * Math.sign(far) * Math.max(Math.abs(far), 1e-6) ** (beta - 1);
    }
    d *= raw > 0 && raw < 1 ? (ZETA - GAMMA) * sigma * (1 - sigma) : 0;
    m1[p] = B1 * m1[p]! + (1 - B1) * d;
    m2[p] = B2 * m2[p]! + (1 - B2) * d * d;
    v[p]! -= (RATE * (m1[p]! / c1)) / (Math.sqrt(m2[p]! / c2) + EPS);
  }
}

function stacked(parts: readonly Tensor[]): Tensor {
  if (parts.length === 1) return parts[0]!;
  const size = (parts[0]!.data as Float32Array).length;
  const data = new Float32Array(parts.length * size);
  parts.forEach((t, i) => {
    data.set(t.data as Float32Array, i * size);
  });
  return { dtype: "float32", dims: [parts.length, ...parts[0]!.dims.slice(1)], data };
}

function squares(x: Float32Array): number {
  let s = 0;
  for (let i = 0; i < x.length; i++) s += x[i]! * x[i]!;
  return s;
}
