import { DTYPES, type DType, dtypeOf } from "../quant/dtype.ts";
import { intAttr } from "./attr.ts";
import type { Node, Value } from "./ir.ts";

/** Operators whose output has one type whatever their inputs are. */
const FIXED: Readonly<Record<string, readonly DType[]>> = {
  ...Object.fromEntries(["Shape", "Size", "NonZero", "ArgMax", "ArgMin", "NonMaxSuppression"].map((op) => [op, ["int64"]])),
  ...Object.fromEntries(
    ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"].map((op) => [op, ["bool"]]),
  ),
  DynamicQuantizeLinear: ["uint8", "float32", "uint8"],
  MatMulInteger: ["int32"],
  ConvInteger: ["int32"],
};
/** Operators whose first output has the type of another input than the first. */
const LIKE: Readonly<Record<string, number>> = { Where: 1, CastLike: 1, OneHot: 2, DequantizeLinear: 1, GatherBlockQuantized: 2 };
/** Second outputs that are no floats. */
const SECOND: Readonly<Record<string, DType>> = { TopK: "int64", MaxPool: "int64", Dropout: "bool", Unique: "int64" };
/** Sources whose attribute names their type. */
const SOURCES = new Set(["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "EyeLike", "Bernoulli", "Multinomial"]);

/** Element types as the operators give them, where nothing states them. Values that are no tensors, and what cannot be told, are undefined. */
export class Elements {
  readonly #known = new Map<Value, DType | undefined>();

  of(v: Value): DType | undefined {
    if (this.#known.has(v)) return this.#known.get(v);
    const stated = v.data?.dtype ?? (v.type?.kind === "tensor" ? v.type.elem : undefined);
    const found = stated ?? (v.producer && this.#made(v.producer, v.producer.outputs.indexOf(v)));
    this.#known.set(v, found);
    return found;
  }

  #made(n: Node, output: number): DType | undefined {
    if (n.subgraphs.length > 0) {
      // The branches of If give its outputs; of Loop and Scan, states come first and keep their types.
      const inner = n.op === "If" ? n.subgraphs[0]?.outputs[output] : undefined;
      return inner && this.of(inner);
    }
    const fixed = FIXED[n.op];
    if (fixed) return fixed[output];
    if (output === 1 && SECOND[n.op]) return SECOND[n.op];
    if (n.op === "Cast") return dtypeOf(intAttr(n, "to", 0));
    if (SOURCES.has(n.op)) return dtypeOf(intAttr(n, "dtype", n.op === "Multinomial" ? DTYPES.int32.code : DTYPES.float32.code));
    if (n.op === "ConstantOfShape" || n.op === "Constant") {
      const a = n.attrs.get("value");
      if (a?.kind === "tensor") return a.value.dtype;
      if (n.op === "ConstantOfShape" || n.attrs.has("value_float") || n.attrs.has("value_floats")) return "float32";
      return n.attrs.has("value_int") || n.attrs.has("value_ints") ? "int64" : undefined;
    }
    if (n.op === "QuantizeLinear") {
      const zero = n.inputs[2];
      return zero ? this.of(zero) : (dtypeOf(intAttr(n, "output_dtype", 0)) ?? "uint8");
    }
    const like = n.inputs[LIKE[n.op] ?? 0];
    return like && this.of(like);
  }
}
