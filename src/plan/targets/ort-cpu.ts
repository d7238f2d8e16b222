import { lowestOpset, type Target, type WeightRow } from "../target.ts";

const SELECTORS = "onnxruntime core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc; experiment with 1.30";
const INT8: WeightRow = { dtype: "int8", per: ["channel", "tensor"], symmetricOnly: true, form: "qdq", withActivation: true };
const INT8_ONLY: WeightRow = { ...INT8, withActivation: false };
const NBITS: WeightRow = {
  dtype: "uint4",
  per: ["block"],
  blockSizes: [16, 32, 64, 128, 256],
  form: "matmul-nbits",
  withActivation: false,
};
const NBITS8: WeightRow = { ...NBITS, dtype: "uint8" };
const NBITS2: WeightRow = { ...NBITS, dtype: "uint2" };
const GATHER: WeightRow = { ...NBITS, form: "gather-block", wholeBlocks: "exact" };
const BNB4: WeightRow = {
  dtype: "nf4",
  per: ["block"],
  blockSizes: [16, 32, 64, 128, 256],
  wholeBlocks: "exact",
  symmetricOnly: true,
  form: "matmul-bnb4",
  withActivation: false,
};
const FP4: WeightRow = { ...BNB4, dtype: "fp4" };
const INT4_ONLY: WeightRow = { dtype: "int4", per: ["block", "channel"], form: "qdq", withActivation: false };
/** Smaller files, the same kernels: what is computed with are the 8-bit codes that the cast gives. */
const INT4_CAST: WeightRow = { ...INT8, dtype: "int4", form: "qdq-cast" };
const CAST_SOURCE =
  "4-bit weights: experiment with onnxruntime 1.30: Cast(int4 -> int8) is folded at level basic, QLinearConv and QLinearMatMul read the int8 result, equal outputs at every level";
const DYNAMIC: WeightRow = { ...INT8, form: "matmul-integer" };
const DYNAMIC_UINT8: WeightRow = { ...DYNAMIC, dtype: "uint8" };
const TOKENS: WeightRow = { ...INT8, form: "matmul-integer-tokens" };
const UINT8_ONLY: WeightRow = { ...INT8_ONLY, dtype: "uint8" };

/** onnxruntime, CPU provider: every form here fuses into a QLinear kernel at level `extended` and above. */
export const ORT_CPU: Target = {
  name: "ort-cpu",
  version: undefined,
  arch: undefined,
  opset: { min: 13, max: 26, emit: lowestOpset },
  irVersion: { max: 13 },
  placement: "fused-regions",
  activation: { dtype: "uint8", symmetric: false },
  weightNarrow: true,
  bias: "float",
  tieMovement: true,
  domains: ["com.microsoft"],
  rows: [
    {
      ops: ["Conv"],
      activation: ["uint8"],
      output: "own",
      weight: [INT8, INT4_CAST, INT8_ONLY, UINT8_ONLY],
      slow: {
        inputChannelsBelow: 4,
        sumsBelow: 100,
        depthwiseMultipleOf: 16,
        source:
          "measured, onnxruntime 1.30 with AVX512-VNNI, one thread, kernel time int8 / float: 3x3 Conv with 1, 3, 4, 8 and 16 input channels 6.9, 2.6-3.1, 1.4, 0.72, 0.60; 3 channels with kernels of 5x5, 7x7, 11x11 2.4, 0.88, 0.50, 1 channel with 256 0.47; depthwise 3x3 with 8, 12, 24 and 40 channels 3.4, 8.3, 4.2, 2.4, with 32, 48, 64, 128 1.25-1.36",
      },
      source: `${SELECTORS}: QLinearConv needs a Q on the output; ${CAST_SOURCE}`,
    },
    {
      ops: ["MatMul"],
      activation: ["uint8"],
      output: "wanted",
      weight: [INT8, INT4_CAST, DYNAMIC, DYNAMIC_UINT8, TOKENS, NBITS8, INT8_ONLY, NBITS, NBITS2, INT4_ONLY, BNB4, FP4],
      source: `${SELECTORS}: QLinearMatMul with a Q, MatMulIntegerToFloat without`,
    },
    {
      ops: ["Gemm"],
      when: { attrs: { alpha: [1, null], beta: [1, null], transA: [0, null] } },
      activation: ["uint8"],
      output: "wanted",
      weight: [INT8, INT4_CAST, DYNAMIC, DYNAMIC_UINT8, TOKENS, NBITS8, INT8_ONLY, NBITS, NBITS2, BNB4, FP4],
      source: `${SELECTORS}: QGemm, with or without a Q`,
    },
    {
      ops: ["ConvTranspose"],
      activation: [],
      output: "none",
      weight: [INT8_ONLY, UINT8_ONLY],
      source: `${SELECTORS}: no quantized kernel`,
    },
    {
      ops: ["Add", "Mul"],
      activation: ["uint8"],
      output: "own",
      weight: [],
      source: `${SELECTORS}: QLinearAdd, QLinearMul need both inputs and the output quantized`,
    },
    {
      ops: ["GlobalAveragePool", "LeakyRelu", "Sigmoid"],
      activation: ["uint8"],
      output: "own",
      weight: [],
      source: `${SELECTORS}: one DQ and a Q`,
    },
    {
      ops: ["Conv", "MatMul", "Gemm"],
      activation: ["uint16"],
      output: "none",
      weight: [INT8],
      source: `${SELECTORS}: 16 bits never fuse; correct, at the speed of float`,
    },
    { ops: ["Concat"], activation: ["uint8"], output: "own", weight: [], source: `${SELECTORS}: QLinearConcat; scales may differ` },
    {
      ops: ["MaxPool"],
      when: { opset: 12 },
      activation: ["uint8"],
      output: "same",
      weight: [],
      source: `${SELECTORS}: 8-bit MaxPool since opset 12`,
    },
    {
      ops: ["Resize"],
      when: { attrs: { mode: ["nearest", null] } },
      activation: ["uint8"],
      output: "same",
      weight: [],
      source: `${SELECTORS}: nearest only, equal parameters`,
    },
    {
      ops: [
        "Flatten",
        "Gather",
        "Reshape",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "DepthToSpace",
        "Expand",
        "Split",
        "Identity",
      ],
      activation: ["uint8"],
      output: "same",
      weight: [],
      source: `${SELECTORS}: Q and DQ are dropped when scale and zero point of both sides are equal`,
    },
    {
      ops: ["Relu", "Clip"],
      activation: ["uint8"],
      output: "absorbed",
      weight: [],
      source: "onnxruntime ReluQuantFusion, ClipQuantFusion: removed when the range of the Q makes it redundant",
    },
    {
      ops: ["LSTM"],
      activation: [],
      output: "none",
      weight: [{ dtype: "int8", per: ["channel"], symmetricOnly: true, form: "dynamic-lstm", withActivation: true }, INT8_ONLY],
      source: "com.microsoft DynamicQuantizeLSTM (onnxruntime contrib_ops/cpu/quantization/dynamic_quantize_lstm.cc)",
    },
    {
      ops: ["GRU", "RNN"],
      activation: [],
      output: "none",
      weight: [INT8_ONLY],
      source: "experiment: onnxruntime 1.30 runs them with DequantizeLinear on W and R",
    },
    {
      ops: ["Gather"],
      activation: [],
      output: "none",
      weight: [GATHER, { ...GATHER, dtype: "uint8" }, { ...GATHER, dtype: "uint2" }, INT8_ONLY],
      source:
        "com.microsoft GatherBlockQuantized (onnxruntime docs/ContribOperators.md); experiment with 1.30: 2, 4 and 8 bits, packed in uint8",
    },
  ],
  notes: [
    {
      rule: "average-pool",
      text: "QLinearAveragePool is 33 times slower than the float kernel (3x3, 48 channels, 44x44): AveragePool stays float",
      source: "measured, onnxruntime 1.30 with AVX512-VNNI, one thread",
    },
    {
      rule: "no-vnni",
      text: "Without AVX512-VNNI or AVX-VNNI the int8 kernels saturate 16-bit sums: 7-bit weights avoid it",
      source: "onnxruntime docs/performance/model-optimizations/quantization.md; session.x64quantprecision",
    },
    { rule: "16-bit", text: "16-bit activations never fuse here", source: SELECTORS },
  ],
};
