import { intAttr } from "../../../graph/attr.ts";
import type { Node } from "../../../graph/ir.ts";
import { allNodes } from "../../../graph/walk.ts";
import type { DType } from "../../../quant/dtype.ts";
import { codeType, constantNumbers, isQuantize, operandOf, quantizers, shapeOf } from "../trace.ts";
import type { LintRule } from "../types.ts";
import { BUILDER, DOC, isMatrixProduct, isOld, opset, products, rule } from "./common.ts";

/** uint8 codes are taken as int8. */
const builtType = (t: DType): DType => (t === "uint8" ? "int8" : t);

/** The axis of a weight along which its outputs lie; undefined when scales may not differ along any. */
function outputAxis(node: Node): number | undefined {
  const rank = shapeOf(node.inputs[1])?.length;
  if (node.op === "Conv") return 0;
  if (node.op === "ConvTranspose") return 1;
  if (node.op === "Gemm") return intAttr(node, "transB", 0) === 1 ? 0 : 1;
  return rank === undefined ? 1 : rank - 1;
}

/** Rules about the operands of products, sums and Concat. */
export const PRODUCT_RULES: readonly LintRule[] = [
  rule({
    id: "TRT12",
    kind: "reject",
    title: "operands of two types",
    remedy:
      "Give both operands one type (a 4-bit weight requantized to 8 bits behind its DequantizeLinear), or leave the activation float.",
    source: `${BUILDER}: "CHECK(is_constant())" (Gemm), "Input and filter have to be the same type" (float8), "CHECK(dtype == W.type())" (Conv)`,
    *check(model) {
      for (const { node, x, w } of products(model)) {
        if (!x || !w || x.constant || !x.dtype || !w.dtype || builtType(x.dtype) === builtType(w.dtype)) continue;
        // Only what the builder tries to fuse can fail: scales along other axes are dequantized first.
        const fuses =
          x.grain.kind === "tensor" && (w.grain.kind === "tensor" || (w.grain.kind === "channel" && w.grain.axis === outputAxis(node)));
        const float8 = x.dtype === "float8e4m3fn" || w.dtype === "float8e4m3fn";
        const pair = `a weight of ${w.dtype} and an activation of ${x.dtype}`;
        if (node.op === "ConvTranspose") {
          if (w.grain.kind === "tensor" && x.grain.kind === "tensor") yield { at: node, text: pair };
        } else if (w.dtype === "int4" && w.grain.kind === "block") {
          if (x.dtype === "float8e4m3fn" || (node.op === "Gemm" && intAttr(node, "transB", 0) === 1))
            yield { at: node, text: `${pair}, in blocks` };
        } else if (fuses && (float8 || !isMatrixProduct(node) || w.grain.kind === "tensor")) yield { at: node, text: pair };
      }
    },
  }),
  rule({
    id: "TRT17",
    kind: "reject",
    title: "float8 codes are not requantized to int8",
    remedy: "Quantize from the floats, once.",
    source: `${BUILDER}: "Mismatched type for tensor .., i8 vs. expected type:f8"`,
    *check(model) {
      for (const n of quantizers(model)) {
        if (!isQuantize(n) || builtType(codeType(n) ?? "int8") !== "int8") continue;
        const from = operandOf(n.inputs[0], opset(model));
        if (from?.dtype === "float8e4m3fn" && from.constant) yield { at: n, text: "a weight of float8e4m3fn" };
      }
    },
  }),
  rule({
    id: "TRT31",
    kind: "meaning",
    title: "blocked int4 weights and an int8 activation: block scales are applied behind the sum",
    remedy: "Requantize the weight to int8 per channel behind its DequantizeLinear, or leave the activation float.",
    source: `${BUILDER}: plan of int4 block-128 with Q/DQ activation, K = 256 and 512`,
    *check(model) {
      for (const { node, x, w } of products(model))
        if (
          node.op === "MatMul" &&
          x?.dtype === "int8" &&
          !x.constant &&
          w?.dtype === "int4" &&
          w.grain.kind === "block" &&
          w.grain.blocks > 1 &&
          w.path.length === 0
        )
          yield { at: node, text: `${w.grain.blocks} blocks along K` };
    },
  }),
  rule({
    id: "TRT50",
    kind: "slow",
    title: "scales along an axis of sums: the product runs in float",
    remedy: "Quantize the weight along its output channels (Conv 0, MatMul last, Gemm 1, with transB 0).",
    source: `${BUILDER}: correlation i:Float,Float; runtime_fusion i:Int8 c:Float,Int8`,
    *check(model) {
      for (const { node, x, w } of products(model)) {
        if (!x || x.constant || !w?.constant || w.grain.kind !== "channel" || node.op === "ConvTranspose") continue;
        const want = outputAxis(node);
        if (w.grain.axis !== want) yield { at: node, text: `weight scales along axis ${w.grain.axis}, outputs lie along ${want}` };
      }
    },
  }),
  rule({
    id: "TRT51",
    kind: "slow",
    title: "an activation with a scale per channel: the product runs in float",
    remedy: "Give the activation one scale.",
    source: `${BUILDER}: correlation i:Float,Float`,
    *check(model) {
      for (const { node, x } of products(model))
        if (x && !x.constant && x.grain.kind === "channel") yield { at: node, text: `scales along axis ${x.grain.axis}` };
    },
  }),
  rule({
    id: "TRT52",
    kind: "slow",
    title: "an 8-bit ConvTranspose runs in float, its weight dequantized at each run",
    remedy: "Leave it in float.",
    source: `${BUILDER}: deconv i:Float,Float`,
    *check(model, target) {
      if (isOld(target)) return;
      for (const { node, x, w } of products(model))
        if (node.op === "ConvTranspose" && (x || w)) yield { at: node, text: "quantized operands" };
    },
  }),
  rule({
    id: "TRT53",
    kind: "slow",
    title: "int4 without blocks is not fused: the weight is unpacked at each run",
    remedy: "Use blocks of 64 or 128 along K.",
    source: `${BUILDER}: kgen c:Int4 o:Half, then a plain gemm`,
    *check(model) {
      for (const { node, x, w } of products(model))
        if (isMatrixProduct(node) && !x && w?.dtype === "int4" && w.grain.kind !== "block" && w.grain.kind !== "unknown")
          yield { at: node, text: `int4 per ${w.grain.kind}` };
    },
  }),
  rule({
    id: "TRT54",
    kind: "slow",
    title: "a Cast between a 4-bit DequantizeLinear and its product stops the fusion",
    remedy: "Give the scales the type of the product.",
    source: `${BUILDER}: kgen c:Int4 o:Half, then a plain gemm`,
    *check(model) {
      for (const { node, w } of products(model))
        if (w?.dtype === "int4" && w.path.some((n) => n.op === "Cast")) yield { at: node, text: "Cast behind the DequantizeLinear" };
    },
  }),
  rule({
    id: "TRT55",
    kind: "slow",
    title: "one operand is quantized, the other float: the product runs in float",
    remedy: "Quantize both operands, or none.",
    source: `${BUILDER}; ${DOC}: quantize all inputs of weighted operations`,
    *check(model) {
      for (const { node, x, w } of products(model)) {
        if (node.op === "ConvTranspose") continue;
        if (x && !x.constant && !w) yield { at: node, text: "a quantized activation and a float weight" };
        else if (!x && w && node.op === "Conv")
          yield { at: node, text: "a quantized weight and a float activation: dequantized at each run" };
      }
    },
  }),
  rule({
    id: "TRT56",
    kind: "slow",
    title: "Q/DQ on both inputs of a sum: the Conv in front writes twice",
    remedy: "Quantize the skip connection only.",
    source: `${DOC}; ${BUILDER}: a few more scales in the fused kernel`,
    *check(model) {
      for (const n of allNodes(model)) {
        if (n.op !== "Add" || n.domain !== "") continue;
        const sides = n.inputs.map((v) => operandOf(v, opset(model)));
        if (
          sides.length === 2 &&
          sides.every((s) => s && !s.constant) &&
          sides.some((s) => s!.dq.inputs[0]?.producer?.inputs[0]?.producer?.op === "Conv")
        )
          yield { at: n, text: "both inputs" };
      }
    },
  }),
  rule({
    id: "TRT57",
    kind: "slow",
    title: "inputs of a Concat with different scales are requantized",
    remedy: "Give all inputs of the Concat the scale of its output.",
    source: `${DOC}: Q and DQ commute with Concat when the scales are equal`,
    *check(model) {
      for (const n of allNodes(model)) {
        if (n.op !== "Concat" || n.domain !== "") continue;
        const scales = n.inputs.map((v) => operandOf(v, opset(model))).filter((o) => o && !o.constant && o.grain.kind === "tensor");
        const values = new Set(scales.map((o) => constantNumbers(o!.dq.inputs[1])?.[0]));
        if (scales.length > 1 && values.size > 1) yield { at: n, text: `${values.size} different scales` };
      }
    },
  }),
];
