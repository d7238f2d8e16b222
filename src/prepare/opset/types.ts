import { intAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import { type DType, dtypeOf } from "../../quant/dtype.ts";

/** Operators whose first output has the element type of their first input. */
const SAME = new Set(
  `Abs Acos Acosh Add Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Concat Conv ConvTranspose Cos Cosh DepthToSpace
  Div Dropout Elu Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
  GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax
  LpNormalization LpPool MatMul Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg PRelu Pad Pow RNN Reciprocal
  ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
  ReverseSequence RoiAlign Round Scatter ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign
  SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample`.split(/\s+/),
);

/** The element type of a value: said by the model, or followed back through operators that keep it. undefined: unknown. */
export function elemOf(v: Value | undefined): DType | undefined {
  for (let at = v; at; ) {
    if (at.data) return at.data.dtype;
    if (at.type?.kind === "tensor" && at.type.elem !== undefined) return at.type.elem;
    const p = at.producer;
    if (p?.domain !== "") return undefined;
    if (p.op === "Cast") return dtypeOf(intAttr(p, "to", 0));
    if (p.op === "Constant") {
      const a = p.attrs.get("value");
      return a?.kind === "tensor" ? a.value.dtype : undefined;
    }
    if (p.op === "Where") at = p.inputs[1];
    else if (p.op === "DequantizeLinear") at = p.inputs[1];
    else if (SAME.has(p.op) && (p.outputs[0] === at || p.op === "Split")) at = p.inputs[0];
    else return undefined;
  }
  return undefined;
}

/** Rank of a value; undefined: unknown. */
export function rankOf(v: Value | undefined): number | undefined {
  if (v?.data) return v.data.shape.length;
  return v?.type?.kind === "tensor" ? v.type.shape?.length : undefined;
}
