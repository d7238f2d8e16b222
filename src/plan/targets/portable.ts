import { lowestOpset, type Target, type WeightRow } from "../target.ts";

const INT8: WeightRow = { dtype: "int8", per: ["channel", "tensor"], symmetricOnly: true, form: "qdq", withActivation: true };
const INT8_ONLY: WeightRow = { ...INT8, withActivation: false };
const DYNAMIC: WeightRow = { ...INT8, form: "matmul-integer" };
const UINT8_ONLY: WeightRow = { ...INT8_ONLY, dtype: "uint8" };
const INT4: WeightRow = { dtype: "int4", per: ["channel", "tensor"], symmetricOnly: true, form: "qdq", withActivation: true };
const INT4_ONLY: WeightRow = { dtype: "int4", per: ["block", "channel"], form: "qdq", withActivation: false };
const UINT4_ONLY: WeightRow = { ...INT4_ONLY, dtype: "uint4" };
const ONNX = "ONNX QuantizeLinear/DequantizeLinear 13 and 21 (onnx/defs/quantization/defs.cc)";

/** Standard operators only, at the lowest opset that the plan needs: correct in every ONNX consumer, promised to be fast in none. */
export const PORTABLE: Target = {
  name: "portable",
  version: undefined,
  arch: undefined,
  opset: { min: 13, max: 26, emit: lowestOpset },
  irVersion: { max: 13 },
  placement: "compute-inputs",
  activation: { dtype: "uint8", symmetric: false },
  weightNarrow: true,
  bias: "float",
  tieMovement: false,
  domains: [],
  rows: [
    {
      ops: ["Conv", "ConvTranspose"],
      activation: ["uint8", "uint4", "uint16"],
      output: "none",
      weight: [INT8, INT4, INT8_ONLY, UINT8_ONLY],
      source: ONNX,
    },
    {
      ops: ["Gemm", "MatMul"],
      activation: ["uint8", "uint4", "uint16"],
      output: "none",
      weight: [INT8, INT4, INT8_ONLY, INT4_ONLY, UINT4_ONLY],
      source: ONNX,
    },
    {
      ops: ["Gemm", "MatMul"],
      when: { attrs: { alpha: [1, null], beta: [1, null], transA: [0, null] } },
      activation: [],
      output: "none",
      weight: [DYNAMIC, { ...DYNAMIC, dtype: "uint8" }, { ...DYNAMIC, form: "matmul-integer-tokens" }],
      source: "ONNX DynamicQuantizeLinear 11, MatMulInteger 10",
    },
    {
      ops: ["LSTM", "GRU", "RNN"],
      activation: [],
      output: "none",
      weight: [INT8_ONLY],
      source: "experiment: onnxruntime 1.30 runs LSTM, GRU and RNN with DequantizeLinear on W and R at every level",
    },
    { ops: ["Gather"], activation: [], output: "none", weight: [INT8_ONLY, INT4_ONLY, UINT4_ONLY], source: ONNX },
  ],
  notes: [],
};
