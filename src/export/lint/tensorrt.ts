import { intAttr } from "../../graph/attr.ts";
import type { Model, Node, Value } from "../../graph/ir.ts";
import { opFacts } from "../../graph/ops/index.ts";
import { allNodes } from "../../graph/walk.ts";
import type { Target } from "../../plan/target.ts";
import type { DType } from "../../quant/dtype.ts";
import {
  codeType,
  constantBehind,
  constantNumbers,
  grainOf,
  isDequantize,
  isQuantize,
  operandOf,
  quantizers,
  shapeOf,
  typeOf,
} from "./trace.ts";
import type { LintRule } from "./types.ts";

const BUILDER = "experiment: parser and builder of TensorRT-RTX 1.7.1";
const OLD = "experiment: parser and builder of TensorRT 8.6.0";
const DOC = "NVIDIA TensorRT documentation, Q/DQ Layer-Placement Recommendations";
const on = ["tensorrt"] as const;
const opset = (m: Model): number => m.opsets.get("") ?? 1;
const isOld = (t: Target): boolean => t.version !== undefined && Number.parseFloat(t.version) < 9;
const capability = (t: Target): number | undefined => (t.arch === undefined ? undefined : Number(t.arch.slice(2)));
const rule = (r: Omit<LintRule, "targets">): LintRule => ({ ...r, targets: on });

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
/** Constants that the parser imports. Everything else fails before the first node. */
const IMPORTED: ReadonlySet<DType> = new Set([
  "float32",
  "float16",
  "bfloat16",
  "float64",
  "int8",
  "uint8",
  "int32",
  "int64",
  "bool",
  "float8e4m3fn",
  "int4",
  "float4e2m1",
]);
/** Types of codes in TensorRT's Q and DQ layers. */
const CODES: ReadonlySet<DType> = new Set(["int8", "float8e4m3fn", "int4", "float4e2m1"]);
/** Compute capability that a type needs. */
const NEEDS: Partial<Record<DType, number>> = { int4: 80, float8e4m3fn: 89, float4e2m1: 100 };

function* constants(model: Model): Generator<Value> {
  const graphs = [model.graph];
  for (let g = graphs.pop(); g; g = graphs.pop()) {
    yield* g.initializers;
    for (const n of g.nodes) graphs.push(...n.subgraphs);
  }
}
const used = (v: Value): Node | undefined => v.uses[0]?.node;
const isProduct = (n: Node): boolean => n.domain === "" && opFacts(n)?.trait === "compute";
/** Products whose operands are matrices: the weight has one axis of sums. */
const isMatrixProduct = (n: Node): boolean => isProduct(n) && (n.op === "MatMul" || n.op === "Gemm");

/** Products with what their operands are. */
function* products(model: Model): Generator<{ node: Node; x: ReturnType<typeof operandOf>; w: ReturnType<typeof operandOf> }> {
  const at = opset(model);
  for (const node of allNodes(model))
    if (isProduct(node)) yield { node, x: operandOf(node.inputs[0], at), w: operandOf(node.inputs[1], at) };
}

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

export const TENSORRT_RULES: readonly LintRule[] = [
  rule({
    id: "TRT01",
    kind: "reject",
    title: "zero points must be 0",
    remedy: "Quantize symmetrically: int8 with zero point 0.",
    source: `${BUILDER}: shiftIsAllZeros(zeroPoint)`,
    *check(model) {
      for (const n of quantizers(model)) {
        const z = constantNumbers(n.inputs[2]);
        const at = z === undefined ? -1 : Array.from(z).findIndex((x) => x !== 0);
        if (at >= 0) yield { at: n, text: `zero point ${z![at]} of ${n.inputs[2]!.name}` };
      }
    },
  }),
  rule({
    id: "TRT02",
    kind: "reject",
    title: "a zero point must be a constant",
    remedy: "Store it as an initializer.",
    source: "onnx-tensorrt QuantDequantLinearHelper: zero point through Constant or Constant and Cast only",
    *check(model) {
      for (const n of quantizers(model)) {
        const z = n.inputs[2];
        if (z && !constantBehind(z)) yield { at: n, text: `${z.name} is computed at run time` };
      }
    },
  }),
  rule({
    id: "TRT03",
    kind: "reject",
    title: "codes are int8, float8 e4m3, int4 or float4",
    remedy: "Write int8 codes. A bias stays float: leave it out of quantization.",
    source: `${BUILDER}: "input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8", "Found unsupported input type of UINT8"`,
    *check(model) {
      for (const n of quantizers(model)) {
        if (!isDequantize(n) || isQuantize(n.inputs[0]?.producer)) continue;
        const t = codeType(n);
        if (t !== undefined && !CODES.has(t)) yield { at: n, text: `it reads ${t}${n.inputs[0]?.data ? " constants" : ""}` };
      }
    },
  }),
  rule({
    id: "TRT04",
    kind: "reject",
    title: "constants of this type are not imported",
    remedy: "Use int8 (or int4, float8 e4m3) codes.",
    source: `${BUILDER}: "Failed to import initializer"`,
    *check(model) {
      for (const v of constants(model))
        if (v.data && !IMPORTED.has(v.data.dtype) && used(v)) yield { at: used(v), text: `${v.name} is ${v.data.dtype}` };
    },
  }),
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
    id: "TRT06",
    kind: "reject",
    title: "scales are above 0",
    remedy: "Give a dead channel a small positive scale.",
    source: 'onnx-tensorrt: "Scale coefficients must all be positive"',
    *check(model) {
      for (const n of quantizers(model)) {
        const s = constantNumbers(n.inputs[1]);
        if (s && Array.from(s).some((x) => !(x > 0))) yield { at: n, text: `a scale in ${n.inputs[1]!.name} is not above 0` };
      }
    },
  }),
  rule({
    id: "TRT07",
    kind: "reject",
    title: "scales do not fit the tensor",
    remedy: "One scale, one for each element of the axis, or one for each block.",
    source: 'onnx-tensorrt: "The number of scales is not equal to the number of output channels", "Invalid rank for the scale tensor"',
    *check(model) {
      for (const n of quantizers(model)) {
        const [s, x] = [shapeOf(n.inputs[1]), shapeOf(n.inputs[0])];
        if (!s || !x) continue;
        const g = grainOf(n, opset(model));
        if (g.kind === "channel" && (g.axis < 0 || g.axis >= x.length || (x[g.axis] !== undefined && x[g.axis] !== s[0])))
          yield { at: n, text: `${s[0]} scales along axis ${g.axis} of [${x.map((d) => d ?? "?")}]` };
        else if (s.length > 1 && s.length !== x.length)
          yield { at: n, text: `scales of rank ${s.length} for a tensor of rank ${x.length}` };
      }
    },
  }),
  rule({
    id: "TRT08",
    kind: "reject",
    title: "blocks lie along one of the last two axes",
    remedy: "Leave such a weight unblocked; a Conv weight takes one scale an output channel.",
    source: `${BUILDER}: "The blocking dimension must be the last or second to last dimension"`,
    *check(model) {
      for (const n of quantizers(model)) {
        const g = grainOf(n, opset(model));
        const rank = shapeOf(n.inputs[0])?.length;
        if (g.kind === "block" && rank !== undefined && g.axis < rank - 2)
          yield { at: n, text: `blocks along axis ${g.axis} of a tensor of rank ${rank}` };
      }
    },
  }),
  rule({
    id: "TRT09",
    kind: "reject",
    title: "4-bit tensors have an even number of elements",
    remedy: "Pad the tensor, or keep it in 8 bits.",
    source: `${BUILDER}: "4-bit quantization requies an even number of elements"`,
    *check(model) {
      for (const n of quantizers(model)) {
        const t = codeType(n);
        const shape = shapeOf(n.inputs[0]);
        if ((t !== "int4" && t !== "float4e2m1") || !shape?.every((x) => x !== undefined)) continue;
        if (shape.every((x) => x! % 2 === 1)) yield { at: n, text: `[${shape}]` };
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
    id: "TRT16",
    kind: "reject",
    title: "blocks are whole: their number divides the axis",
    remedy: "Choose a block size that divides the axis.",
    source: `${BUILDER}: "The quantization axis must divide into whole blocks"`,
    *check(model) {
      for (const n of quantizers(model)) {
        const g = grainOf(n, opset(model));
        const length = g.kind === "block" ? shapeOf(n.inputs[0])?.[g.axis] : undefined;
        if (g.kind === "block" && length !== undefined && (g.blocks === 0 || length % g.blocks !== 0))
          yield { at: n, text: `${g.blocks} blocks along ${length} elements` };
      }
    },
  }),
  rule({
    id: "TRT30",
    kind: "meaning",
    title: "uint8 with zero point 0 becomes int8: values above 127 saturate",
    remedy: "Quantize to int8 with zero point 0 and a scale of absmax / 127.",
    source: `${BUILDER}: "supports QuantizeLinear/DequantizeLinear with UINT8 zero_point only on DLA. Defaulting to INT8"`,
    *check(model) {
      for (const n of quantizers(model)) {
        if (!isQuantize(n) || codeType(n) !== "uint8") continue;
        const z = constantNumbers(n.inputs[2]);
        // Without zero point and output type, ONNX means uint8 and TensorRT int8.
        if (z === undefined ? !n.inputs[2] : Array.from(z).every((x) => x === 0))
          yield { at: n, text: n.inputs[2] ? "uint8 codes" : "no zero point: ONNX means uint8, TensorRT int8" };
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
    id: "TRT33",
    kind: "meaning",
    title: "TensorRT takes the axis length over the number of blocks as the block size",
    remedy: "Choose a block size that divides the axis.",
    source: `${BUILDER}: blocks are counted by the shape of the scales; block_size is not read`,
    *check(model) {
      for (const n of quantizers(model)) {
        const g = grainOf(n, opset(model));
        const size = intAttr(n, "block_size", 0);
        const length = g.kind === "block" ? shapeOf(n.inputs[0])?.[g.axis] : undefined;
        if (g.kind === "block" && size > 0 && length !== undefined && length % g.blocks === 0 && length / g.blocks !== size && g.blocks > 1)
          yield { at: n, text: `block_size ${size}, ${g.blocks} blocks along ${length} elements` };
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
