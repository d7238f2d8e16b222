import { intAttr } from "../../graph/attr.ts";
import { toFloat32 } from "../../graph/constant.ts";
import type { Model, Node, Value } from "../../graph/ir.ts";
import { allNodes } from "../../graph/walk.ts";
import { DTYPES, type DType, dtypeOf, elementCount, isIntDType } from "../../quant/dtype.ts";
import { unpackCodes } from "../../quant/pack.ts";

/** Which elements share a scale, as a Q or DQ node says it. `unknown`: shapes are not known well enough. */
export type Grain =
  | { readonly kind: "tensor" }
  | { readonly kind: "channel"; readonly axis: number }
  | { readonly kind: "block"; readonly axis: number; readonly blocks: number }
  | { readonly kind: "unknown" };

/** A quantized operand of an operator: the DQ that makes it and what lies behind. */
export interface Operand {
  readonly dq: Node;
  readonly dtype: DType | undefined;
  readonly grain: Grain;
  /** Codes that are constants: stored, or made by a Q on a constant. */
  readonly constant: boolean;
  /** Nodes between the DQ and the operator, nearest the DQ first. */
  readonly path: readonly Node[];
  /** A Q on the way behind the DQ's own codes (a weight in 4 bits, requantized to 8). */
  readonly behind: Operand | undefined;
}

type Quantizer = Node & { op: "QuantizeLinear" };
type Dequantizer = Node & { op: "DequantizeLinear" };
export const isQuantize = (n: Node | undefined): n is Quantizer => n !== undefined && n.op === "QuantizeLinear" && STANDARD.has(n.domain);
export const isDequantize = (n: Node | undefined): n is Dequantizer =>
  n !== undefined && n.op === "DequantizeLinear" && STANDARD.has(n.domain);
const STANDARD = new Set(["", "ai.onnx", "com.microsoft"]);
/** Operators that move elements, or cast them: what a quantizer may leave between a DQ and its reader. */
const MOVES = new Set(["Transpose", "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"]);

/** All Q and DQ nodes of a model. */
export function* quantizers(model: Model): Generator<Node> {
  for (const n of allNodes(model)) if (isQuantize(n) || isDequantize(n)) yield n;
}

export function shapeOf(v: Value | undefined): readonly (number | undefined)[] | undefined {
  if (v?.data) return v.data.shape;
  if (v?.type?.kind === "tensor" && v.type.shape) return v.type.shape.map((d) => (typeof d === "number" && d >= 0 ? d : undefined));
  const p = v?.producer;
  // Q and DQ keep the shape of their input, in files that state no shapes.
  return p && (isQuantize(p) || isDequantize(p)) ? shapeOf(p.inputs[0]) : undefined;
}

/** The constant behind a value, through Identity and Cast (TensorRT takes both). */
export function constantBehind(v: Value | undefined): Value | undefined {
  let at = v;
  while (at && !at.data && at.producer && (at.producer.op === "Identity" || at.producer.op === "Cast")) at = at.producer.inputs[0];
  if (at?.data && !at.producer) return at;
  const p = at?.producer;
  if (p?.op !== "Constant") return undefined;
  const a = p.attrs.get("value");
  return a?.kind === "tensor" && at ? Object.assign(Object.create(at) as Value, { data: a.value }) : undefined;
}

/** Elements of a small constant as numbers: zero points and scales. undefined when it is none, or of a type without numbers here. */
export function constantNumbers(v: Value | undefined): ArrayLike<number> | undefined {
  const t = constantBehind(v)?.data;
  if (!t) return undefined;
  if (t.dtype === "float32" || t.dtype === "float16" || t.dtype === "bfloat16" || t.dtype === "float64") return toFloat32(t);
  if (isIntDType(t.dtype)) return unpackCodes(t.bytes(), t.dtype, elementCount(t.shape));
  // float8 and float4: only whether all bits of the magnitude are 0 matters for a zero point.
  if (DTYPES[t.dtype].bits <= 8) return Array.from(t.bytes(), (b) => b & 0x7f);
  return undefined;
}

/** Type of the codes that a Q writes or a DQ reads. */
export function codeType(n: Node): DType | undefined {
  if (isDequantize(n)) {
    const v = n.inputs[0];
    if (v?.data) return v.data.dtype;
    const p = v?.producer;
    if (isQuantize(p)) return codeType(p);
    if (p?.op === "TRT_FP4DynamicQuantize") return v === p.outputs[0] ? "float4e2m1" : "float8e4m3fn";
    const c = constantBehind(v);
    if (c?.data) return c.data.dtype;
    return v?.type?.kind === "tensor" ? v.type.elem : n.inputs[2] && typeOf(n.inputs[2]);
  }
  const z = n.inputs[2];
  if (z) return typeOf(z);
  const out = intAttr(n, "output_dtype", 0);
  return out !== 0 ? dtypeOf(out) : "uint8";
}

export function typeOf(v: Value): DType | undefined {
  return v.data?.dtype ?? constantBehind(v)?.data?.dtype ?? (v.type?.kind === "tensor" ? v.type.elem : undefined);
}

/** The granularity of a Q or DQ node. */
export function grainOf(n: Node, opset: number): Grain {
  const scale = shapeOf(n.inputs[1]);
  const x = shapeOf(n.inputs[0]);
  if (!scale || scale.some((d) => d === undefined)) return { kind: "unknown" };
  const count = elementCount(scale as number[]);
  const axisAttr = intAttr(n, "axis", opset >= 13 ? 1 : 0);
  const axis = axisAttr < 0 ? (x ? axisAttr + x.length : axisAttr) : axisAttr;
  const block = intAttr(n, "block_size", 0);
  if (block > 0 || scale.length > 1) {
    if (scale.length === 1 && block === 0) return count === 1 ? { kind: "tensor" } : { kind: "channel", axis };
    const blocks = scale[axis];
    return blocks === undefined ? { kind: "unknown" } : { kind: "block", axis, blocks };
  }
  return count === 1 ? { kind: "tensor" } : { kind: "channel", axis };
}

/** The quantized operand that a value is; undefined when it does not come from a DQ (through data movement). */
export function operandOf(v: Value | undefined, opset: number): Operand | undefined {
  const path: Node[] = [];
  let at = v;
  while (at?.producer && !isDequantize(at.producer) && MOVES.has(at.producer.op)) {
    path.unshift(at.producer);
    at = at.producer.inputs[0];
  }
  const dq = at?.producer;
  if (!isDequantize(dq)) return undefined;
  const codes = dq.inputs[0];
  const q = codes?.producer;
  const behind = isQuantize(q) ? operandOf(q.inputs[0], opset) : undefined;
  const constant =
    constantBehind(codes) !== undefined || (isQuantize(q) && (constantBehind(q.inputs[0]) !== undefined || behind?.constant === true));
  let grain = grainOf(dq, opset);
  for (const n of path) grain = moved(grain, n);
  return { dq, dtype: codeType(dq), grain, constant, path, behind };
}

/** The granularity behind a Transpose; other movements lose track of the axis. */
function moved(g: Grain, n: Node): Grain {
  if (g.kind === "tensor" || g.kind === "unknown" || n.op === "Cast" || n.op === "Identity") return g;
  const a = n.attrs.get("perm");
  if (n.op === "Transpose" && a?.kind === "ints") return { ...g, axis: a.value.findIndex((p) => Number(p) === g.axis) };
  if (n.op === "Transpose") return { ...g, axis: (shapeOf(n.inputs[0])?.length ?? 2) - 1 - g.axis };
  return { kind: "unknown" };
}
