import type { Node } from "../graph/ir.ts";
import { isMicrosoftOp, type MicrosoftOp, ONNX_OPS, type OnnxOp } from "../graph/ops/names.ts";
import { type NoGradient, none, quiet, type Rule } from "./rule.ts";
import * as b from "./rules/binary.ts";
import { conv, convTranspose } from "./rules/conv.ts";
import * as u from "./rules/elementwise.ts";
import { einsum, gemm, matmul } from "./rules/matmul.ts";
import * as m from "./rules/move.ts";
import * as n from "./rules/norm.ts";
import * as p from "./rules/pool.ts";
import * as d from "./rules/reduce.ts";
import { resize } from "./rules/resize.ts";

const step = none("piecewise constant: its slope is zero almost everywhere");
const integer = quiet("works on integers, indices or shapes");
const logic = quiet("its result is true or false");
const source = none("makes a value without float inputs");
const random = none("draws random numbers");
const control = none("holds subgraphs: a frozen boundary");
const recurrent = none("a recurrence inside one operator: a frozen boundary");
const container = none("sequences, optionals and strings");
const quantized = none("a quantized operator: training starts from the float graph");
const choice = none("chooses boxes or classes");
const rare = (what: string) => none(`not written: ${what}`);
const loss = none("losses are built from LogSoftmax and GatherElements");
const pair = none("training puts fake quantization with its own slope in the place of Q/DQ pairs");

/** One row per operator of ai.onnx. "No gradient" is a row with its reason; an operator without a row does not compile. */
export const GRADIENTS = {
  Abs: u.abs,
  Acos: u.acos,
  Acosh: u.acosh,
  Add: b.add,
  AffineGrid: rare("coordinates for GridSample"),
  And: logic,
  ArgMax: integer,
  ArgMin: integer,
  Asin: u.asin,
  Asinh: u.asinh,
  Atan: u.atan,
  Atanh: u.atanh,
  Attention: rare("one operator for a whole attention block; decompose it first"),
  AveragePool: p.averagePool,
  BatchNormalization: n.batchNorm,
  Bernoulli: random,
  BitCast: integer,
  BitShift: integer,
  BitwiseAnd: integer,
  BitwiseNot: integer,
  BitwiseOr: integer,
  BitwiseXor: integer,
  BlackmanWindow: source,
  Cast: u.cast,
  CastLike: u.cast,
  CausalConvWithState: rare("a convolution with a carried state"),
  Ceil: step,
  Celu: u.celu,
  CenterCropPad: rare("crop and pad to a computed shape"),
  Clip: u.clip,
  Col2Im: rare("the transpose of im2col"),
  Compress: rare("a selection of computed size"),
  Concat: m.concat,
  ConcatFromSequence: container,
  Constant: source,
  ConstantOfShape: source,
  Conv: conv,
  ConvInteger: quantized,
  ConvTranspose: convTranspose,
  Cos: u.cos,
  Cosh: u.cosh,
  CumProd: rare("a running product"),
  CumSum: d.cumSum,
  DFT: rare("complex arithmetic"),
  DeformConv: rare("a convolution with learned offsets"),
  DepthToSpace: m.depthToSpace,
  DequantizeLinear: pair,
  Det: rare("needs an inverse"),
  Div: b.div,
  Dropout: u.dropout,
  DynamicQuantizeLinear: quantized,
  Einsum: einsum,
  Elu: u.elu,
  Equal: logic,
  Erf: u.erf,
  Exp: u.exp,
  Expand: m.expand,
  EyeLike: source,
  Flatten: m.sameOrder,
  Floor: step,
  GRU: recurrent,
  Gather: m.gather,
  GatherElements: m.gatherElements,
  GatherND: m.gatherND,
  Gelu: u.gelu,
  Gemm: gemm,
  GlobalAveragePool: p.globalAveragePool,
  GlobalLpPool: rare("pooling by a p-norm"),
  GlobalMaxPool: p.globalMaxPool,
  Greater: logic,
  GreaterOrEqual: logic,
  GridSample: rare("sampling at computed coordinates"),
  GroupNormalization: n.groupNorm,
  HammingWindow: source,
  HannWindow: source,
  HardSigmoid: u.hardSigmoid,
  HardSwish: u.hardSwish,
  Hardmax: step,
  Identity: u.identity,
  If: control,
  ImageDecoder: container,
  InstanceNormalization: n.instanceNorm,
  IsInf: logic,
  IsNaN: logic,
  LRN: rare("normalization across channels; pre-2015 networks"),
  LSTM: recurrent,
  LayerNormalization: n.layerNorm,
  LeakyRelu: u.leakyRelu,
  Less: logic,
  LessOrEqual: logic,
  LinearAttention: recurrent,
  Log: u.log,
  LogSoftmax: d.logSoftmax,
  Loop: control,
  LpNormalization: n.lpNorm,
  LpPool: rare("pooling by a p-norm"),
  MatMul: matmul,
  MatMulInteger: quantized,
  Max: b.extreme,
  MaxPool: p.maxPool,
  MaxRoiPool: rare("pooling over computed regions"),
  MaxUnpool: rare("the inverse of MaxPool"),
  Mean: b.mean,
  MeanVarianceNormalization: rare("normalization without parameters; decompose it first"),
  MelWeightMatrix: source,
  Min: b.extreme,
  Mish: u.mish,
  Mod: b.mod,
  Mul: b.mul,
  Multinomial: random,
  Neg: u.neg,
  NegativeLogLikelihoodLoss: loss,
  NonMaxSuppression: choice,
  NonZero: integer,
  Not: logic,
  OneHot: integer,
  Optional: container,
  OptionalGetElement: container,
  OptionalHasElement: container,
  Or: logic,
  PRelu: u.prelu,
  Pad: m.pad,
  Pow: b.pow,
  QLinearConv: quantized,
  QLinearMatMul: quantized,
  QuantizeLinear: pair,
  RMSNormalization: n.rmsNorm,
  RNN: recurrent,
  RandomNormal: random,
  RandomNormalLike: random,
  RandomUniform: random,
  RandomUniformLike: random,
  Range: source,
  Reciprocal: u.reciprocal,
  ReduceL1: d.reduceL1,
  ReduceL2: d.reduceL2,
  ReduceLogSum: d.reduceLogSum,
  ReduceLogSumExp: d.reduceLogSumExp,
  ReduceMax: d.reduceExtreme,
  ReduceMean: d.reduceMean,
  ReduceMin: d.reduceExtreme,
  ReduceProd: rare("a product over elements divides by each of them"),
  ReduceSum: d.reduceSum,
  ReduceSumSquare: d.reduceSumSquare,
  RegexFullMatch: container,
  Relu: u.relu,
  Reshape: m.sameOrder,
  Resize: resize,
  ReverseSequence: m.reverseSequence,
  RoiAlign: rare("pooling over computed regions"),
  RotaryEmbedding: rare("one operator for a rotation; decompose it first"),
  Round: step,
  STFT: rare("complex arithmetic"),
  Scan: control,
  Scatter: rare("replaced by ScatterElements in opset 11"),
  ScatterElements: m.scatterElements,
  ScatterND: m.scatterND,
  Selu: u.selu,
  SequenceAt: container,
  SequenceConstruct: container,
  SequenceEmpty: container,
  SequenceErase: container,
  SequenceInsert: container,
  SequenceLength: container,
  SequenceMap: control,
  Shape: integer,
  Shrink: u.shrink,
  Sigmoid: u.sigmoid,
  Sign: step,
  Sin: u.sin,
  Sinh: u.sinh,
  Size: integer,
  Slice: m.slice,
  Softmax: d.softmax,
  SoftmaxCrossEntropyLoss: loss,
  Softplus: u.softplus,
  Softsign: u.softsign,
  SpaceToDepth: m.spaceToDepth,
  Split: m.split,
  SplitToSequence: container,
  Sqrt: u.sqrt,
  Squeeze: m.sameOrder,
  StringConcat: container,
  StringNormalizer: container,
  StringSplit: container,
  Sub: b.sub,
  Sum: b.sum,
  SwiGLU: rare("one operator for a gated product; decompose it first"),
  Swish: u.swish,
  Tan: u.tan,
  Tanh: u.tanh,
  TensorScatter: rare("a cache update"),
  TfIdfVectorizer: container,
  ThresholdedRelu: u.thresholdedRelu,
  Tile: m.tile,
  TopK: d.topK,
  Transpose: m.transpose,
  Trilu: m.trilu,
  Unique: integer,
  Unsqueeze: m.sameOrder,
  Upsample: rare("replaced by Resize in opset 10"),
  Where: b.where,
  Xor: logic,
} as const satisfies Record<OnnxOp, Rule | NoGradient>;

/** Operators of com.microsoft that are differentiated; the rest of that domain is fused by a runtime after training, not before. */
const MICROSOFT: Partial<Record<MicrosoftOp, Rule>> = {
  Gelu: u.gelu,
  SimplifiedLayerNormalization: n.rmsNorm,
};

/** The row of a node. Operators of other domains have none. */
export function gradientOf(node: Node): Rule | NoGradient {
  if (node.domain === "" || node.domain === "ai.onnx") {
    if (Object.hasOwn(GRADIENTS, node.op)) return GRADIENTS[node.op as OnnxOp];
    if (node.op === "SimplifiedLayerNormalization") return n.rmsNorm; // onnxruntime writes it into ai.onnx
  }
  if (node.domain === "com.microsoft" && isMicrosoftOp(node.op)) {
    return MICROSOFT[node.op] ?? none("an operator that onnxruntime fuses; train the graph before fusing");
  }
  return none(`an operator of the domain "${node.domain || "ai.onnx"}" that this version does not know`);
}

/** Operator to "" (differentiated) or the reason why not: for the generated table in docs. */
export function gradientTable(): ReadonlyMap<OnnxOp, string> {
  return new Map(
    ONNX_OPS.map((op) => {
      const row: Rule | NoGradient = GRADIENTS[op];
      return [op, typeof row === "function" ? "" : row.none] as const;
    }),
  );
}
