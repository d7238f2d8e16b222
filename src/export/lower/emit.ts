import type { Graph, Node, Value } from "../../graph/ir.ts";
import { floats, type TensorData, tensorFromBytes } from "../../graph/tensor.ts";
import { tensorType } from "../../graph/types.ts";
import type { Coded } from "../../plan/codes.ts";
import { spread } from "../../plan/tensors.ts";
import type { Scheme } from "../../plan/types.ts";
import { byteCount, elementCount, type IntDType, isIntDType } from "../../quant/dtype.ts";
import { paramCount } from "../../quant/encode.ts";
import { type FloatCodeDType, isFloatCodeDType } from "../../quant/float8.ts";
import { qparamShape } from "../../quant/granularity.ts";
import { packCodes } from "../../quant/pack.ts";

export const RULE = "lower";

/** Scale and zero point of a site as constants next to `anchor`: a scalar, a vector, or one for each block. */
export function paramConstants(
  graph: Graph,
  stem: string,
  shape: readonly number[],
  scheme: Scheme,
  scale: Float64Array,
  zeroPoint: Float64Array,
): { readonly scale: Value; readonly zeroPoint: Value } {
  if (!isTensorCode(scheme.dtype)) throw new Error(`internal: no affine parameters of ${scheme.dtype}`);
  const dims = qparamShape(shape, scheme.granularity);
  const n = paramCount(shape, scheme.granularity);
  return {
    scale: graph.constant(floats(spread(scale, n), dims), `${stem}_scale`),
    zeroPoint: graph.constant(codesTensor(spread(zeroPoint, n), dims, scheme.dtype), `${stem}_zero_point`),
  };
}

/** Types of codes that are types of ONNX tensors too. */
export type TensorCode = IntDType | FloatCodeDType;
export const isTensorCode = (d: string): d is TensorCode => isFloatCodeDType(d) || isIntDType(d);

export function codesTensor(codes: ArrayLike<number>, shape: readonly number[], dtype: TensorCode): TensorData {
  if (dtype === "float8e4m3fn") return tensorFromBytes(dtype, shape, Uint8Array.from(codes));
  if (dtype === "float4e2m1") return tensorFromBytes(dtype, shape, packCodes(codes, "uint4"));
  return tensorFromBytes(dtype, shape, packCodes(codes, dtype));
}

/** The codes of a weight in its own layout; of a large one they are made when the file is written. */
export function weightCodes(c: Coded, dtype: TensorCode): TensorData {
  if (!c.large) return codesTensor(c.codes, c.shape, dtype);
  const byteLength = byteCount(dtype, elementCount(c.shape));
  return { dtype, shape: [...c.shape], byteLength, bytes: () => codesTensor(c.codes, c.shape, dtype).bytes() };
}

/** Attributes of a Q or DQ node for a granularity. A scalar has none: `axis` would be ignored. */
export function axisAttrs(scheme: Scheme): Record<string, number> {
  const g = scheme.granularity;
  if (g.kind === "tensor") return {};
  return g.kind === "channel" ? { axis: g.axis } : { axis: g.axis, block_size: g.size };
}

/** A Q node on `input` and a DQ node behind it, just before `before` or at the end of what `input` needs. */
export function quantizePair(
  graph: Graph,
  input: Value,
  stem: string,
  attrs: Record<string, number>,
  p: { readonly scale: Value; readonly zeroPoint: Value },
  place: (spec: Parameters<Graph["append"]>[0]) => Node,
): Value {
  const quantized = graph.freshName(`${stem}_quantized`);
  // A value that its readers take in two types has two pairs: what tells the values apart tells the nodes apart.
  const suffix = quantized.slice(`${stem}_quantized`.length);
  const q = place({
    op: "QuantizeLinear",
    name: `${stem}_QuantizeLinear${suffix}`,
    inputs: [input, p.scale, p.zeroPoint],
    outputs: [quantized],
    attrs,
    origin: { rule: RULE, from: [input.name] },
  });
  const codes = q.outputs[0]!;
  graph.setType(codes, tensorType(p.zeroPoint.data!.dtype, shapeOf(input)));
  const dq = graph.insertAfter(q, {
    op: "DequantizeLinear",
    name: `${stem}_DequantizeLinear${suffix}`,
    inputs: [codes, p.scale, p.zeroPoint],
    outputs: [graph.freshName(`${stem}_dequantized`)],
    attrs,
    origin: { rule: RULE, from: [input.name] },
  });
  const out = dq.outputs[0]!;
  graph.setType(out, tensorType("float32", shapeOf(input)));
  return out;
}

function shapeOf(v: Value) {
  return v.type?.kind === "tensor" ? v.type.shape : undefined;
}

/** Where a node that reads `value` may stand first: behind its producer, or at the start of the graph. */
export function behind(graph: Graph, value: Value): (spec: Parameters<Graph["append"]>[0]) => Node {
  const p = value.producer;
  if (p && p.graph === graph) return (spec) => graph.insertAfter(p, spec);
  const first = graph.nodes[0];
  return first ? (spec) => graph.insertBefore(first, spec) : (spec) => graph.append(spec);
}
