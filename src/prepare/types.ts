import { intAttr } from "../graph/attr.ts";
import type { Graph, Node, Value } from "../graph/ir.ts";
import type { ValueType } from "../graph/types.ts";
import { allGraphs } from "../graph/walk.ts";
import { type DType, dtypeOf } from "../quant/dtype.ts";

/** Types of values, by value. Later knowledge wins over the model's own value_info only where that says nothing. */
export type Types = Map<Value, ValueType>;

/** What the file itself says: constants, inputs, outputs, value_info. */
export function declaredTypes(graph: Graph): Types {
  const out: Types = new Map();
  for (const g of allGraphs(graph)) {
    for (const v of g.values.values()) {
      if (v.data) out.set(v, { kind: "tensor", elem: v.data.dtype, shape: v.data.shape });
      else if (v.type) out.set(v, v.type);
    }
  }
  return out;
}

/**
 * Element types of values that nothing has typed yet, from the operators alone, in execution order and into subgraphs: the runtime's own
 * inference does not reach values inside If, Loop and Scan. Most operators give the type of their first input; `FIXED` lists the others.
 */
export function inferElems(graph: Graph, types: Types): void {
  for (const n of graph.nodes) {
    for (const s of n.subgraphs) {
      enterSubgraph(n, s, types);
      inferElems(s, types);
    }
    n.outputs.forEach((o, i) => {
      if (!o) return;
      const known = types.get(o);
      if (known && (known.kind !== "tensor" || known.elem !== undefined)) return;
      const elem = elemOf(n, i, types);
      if (elem !== undefined) types.set(o, { kind: "tensor", elem, shape: known?.kind === "tensor" ? known.shape : undefined });
    });
  }
}

const typeElem = (v: Value | undefined, types: Types): DType | undefined => {
  const t = v && types.get(v);
  return t?.kind === "tensor" ? t.elem : undefined;
};

/** Inputs of a Loop body: iteration number, condition, states; of a Scan body: states, then slices. */
function enterSubgraph(n: Node, s: Graph, types: Types): void {
  s.inputs.forEach((v, i) => {
    const known = types.get(v);
    if (known && (known.kind !== "tensor" || known.elem !== undefined)) return;
    const elem = n.op === "Loop" && i < 2 ? (i === 0 ? "int64" : "bool") : typeElem(n.inputs[i], types);
    if (elem !== undefined) types.set(v, { kind: "tensor", elem, shape: undefined });
  });
}

function elemOf(n: Node, output: number, types: Types): DType | undefined {
  const at = (i: number) => typeElem(n.inputs[i], types);
  const attr = (name: string, otherwise: DType | undefined) => (n.attrs.has(name) ? dtypeOf(intAttr(n, name, 0)) : otherwise);
  if (n.op === "If") {
    for (const s of n.subgraphs) {
      const e = typeElem(s.outputs[output], types);
      if (e !== undefined) return e;
    }
    return undefined;
  }
  if (n.op === "Loop" || n.op === "Scan") return typeElem(n.subgraphs[0]?.outputs[output + (n.op === "Loop" ? 1 : 0)], types);
  if (n.domain !== "" && n.domain !== "ai.onnx" && n.domain !== "com.microsoft") return undefined;
  const row = FIXED[n.op];
  if (row === undefined) return at(0);
  if (row === null) return undefined;
  if (typeof row === "function") return row(at, output, attr, n);
  return row;
}

type At = (i: number) => DType | undefined;
type OfAttr = (name: string, otherwise: DType | undefined) => DType | undefined;
type ElemRow = DType | null | ((at: At, output: number, attr: OfAttr, n: Node) => DType | undefined);

const second: ElemRow = (at) => at(1);
const indices: ElemRow = (at, o) => (o === 0 ? at(0) : "int64");
const zeroPoint =
  (input: number): ElemRow =>
  (at) =>
    at(input) ?? "uint8";

/** Operators whose outputs do not have the type of input 0. null: no tensor, or not told by the inputs. */
const FIXED: Readonly<Record<string, ElemRow | undefined>> = {
  ArgMax: "int64",
  ArgMin: "int64",
  And: "bool",
  Or: "bool",
  Xor: "bool",
  Not: "bool",
  Equal: "bool",
  Greater: "bool",
  GreaterOrEqual: "bool",
  Less: "bool",
  LessOrEqual: "bool",
  IsInf: "bool",
  IsNaN: "bool",
  OptionalHasElement: "bool",
  Shape: "int64",
  Size: "int64",
  NonZero: "int64",
  NonMaxSuppression: "int64",
  SequenceLength: "int64",
  Cast: (_, __, attr) => attr("to", undefined),
  BitCast: (_, __, attr) => attr("to", undefined),
  CastLike: second,
  Where: second,
  OneHot: (at) => at(2),
  Constant: (_, __, ___, n) => {
    const v = n.attrs.get("value");
    if (v?.kind === "tensor") return v.value.dtype;
    return n.attrs.has("value_float") || n.attrs.has("value_floats")
      ? "float32"
      : n.attrs.has("value_int") || n.attrs.has("value_ints")
        ? "int64"
        : undefined;
  },
  ConstantOfShape: (_, __, ___, n) => {
    const v = n.attrs.get("value");
    return v?.kind === "tensor" ? v.value.dtype : "float32";
  },
  EyeLike: (at, _, attr) => attr("dtype", at(0)),
  Bernoulli: (at, _, attr) => attr("dtype", at(0)),
  Multinomial: (_, __, attr) => attr("dtype", "int32"),
  RandomNormal: (_, __, attr) => attr("dtype", "float32"),
  RandomUniform: (_, __, attr) => attr("dtype", "float32"),
  RandomNormalLike: (at, _, attr) => attr("dtype", at(0)),
  RandomUniformLike: (at, _, attr) => attr("dtype", at(0)),
  BlackmanWindow: (_, __, attr) => attr("output_datatype", "float32"),
  HammingWindow: (_, __, attr) => attr("output_datatype", "float32"),
  HannWindow: (_, __, attr) => attr("output_datatype", "float32"),
  MelWeightMatrix: (_, __, attr) => attr("output_datatype", "float32"),
  Dropout: (at, o) => (o === 0 ? at(0) : "bool"),
  MaxPool: indices,
  TopK: indices,
  Unique: indices,
  TfIdfVectorizer: "float32",
  QuantizeLinear: (at, _, attr) => at(2) ?? attr("output_dtype", "uint8"),
  DequantizeLinear: (at, _, attr) => attr("output_dtype", at(1)),
  DynamicQuantizeLinear: (_, o) => (o === 1 ? "float32" : "uint8"),
  QLinearConv: zeroPoint(7),
  QLinearMatMul: zeroPoint(7),
  ConvInteger: "int32",
  MatMulInteger: "int32",
  MatMulIntegerToFloat: (at) => at(2),
  GatherBlockQuantized: (at) => at(2),
  DynamicQuantizeMatMul: "float32",
  DynamicQuantizeLSTM: "float32",
  ImageDecoder: "uint8",
  RegexFullMatch: "bool",
  StringSplit: (_, o) => (o === 0 ? "string" : "int64"),
  EmbedLayerNormalization: (at) => at(2),
  SequenceConstruct: null,
  SequenceEmpty: null,
  SequenceInsert: null,
  SequenceErase: null,
  SequenceAt: null,
  SequenceMap: null,
  SplitToSequence: null,
  ConcatFromSequence: null,
  Optional: null,
  OptionalGetElement: null,
};
