import { QcError } from "../diagnostics.ts";
import type { Node, Value } from "../graph/ir.ts";
import { asIntegers, type TensorData } from "../graph/tensor.ts";
import type { Dim } from "../graph/types.ts";
import type { Emit } from "./emit.ts";

/**
 * One row of the gradient table. Gives a gradient for each input of the node (`undefined`: none, or not asked for).
 * Gradients have exactly the shape of their input.
 */
export type Rule = (r: Row) => readonly (Value | undefined)[];

/** A row that says why there is no gradient. The walk stops here: what stands before this node stays frozen. */
export interface NoGradient {
  readonly none: string;
  /** Nothing real comes out: no path is lost here, and nobody needs to be told. */
  readonly quiet?: true;
}
export const none = (why: string): NoGradient => ({ none: why });
export const quiet = (why: string): NoGradient => ({ none: why, quiet: true });

/** Thrown inside a rule whose operator has a gradient, but not with these attributes. */
export class Refusal extends Error {}

/** What a row sees of one node, and the verbs it emits with. */
export class Row {
  readonly e: Emit;
  readonly node: Node;
  readonly #dy: readonly (Value | undefined)[];
  readonly #need: ReadonlySet<number>;

  constructor(e: Emit, node: Node, dy: readonly (Value | undefined)[], need: ReadonlySet<number>) {
    this.e = e;
    this.node = node;
    this.#dy = dy;
    this.#need = need;
  }

  /** Input i, which must be there. */
  x(i = 0): Value {
    const v = this.node.inputs[i];
    if (!v) throw new Error(`internal: ${this.node.op} "${this.node.name}" has no input ${i}`);
    return v;
  }
  has(i: number): boolean {
    return this.node.inputs[i] !== undefined;
  }
  y(i = 0): Value {
    const v = this.node.outputs[i];
    if (!v) throw new Error(`internal: ${this.node.op} "${this.node.name}" has no output ${i}`);
    return v;
  }
  /** Gradient of output i: rows of one output may count on output 0. */
  dy(i = 0): Value {
    const v = this.#dy[i];
    if (!v) throw new Error(`internal: no gradient at output ${i} of ${this.node.op} "${this.node.name}"`);
    return v;
  }
  hasDy(i: number): boolean {
    return this.#dy[i] !== undefined;
  }
  need(i: number): boolean {
    return this.#need.has(i);
  }
  refuse(why: string): never {
    throw new Refusal(why);
  }

  op(op: string, ...inputs: (Value | undefined)[]): Value {
    return this.e.op(op, inputs);
  }
  /** A scalar in the type of input 0. */
  k(value: number): Value {
    return this.e.scalar(value, this.e.dtype(this.x(0)));
  }
  mul = (a: Value, b: Value | number): Value => (b === 1 ? a : this.op("Mul", a, typeof b === "number" ? this.k(b) : b));
  add = (a: Value, b: Value | number): Value => this.op("Add", a, typeof b === "number" ? this.k(b) : b);
  sub = (a: Value | number, b: Value | number): Value =>
    this.op("Sub", typeof a === "number" ? this.k(a) : a, typeof b === "number" ? this.k(b) : b);
  div = (a: Value | number, b: Value | number): Value =>
    this.op("Div", typeof a === "number" ? this.k(a) : a, typeof b === "number" ? this.k(b) : b);
  where = (c: Value, a: Value | number, b: Value | number): Value =>
    this.op("Where", c, typeof a === "number" ? this.k(a) : a, typeof b === "number" ? this.k(b) : b);
  /** g where the condition holds, else 0: a product with the condition as a number takes three quarters of the time of Where. */
  masked = (c: Value, g: Value): Value => this.op("Mul", g, this.number(c));
  /** A bool tensor as numbers of the type of input 0. */
  number = (c: Value): Value => this.e.op("Cast", [c], { to: this.e.dtype(this.x(0)) === "float64" ? 11 : 1 });

  rank(v: Value): number {
    const s = this.e.shape(v);
    if (!s) throw new QcError({ code: "grad/unknown-shape", value: v.name, node: this.node.name, op: this.node.op });
    return s.length;
  }
  /** The shape, which must be known in every dimension. */
  fixed(v: Value): readonly number[] {
    const s = this.e.staticShape(v);
    if (!s) throw new QcError({ code: "grad/unknown-shape", value: v.name, node: this.node.name, op: this.node.op });
    return s;
  }
  axis(a: number, rank: number): number {
    return a < 0 ? a + rank : a;
  }
  /** Integers of a constant input (axes, pads, shapes): undefined when it is left out or computed. */
  constInts(i: number): number[] | undefined {
    const d = this.node.inputs[i];
    if (!d) return undefined;
    if (d.isConstant) return clampedIntegers(d.data!);
    if (d.producer?.op === "Constant") {
      const a = d.producer.attrs.get("value");
      if (a?.kind === "tensor") return clampedIntegers(a.value);
      const l = d.producer.attrs.get("value_ints");
      if (l?.kind === "ints") return l.value.map(Number);
    }
    return undefined;
  }

  /**
   * Sums a gradient of shape `ys` (that of the output) down to the shape of x, which was broadcast to it. Where both dimensions are known (or are one symbol) the
   * axes are decided here; otherwise the graph finds them: axes where x is 1 and y is not.
   */
  unbroadcast(g: Value, x: Value, ys: readonly Dim[] | undefined = this.e.shape(this.y())): Value {
    const xs = this.e.shape(x);
    if (!xs || !ys) return this.#unbroadcastOpen(g, x);
    const lead = ys.length - xs.length;
    const axes: number[] = [];
    for (let i = 0; i < ys.length; i++) {
      const dy = ys[i];
      const dx = i < lead ? 1 : xs[i - lead];
      if (dx === 1) {
        if (i < lead || dy !== 1) axes.push(i);
      } else if (typeof dx !== "number" && (dx === undefined || dx !== dy)) return this.#unbroadcastOpen(g, x);
    }
    if (axes.length === 0) return g;
    const onlyLead = axes.length === lead && axes.every((a) => a < lead);
    const sum = this.e.reduce("ReduceSum", g, axes, onlyLead ? 0 : 1);
    return this.e.like(lead > 0 && !onlyLead ? this.e.reshapeLike(sum, x) : sum, x);
  }
  #unbroadcastOpen(g: Value, x: Value): Value {
    const e = this.e;
    const sx = e.shapeValue(x);
    const sg = e.op("Shape", [g]);
    const missing = this.op("Sub", this.op("Shape", sg), this.op("Shape", sx));
    const ones = e.op("Expand", [e.ints([1]), missing]);
    const padded = e.op("Concat", [ones, sx], { axis: 0 });
    const broadcast = this.op("And", this.op("Equal", padded, e.ints([1])), this.op("Not", this.op("Equal", sg, e.ints([1]))));
    const axes = e.op("Reshape", [this.op("NonZero", broadcast), e.ints([-1])]);
    const sum = e.op("ReduceSum", [g, axes], { keepdims: 1, noop_with_empty_axes: 1 });
    return e.reshapeLike(sum, x);
  }

  /** Adds `g` into zeros of x's shape at the flat positions `at` (same element count as g). For operators that only move data. */
  scatterFlat(g: Value, at: Value, x: Value = this.x()): Value {
    const e = this.e;
    const flat = (v: Value) => e.op("Reshape", [v, e.ints([-1])]);
    const zero = flat(e.zeros(x));
    const sum = e.op("ScatterElements", [zero, flat(at), flat(g)], { axis: 0, reduction: "add" });
    return e.reshapeLike(sum, x);
  }
}

/** "To the end" is written as the largest int64: a bound that no size reaches is as good. */
function clampedIntegers(t: TensorData): number[] {
  if (t.dtype !== "int64") return asIntegers(t);
  const b = t.bytes().slice();
  const far = BigInt(Number.MAX_SAFE_INTEGER);
  return Array.from(new BigInt64Array(b.buffer), (x) => Number(x > far ? far : x < -far ? -far : x));
}
