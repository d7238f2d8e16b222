import type { AttrLike } from "../graph/attr.ts";
import type { Graph, Node, Origin, Value } from "../graph/ir.ts";
import { int64s, type TensorData, tensorFrom } from "../graph/tensor.ts";
import type { Dim, ValueType } from "../graph/types.ts";
import type { DType } from "../quant/dtype.ts";

/** One dimension of a shape being built: a number, or a value that holds it (int64 [1]). */
export type DimX = number | Value;

/**
 * Appends nodes to a graph and keeps what the rows need beside them: constants shared by content, `Shape` of a value once,
 * types known from outside (`types`: value name to type) or from the graph.
 */
export class Emit {
  readonly graph: Graph;
  readonly opset: number;
  readonly #types: ReadonlyMap<string, ValueType>;
  readonly #constants = new Map<string, Value>();
  readonly #shapes = new Map<Value, Value>();
  readonly #emitted = new Map<Value, ValueType>();
  origin: Origin | undefined;
  /** Put before every new name, so that backward nodes are told from forward ones. */
  hint = "grad";

  constructor(graph: Graph, opset: number, types: ReadonlyMap<string, ValueType> = new Map()) {
    this.graph = graph;
    this.opset = opset;
    this.#types = types;
  }

  node(op: string, inputs: readonly (Value | undefined)[], attrs: Readonly<Record<string, AttrLike>> = {}, outputs = 1): Node {
    const name = this.graph.freshName(`${this.hint}/${op}`);
    return this.graph.append({
      op,
      inputs,
      attrs,
      name,
      outputs: Array.from({ length: outputs }, (_, i) => this.graph.freshName(i === 0 ? name : `${name}_${i}`)),
      ...(this.origin ? { origin: this.origin } : {}),
    });
  }
  op(op: string, inputs: readonly (Value | undefined)[], attrs: Readonly<Record<string, AttrLike>> = {}): Value {
    return this.node(op, inputs, attrs).outputs[0]!;
  }

  /** What is known of a value's type: told by the caller, noted by `like`, or written in the graph. */
  typeOf(v: Value): ValueType | undefined {
    return this.#emitted.get(v) ?? this.#types.get(v.name) ?? v.type;
  }
  /** Notes that `v` has the type of `of`. */
  like(v: Value, of: Value): Value {
    const t = this.typeOf(of);
    if (t) this.#emitted.set(v, t);
    return v;
  }
  dtype(v: Value): DType {
    const t = this.typeOf(v);
    return (t?.kind === "tensor" ? t.elem : undefined) ?? "float32";
  }
  shape(v: Value): readonly Dim[] | undefined {
    const t = this.typeOf(v);
    return t?.kind === "tensor" ? t.shape : undefined;
  }
  /** Every dimension as a number, or undefined. */
  staticShape(v: Value): readonly number[] | undefined {
    const s = this.shape(v);
    return s?.every((d) => typeof d === "number") ? (s as readonly number[]) : undefined;
  }

  #shared(key: string, make: () => TensorData, hint: string): Value {
    let v = this.#constants.get(key);
    if (!v) {
      v = this.graph.constant(make(), `${this.hint}/${hint}`);
      this.#constants.set(key, v);
    }
    return v;
  }
  ints(values: readonly number[]): Value {
    return this.#shared(`i${values.join(",")}`, () => int64s(values), "ints");
  }
  int(value: number): Value {
    return this.#shared(`s${value}`, () => int64s([value], []), "int");
  }
  /** A scalar of a float type. */
  scalar(value: number, dtype: DType): Value {
    return this.#shared(`${dtype}:${Object.is(value, -0) ? "-0" : value}`, () => floatTensor([value], [], dtype), "k");
  }

  /** The shape as an int64 vector: a constant when it is known. */
  shapeValue(v: Value): Value {
    const s = this.staticShape(v);
    if (s) return this.ints(s);
    let out = this.#shapes.get(v);
    if (!out) {
      out = this.op("Shape", [v]);
      this.#shapes.set(v, out);
    }
    return out;
  }
  dim(v: Value, axis: number): DimX {
    const d = this.shape(v)?.[axis];
    if (typeof d === "number") return d;
    return this.op("Gather", [this.shapeValue(v), this.ints([axis])], { axis: 0 });
  }
  dims(v: Value, rank: number): DimX[] {
    return Array.from({ length: rank }, (_, i) => this.dim(v, i));
  }

  /** Reshape to dimensions some of which are computed; a single computed one becomes -1 (and -1 may be given). */
  reshape(x: Value, dims: readonly DimX[]): Value {
    const open = dims.filter((d) => typeof d !== "number" || d < 0).length;
    if (open <= 1 && !dims.includes(0)) return this.op("Reshape", [x, this.ints(dims.map((d) => (typeof d === "number" ? d : -1)))]);
    return this.op("Reshape", [x, this.vector(dims)], { allowzero: 1 });
  }
  reshapeLike(x: Value, of: Value): Value {
    const s = this.staticShape(of);
    if (s) return this.like(s.every((d) => d > 0) ? this.reshape(x, s) : this.op("Reshape", [x, this.ints(s)], { allowzero: 1 }), of);
    return this.like(this.op("Reshape", [x, this.shapeValue(of)], { allowzero: 1 }), of);
  }
  /** Dimensions as one int64 vector. */
  vector(dims: readonly DimX[]): Value {
    if (dims.every((d) => typeof d === "number")) return this.ints(dims as readonly number[]);
    return this.op(
      "Concat",
      dims.map((d) => (typeof d === "number" ? this.ints([d]) : d)),
      { axis: 0 },
    );
  }
  /** Product of dimensions. */
  product(dims: readonly DimX[]): DimX {
    let known = 1;
    let open: Value | undefined;
    for (const d of dims) {
      if (typeof d === "number") known *= d;
      else open = open ? this.op("Mul", [open, d]) : d;
    }
    if (!open) return known;
    return known === 1 ? open : this.op("Mul", [open, this.ints([known])]);
  }

  transpose(x: Value, perm: readonly number[]): Value {
    return perm.every((p, i) => p === i) ? x : this.op("Transpose", [x], { perm });
  }
  /** ReduceSum, ReduceMean, ReduceMax, … with axes as input or attribute, as the opset wants. */
  reduce(op: string, x: Value, axes: readonly number[], keepdims: 0 | 1): Value {
    if (axes.length === 0) return x;
    if (op === "ReduceSum" || this.opset >= 18) return this.op(op, [x, this.ints(axes)], { keepdims });
    return this.op(op, [x], { keepdims, axes });
  }
  zeros(of: Value, dtype: DType = this.dtype(of)): Value {
    return this.like(
      this.op("ConstantOfShape", [this.shapeValue(of)], { value: { kind: "tensor", value: floatTensor([0], [1], dtype) } }),
      of,
    );
  }
  /** 0, 1, … n−1 in the shape of `of`: the flat position of every element. */
  positions(of: Value): Value {
    const s = this.staticShape(of);
    if (s) {
      const n = s.reduce((a, b) => a * b, 1);
      return this.#shared(
        `p${s.join(",")}`,
        () =>
          int64s(
            Array.from({ length: n }, (_, i) => i),
            s,
          ),
        "positions",
      );
    }
    const n = this.op("ReduceProd", [this.shapeValue(of)], { keepdims: 0 });
    return this.reshapeLike(this.op("Range", [this.int(0), n, this.int(1)]), of);
  }
}

/** A small tensor of a float type. float16 and bfloat16 take only values that a power of two or a small integer can be. */
export function floatTensor(values: readonly number[], shape: readonly number[], dtype: DType): TensorData {
  switch (dtype) {
    case "float64":
      return tensorFrom(Float64Array.from(values), shape);
    case "float32":
      return tensorFrom(Float32Array.from(values), shape);
    default:
      throw new TypeError(`internal: gradients in ${dtype}`);
  }
}
