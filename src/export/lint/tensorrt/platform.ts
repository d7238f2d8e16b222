import type { Model, Node, Value } from "../../../graph/ir.ts";
import { allNodes } from "../../../graph/walk.ts";
import type { DType } from "../../../quant/dtype.ts";
import { codeType, isDequantize, quantizers, typeOf } from "../trace.ts";
import type { LintRule } from "../types.ts";
import { BUILDER, CODES, capability, isMatrixProduct, isOld, OLD, opset, products, rule } from "./common.ts";

/** Operators of ai.onnx that the parser has no importer for (`IParser.supports_operator`, asked for every name). */
const UNSUPPORTED = new Set(
  (
    "AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress ConcatFromSequence ConvInteger " +
    "CumProd DFT DeformConv Det DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Multinomial " +
    "NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt " +
    "SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat " +
    "StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique"
  ).split(" "),
);
/** Compute capability that a type needs. */
const NEEDS: Partial<Record<DType, number>> = { int4: 80, float8e4m3fn: 89, float4e2m1: 100 };

/** Rules about what the parser, a version or an architecture has. */
export const PLATFORM_RULES: readonly LintRule[] = [
  rule({
    id: "TRT05",
    kind: "reject",
    title: "no importer for the operator",
    remedy: "Express it in Q/DQ form and standard float operators.",
    source: `${BUILDER}: IParser.supports_operator`,
    *check(model) {
      for (const n of allNodes(model)) {
        if ((n.domain === "" || n.domain === "ai.onnx") && UNSUPPORTED.has(n.op)) yield { at: n, text: n.op };
        else if (
          n.domain !== "" &&
          n.domain !== "ai.onnx" &&
          n.domain !== "trt" &&
          n.domain !== "trt.plugins" &&
          !model.functions.some((f) => f.domain === n.domain && f.name === n.op)
        )
          yield { at: n, text: `${n.domain}.${n.op} would have to be a plugin` };
      }
    },
  }),
  rule({
    id: "TRT10",
    kind: "reject",
    title: "the architecture lacks the type",
    remedy: "Compile for another architecture, or use int8.",
    source: `${BUILDER}: "Cannot compile for target(s) .., because the model contains HW-specific datatypes"`,
    *check(model, target) {
      const cap = capability(target);
      if (cap === undefined) return;
      const seen = new Set<DType>();
      for (const n of quantizers(model)) {
        const t = codeType(n);
        if (t === undefined || seen.has(t) || (NEEDS[t] ?? 0) <= cap) continue;
        seen.add(t);
        yield { at: n, text: `${t} needs sm${NEEDS[t]}, this is ${target.arch}` };
      }
      for (const n of allNodes(model))
        if (n.domain === "trt" && n.op.includes("FP4") && cap < 100) yield { at: n, text: `float4 needs sm100, this is ${target.arch}` };
    },
  }),
  rule({
    id: "TRT11",
    kind: "reject",
    title: "float32 matrix products do not build for sm75",
    remedy: "Cast the network to float16.",
    source: `${BUILDER}: "Cannot compile operation .. for Turing (SM75): FP32 GEMM is not supported"`,
    *check(model, target) {
      if (capability(target) !== 75) return;
      for (const n of allNodes(model))
        if (isMatrixProduct(n) && realType(n.outputs[0], model, n) === "float32") yield { at: n, text: "its result is float32" };
    },
  }),
  rule({
    id: "TRT13",
    kind: "reject",
    title: "the opset is newer than the parser's",
    remedy: "Write the model at a lower opset.",
    source: "TensorRT 8.6 release notes: opset 17; onnx-tensorrt docs/operators.md: opset 9 to 24",
    *check(model, target) {
      if (opset(model) > target.opset.max)
        yield { at: undefined, text: `opset ${opset(model)}, the parser takes ${target.opset.max} at most` };
    },
  }),
  rule({
    id: "TRT14",
    kind: "reject",
    title: "TensorRT 8.6 needs kernel_shape and zero points written out",
    remedy: "Write kernel_shape on the Conv, and a zero point of 0 on each Q and DQ.",
    source: `${OLD}: "misaligns with the input kernel shape", "vector::_M_range_check"`,
    *check(model, target) {
      if (!isOld(target)) return;
      for (const n of quantizers(model)) if (!n.inputs[2]) yield { at: n, text: "no zero point" };
      for (const { node, w } of products(model))
        if (w && (node.op === "Conv" || node.op === "ConvTranspose") && !node.attrs.has("kernel_shape"))
          yield { at: node, text: "no kernel_shape" };
    },
  }),
  rule({
    id: "TRT15",
    kind: "reject",
    title: "TensorRT 8.6 has int8 only",
    remedy: "Use int8, or TensorRT 10 and later.",
    source: OLD,
    *check(model, target) {
      if (!isOld(target)) return;
      for (const n of quantizers(model)) {
        const t = codeType(n);
        if (t !== undefined && t !== "int8" && CODES.has(t)) yield { at: n, text: `it works on ${t}` };
      }
    },
  }),
  rule({
    id: "TRT32",
    kind: "meaning",
    title: "TensorRT 8.6 reads per-channel scales of a ConvTranspose weight on axis 1 only",
    remedy: "Quantize the weight along axis 1, or per tensor.",
    source: `${OLD}: axis 0 builds and gives an error of 18 %`,
    *check(model, target) {
      if (!isOld(target)) return;
      for (const { node, x, w } of products(model))
        if (node.op === "ConvTranspose" && x && w?.grain.kind === "channel" && w.grain.axis !== 1)
          yield { at: node, text: `scales along axis ${w.grain.axis}` };
    },
  }),
];

/** Type of a value where the file does not state it: that of its producer's data input or scale, followed back. */
function realType(v: Value | undefined, model: Model, from?: Node): DType | undefined {
  if (!v) return undefined;
  const known = typeOf(v);
  if (known) return known;
  const p = v.producer ?? from;
  if (!p) return undefined;
  if (isDequantize(p)) return p.inputs[1] ? realType(p.inputs[1], model) : undefined;
  if (p.op === "Cast") return undefined;
  return realType(p.inputs[0], model);
}
