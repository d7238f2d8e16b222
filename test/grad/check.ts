import { QcError } from "../../src/diagnostics.ts";
import { gradients } from "../../src/grad/index.ts";
import type { AttrLike } from "../../src/graph/attr.ts";
import { type Model, newModel, type Value } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { type TensorData, tensorFrom } from "../../src/graph/tensor.ts";
import { type Dim, tensorType, type ValueType } from "../../src/graph/types.ts";
import type { Runtime, Tensor } from "../../src/runtime/types.ts";

/** A seeded generator (mulberry32) with the draws that cases need. */
export class Rng {
  #s: number;
  constructor(seed: number) {
    this.#s = seed >>> 0;
  }
  next(): number {
    this.#s = (this.#s + 0x6d2b79f5) >>> 0;
    let t = this.#s;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
  int(lo: number, hi: number): number {
    return lo + Math.floor(this.next() * (hi - lo + 1));
  }
  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)]!;
  }
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next());
  }
  shape(rank: number, lo = 1, hi = 4): number[] {
    return Array.from({ length: rank }, () => this.int(lo, hi));
  }
}

export interface In {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}
export const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
export const normal = (r: Rng, shape: readonly number[], scale = 1): In => ({
  shape,
  data: Float64Array.from({ length: count(shape) }, () => r.normal() * scale),
});
/** Away from zero, where many operators have a kink or a pole: ±(0.3 … 2). */
export const away = (r: Rng, shape: readonly number[]): In => ({
  shape,
  data: Float64Array.from({ length: count(shape) }, () => (r.next() < 0.5 ? -1 : 1) * (0.3 + 1.7 * r.next())),
});
export const between = (r: Rng, shape: readonly number[], lo: number, hi: number): In => ({
  shape,
  data: Float64Array.from({ length: count(shape) }, () => lo + (hi - lo) * r.next()),
});
/** All different, steps of 0.1 in random order: maxima do not tie under a small change. */
export const distinct = (r: Rng, shape: readonly number[]): In => {
  const data = Float64Array.from({ length: count(shape) }, (_, i) => (i - count(shape) / 2) / 10 + 0.013);
  for (let i = data.length - 1; i > 0; i--) {
    const j = r.int(0, i);
    [data[i], data[j]] = [data[j]!, data[i]!];
  }
  return { shape, data };
};
/** Small whole numbers: sums of products are exact in float32. */
export const whole = (r: Rng, shape: readonly number[]): In => ({
  shape,
  data: Float64Array.from({ length: count(shape) }, () => r.int(-4, 4)),
});

export interface Case {
  readonly op: string;
  readonly domain?: string;
  /** Float inputs are fed and differentiated; constants (shapes, axes, bounds) are not; undefined: left out. */
  readonly inputs: readonly (In | TensorData | undefined)[];
  readonly attrs?: Readonly<Record<string, AttrLike>>;
  readonly outputs?: number;
  /** Outputs whose sum with random weights is the loss; default: the first. */
  readonly used?: readonly number[];
  /** Float inputs to leave alone. */
  readonly frozen?: readonly number[];
  /**
   * "double": run in float64 with small steps. "exact": the operator has no float64 kernel but is linear in each input; whole numbers and
   * steps of 1 make the central difference exact in float32. "reference": no float64 kernel either; `forward` computes in double.
   */
  readonly mode?: "double" | "exact" | "reference";
  readonly forward?: (inputs: readonly Float64Array[]) => Float64Array;
  /** Relative error allowed; default 1e-6 (central differences of step 1e-4 in float64: h² and rounding), exact mode 1e-6 (float32). */
  readonly tolerance?: number;
  readonly opset?: number;
}

/** How much of the shapes the rows are told. */
export type Shapes = "static" | "batch" | "open";

const isIn = (x: In | TensorData | undefined): x is In => x !== undefined && "data" in x;

interface Built {
  readonly model: Model;
  readonly inputs: readonly (Value | undefined)[];
  readonly outputs: readonly Value[];
}
function build(c: Case): Built {
  const model = newModel(c.opset ?? 21, 10);
  if (c.domain) model.opsets.set(c.domain, 1);
  const g = model.graph;
  const elem = c.mode === undefined || c.mode === "double" ? "float64" : "float32";
  const inputs = c.inputs.map((x, i) => {
    if (x === undefined) return undefined;
    if (isIn(x))
      return g.addInput(
        `x${i}`,
        tensorType(
          elem,
          x.shape.map((_, a) => `d${i}_${a}`),
        ),
      );
    return g.constant(x, `k${i}`);
  });
  const names = Array.from({ length: c.outputs ?? 1 }, (_, i) => `y${i}`);
  const node = g.append({
    op: c.op,
    inputs,
    outputs: names,
    attrs: c.attrs ?? {},
    name: "node",
    ...(c.domain ? { domain: c.domain } : {}),
  });
  return { model, inputs, outputs: node.outputs as Value[] };
}

/**
 * Compares the row's gradients with central differences along random directions. Returns the largest relative error, or the code of the
 * diagnostic that says that a shape is missing.
 */
export async function gradientError(runtime: Runtime, c: Case, seed: number, shapes: Shapes = "static"): Promise<number | string> {
  const rng = new Rng(seed * 7919 + 1);
  const exact = c.mode === "exact";
  const double = c.mode === undefined || c.mode === "double";
  const tensor = (x: In): Tensor => ({
    dtype: double ? "float64" : "float32",
    dims: x.shape,
    data: double ? x.data : Float32Array.from(x.data),
  });
  const feeds = (xs: readonly (In | TensorData | undefined)[]) =>
    Object.fromEntries(xs.flatMap((x, i) => (isIn(x) ? [[`x${i}`, tensor(x)]] : [])));
  const used = c.used ?? [0];

  const fwd = build(c);
  for (const o of used) fwd.model.graph.addOutput(fwd.outputs[o]!);
  const session = await runtime.open(writeModel(fwd.model));
  const base = await session.run(feeds(c.inputs));
  const weights = used.map((o) => {
    const y = base[`y${o}`]!;
    return Float64Array.from({ length: (y.data as Float64Array).length }, () => (exact ? rng.int(-3, 3) : rng.normal()));
  });
  const loss = async (xs: readonly (In | TensorData | undefined)[]): Promise<number> => {
    let sum = 0;
    if (c.forward) {
      const y = c.forward(xs.filter(isIn).map((x) => x.data));
      for (let i = 0; i < y.length; i++) sum += y[i]! * weights[0]![i]!;
      return sum;
    }
    const out = await session.run(feeds(xs));
    used.forEach((o, at) => {
      const y = out[`y${o}`]!.data as Float64Array;
      for (let i = 0; i < y.length; i++) sum += y[i]! * weights[at]![i]!;
    });
    return sum;
  };

  // The gradients, from one graph.
  const bwd = build(c);
  const elem = double ? "float64" : "float32";
  const known = (dims: readonly number[], prefix: string): readonly Dim[] =>
    shapes === "static" ? dims : dims.map((d, i) => (shapes === "open" || i === 0 ? `${prefix}${i}` : d));
  const types = new Map<string, ValueType>();
  c.inputs.forEach((x, i) => {
    // Parameters (all inputs but the first) keep their shapes: only activations have an open batch.
    if (isIn(x)) types.set(`x${i}`, tensorType(elem, i === 0 || shapes === "open" ? known(x.shape, "b") : x.shape));
  });
  for (let o = 0; o < bwd.outputs.length; o++) {
    const y = base[`y${o}`];
    if (y) types.set(`y${o}`, tensorType(elem, known(y.dims, "o")));
  }
  const wrt = bwd.inputs.flatMap((v, i) => (v && isIn(c.inputs[i]) && !c.frozen?.includes(i) ? [{ v, i }] : []));
  const seeds = used.map((o) => ({
    value: bwd.outputs[o]!,
    seed: bwd.model.graph.addInput(
      `seed${o}`,
      tensorType(
        elem,
        base[`y${o}`]!.dims.map((_, a) => `s${o}_${a}`),
      ),
    ),
  }));
  let found: ReturnType<typeof gradients>;
  try {
    found = gradients(bwd.model, { of: seeds, wrt: wrt.map((w) => w.v), types });
  } catch (e) {
    if (e instanceof QcError) return e.diagnostics[0]!.code;
    throw e;
  }
  if (found.blocked.length > 0) return `blocked: ${found.blocked[0]!.why}`;
  const outs = wrt.map((w) => {
    const gv = found.of.get(w.v);
    if (!gv) throw new Error(`no gradient for input ${w.i} of ${c.op}`);
    return gv;
  });
  // A gradient may be the seed or an input itself: give each its own name.
  const named = outs.map((v) => bwd.model.graph.append({ op: "Identity", inputs: [v] }).outputs[0]!);
  for (const v of named) bwd.model.graph.addOutput(v);
  const back = await runtime.open(writeModel(bwd.model));
  const seedFeeds = Object.fromEntries(
    used.map((o, at) => [`seed${o}`, tensor({ shape: base[`y${o}`]!.dims, data: weights[at]! })] as const),
  );
  const grads = await back.run({ ...feeds(c.inputs), ...seedFeeds });

  let worst = 0;
  const h = exact ? 1 : 1e-4;
  for (let at = 0; at < wrt.length; at++) {
    const { i } = wrt[at]!;
    const x = c.inputs[i] as In;
    const got = grads[named[at]!.name]!;
    if (got.dims.join() !== x.shape.join()) throw new Error(`gradient of input ${i} of ${c.op} is [${got.dims}], not [${x.shape}]`);
    const g = got.data as Float64Array;
    for (let trial = 0; trial < 3; trial++) {
      const direction = Float64Array.from(x.data, () => (exact ? rng.int(-2, 2) : rng.normal()));
      const moved = (sign: number) =>
        c.inputs.map((y, j) => (j === i ? { shape: x.shape, data: x.data.map((v, k) => v + sign * h * direction[k]!) } : y));
      const slope = ((await loss(moved(1))) - (await loss(moved(-1)))) / (2 * h);
      let inner = 0;
      let size = 0;
      for (let k = 0; k < g.length; k++) {
        inner += g[k]! * direction[k]!;
        size += Math.abs(g[k]! * direction[k]!);
      }
      worst = Math.max(worst, Math.abs(inner - slope) / Math.max(size, double ? 1e-2 : 1));
    }
  }
  await session.release();
  await back.release();
  return worst;
}

export const i64 = (values: readonly (number | bigint)[], shape?: readonly number[]) =>
  tensorFrom(
    BigInt64Array.from(values, (v) => BigInt(v)),
    shape ?? [values.length],
  );
