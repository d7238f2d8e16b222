import { intAttr } from "../../../graph/attr.ts";
import type { Node } from "../../../graph/ir.ts";
import { allNodes } from "../../../graph/walk.ts";
import { since } from "../../../plan/targets/tensorrt.ts";
import { DTYPES, dtypeOf } from "../../../quant/dtype.ts";
import { codeType, isDequantize, operandOf, quantizers, shapeOf, typeOf } from "../trace.ts";
import type { LintRule } from "../types.ts";
import { BUILDER, isMatrixProduct, opset, products, rule } from "./common.ts";

/** TensorRT's dynamic quantizers: the block size that each takes, and the version that brought it. */
const DYNAMIC: Readonly<Record<string, { readonly size: number; readonly since: readonly [number, number] }>> = {
  TRT_FP4DynamicQuantize: { size: 16, since: [10, 8] },
  TRT_MXFP8DynamicQuantize: { size: 32, since: [10, 12] },
};
const dynamicOf = (n: Node | undefined) => (n?.domain === "trt" ? DYNAMIC[n.op] : undefined);

/** Rules about NVFP4 and MXFP8. */
export const BLOCK_FLOAT_RULES: readonly LintRule[] = [
  rule({
    id: "TRT18",
    kind: "reject",
    title: "a dynamic quantizer takes whole blocks along one of the last two axes of a value of rank 2 or 3",
    remedy: "Reshape the value, or leave this product in another type.",
    source: `${BUILDER}: "input tensor must be 2D or 3D", "block size does not divide the input extent", "Only block_size == 16", "scale_type must be FP8"`,
    *check(model) {
      for (const n of allNodes(model)) {
        const d = dynamicOf(n);
        if (!d) continue;
        const size = intAttr(n, "block_size", d.size);
        const shape = shapeOf(n.inputs[0]);
        const rank = shape?.length;
        const axis = intAttr(n, "axis", -1);
        const at = rank === undefined || axis >= 0 ? axis : axis + rank;
        const length = shape?.[at];
        if (size !== d.size) yield { at: n, text: `block_size ${size}, it takes ${d.size}` };
        else if (n.op === "TRT_FP4DynamicQuantize" && intAttr(n, "scale_type", DTYPES.float8e4m3fn.code) !== DTYPES.float8e4m3fn.code)
          yield { at: n, text: "scale_type is not float8 e4m3" };
        else if (n.op === "TRT_FP4DynamicQuantize" && !n.inputs[1]) yield { at: n, text: "no scale of the tensor" };
        else if (rank !== undefined && rank !== 2 && rank !== 3) yield { at: n, text: `a value of rank ${rank}` };
        else if (rank !== undefined && at < rank - 2) yield { at: n, text: `blocks along axis ${at} of a value of rank ${rank}` };
        else if (length !== undefined && length % size !== 0) yield { at: n, text: `${length} elements in blocks of ${size}` };
      }
    },
  }),
  rule({
    id: "TRT19",
    kind: "reject",
    title: "float4 codes come back in the type of their scales",
    remedy: "Leave output_dtype out, and put a Cast behind the DequantizeLinear.",
    source: `${BUILDER}: "Could not infer output types for operation: dequantize"`,
    *check(model) {
      for (const n of quantizers(model)) {
        const out = isDequantize(n) && codeType(n) === "float4e2m1" ? intAttr(n, "output_dtype", 0) : 0;
        const scale = n.inputs[1] && (typeOf(n.inputs[1]) ?? typeOfScales(n));
        if (out !== 0 && scale !== undefined && dtypeOf(out) !== scale) yield { at: n, text: `${dtypeOf(out)} from scales of ${scale}` };
      }
    },
  }),
  rule({
    id: "TRT20",
    kind: "reject",
    title: "this version does not have the operator",
    remedy: "Name TensorRT 10.12 or later, or use another recipe.",
    source: "onnx-tensorrt docs/Changelog.md: float4 with 10.8, TRT_MXFP8 operators with 10.12",
    *check(model, target) {
      for (const n of allNodes(model)) {
        const d = dynamicOf(n);
        if (d && !since(target.version, ...d.since)) yield { at: n, text: `${n.op} came with ${d.since.join(".")}` };
      }
    },
  }),
  rule({
    id: "TRT21",
    kind: "reject",
    title: "a weight of MXFP8 has two blocks or more",
    remedy: "Leave a product of 32 inputs in another type.",
    source: `${BUILDER}: "operand.h:524: CHECK(is_constant()) failed" with K = 32`,
    *check(model) {
      for (const n of allNodes(model)) {
        const codes = n.op === "TRT_MXFP8DequantizeLinear" && n.inputs[0]?.isConstant ? shapeOf(n.inputs[0]) : undefined;
        const scales = shapeOf(n.inputs[1]);
        const axis = codes && (intAttr(n, "axis", -1) + codes.length) % codes.length;
        if (axis !== undefined && scales?.[axis] === 1) yield { at: n, text: `${codes?.[axis]} elements along axis ${axis}` };
      }
    },
  }),
  rule({
    id: "TRT58",
    kind: "slow",
    title: "float4 weights without float4 activations are unpacked at each run",
    remedy: "Quantize the activation through TRT_FP4DynamicQuantize, or use int4 weights.",
    source: `${BUILDER}: gemm i:Half,Half behind a dequantizing kernel; with the dynamic quantizer gemm i:FP4E2M1,FP8 c:FP4E2M1`,
    *check(model) {
      for (const { node, x, w } of products(model)) {
        if (w?.dtype !== "float4e2m1") continue;
        if (x?.dq.inputs[0]?.producer?.op !== "TRT_FP4DynamicQuantize")
          yield { at: node, text: x ? "a static activation" : "a float activation" };
      }
    },
  }),
  rule({
    id: "TRT59",
    kind: "slow",
    title: "MXFP8 operands are multiplied in the float type by builders without kernels of it",
    remedy: "Ask the builder of the device (--with-builder), or use fp8.",
    source: `${BUILDER}: sm120 and sm121 multiply Half behind dequantizing kernels`,
    *check(model) {
      for (const n of allNodes(model)) {
        if (!isMatrixProduct(n)) continue;
        const mx = n.inputs.slice(0, 2).every((v) => behindMoves(v?.producer)?.op === "TRT_MXFP8DequantizeLinear");
        if (mx && !operandOf(n.inputs[0], opset(model))) yield { at: n, text: "both operands" };
      }
    },
  }),
];

/** Scales of two levels have the type of the second. */
function typeOfScales(n: Node) {
  const p = n.inputs[1]?.producer;
  const second = isDequantize(p) ? p.inputs[1] : undefined;
  return second && typeOf(second);
}

function behindMoves(n: Node | undefined): Node | undefined {
  let at = n;
  while (at && (at.op === "Cast" || at.op === "Transpose")) at = at.inputs[0]?.producer;
  return at;
}
