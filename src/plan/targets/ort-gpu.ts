import { lowestOpset, type Need, type Target, type WeightRow } from "../target.ts";

const NBITS: WeightRow = {
  dtype: "uint4",
  per: ["block"],
  blockSizes: [16, 32, 64, 128, 256],
  form: "matmul-nbits",
  withActivation: false,
};
const NBITS8: WeightRow = { ...NBITS, dtype: "uint8" };
const INT8_ONLY: WeightRow = { dtype: "int8", per: ["channel", "tensor"], symmetricOnly: true, form: "qdq", withActivation: false };
const GATHER: WeightRow = {
  dtype: "uint4",
  per: ["block"],
  blockSizes: [16, 32, 64, 128, 256],
  form: "gather-block",
  wholeBlocks: "exact",
  withActivation: false,
};
const GATHER8: WeightRow = { ...GATHER, dtype: "uint8" };
/** A Gemm that is a product and a sum. */
const PLAIN = { attrs: { alpha: [1, null], beta: [1, null], transA: [0, null] } } as const;
const at21 = (need: Need): number => Math.max(21, lowestOpset(need));

/** onnxruntime, CUDA provider: weight-only. Static int8 there is float arithmetic with extra kernels, 1.5 to 5.7 times slower than float. */
export const ORT_CUDA: Target = {
  name: "ort-cuda",
  version: undefined,
  arch: undefined,
  opset: { min: 13, max: 22, emit: at21 },
  irVersion: { max: 13 },
  placement: "weights-only",
  activation: { dtype: "uint8", symmetric: false },
  weightNarrow: true,
  bias: "float",
  tieMovement: false,
  domains: ["com.microsoft"],
  rows: [
    {
      ops: ["MatMul", "Gemm"],
      when: PLAIN,
      activation: [],
      output: "none",
      weight: [NBITS, NBITS8],
      source:
        "onnxruntime contrib_ops/cuda/quantization/matmul_nbits.cc; measured on an H100: 1.9x faster than fp16 at M = 1, slower at M = 64",
    },
    {
      ops: ["Gather"],
      activation: [],
      output: "none",
      weight: [GATHER, GATHER8],
      source: "onnxruntime docs/OperatorKernels.md: GatherBlockQuantized",
    },
  ],
  notes: [
    {
      rule: "no-int8-qdq",
      text: "Q and DQ are kernels of their own here; a float network is faster",
      source: "measured on an H100 with onnxruntime-gpu 1.31",
    },
    {
      rule: "opset-22",
      text: "QuantizeLinear and DequantizeLinear of opset 23 and later fall to the CPU",
      source: "onnxruntime docs/OperatorKernels.md",
    },
  ],
};

/** onnxruntime, WebGPU provider: weight-only; QuantizeLinear has no kernel there, so an activation Q costs two copies. */
export const ORT_WEBGPU: Target = {
  ...ORT_CUDA,
  name: "ort-webgpu",
  opset: { min: 13, max: 23, emit: at21 },
  rows: [
    {
      ops: ["MatMul", "Gemm"],
      when: PLAIN,
      activation: [],
      output: "none",
      weight: [NBITS, NBITS8],
      source: "onnxruntime contrib_ops/webgpu/quantization/matmul_nbits.cc; DQ + MatMul is not fused there by default",
    },
    {
      ops: ["Gather"],
      activation: [],
      output: "none",
      weight: [GATHER, GATHER8],
      source: "onnxruntime contrib_ops/webgpu/quantization/gather_block_quantized.cc",
    },
    {
      ops: ["Conv", "ConvTranspose", "Gemm"],
      activation: [],
      output: "none",
      weight: [INT8_ONLY],
      source: "experiment: DequantizeLinear 13 to 23 runs on WebGPU, once a run",
    },
  ],
  notes: [
    {
      rule: "no-activation-q",
      text: "QuantizeLinear runs on the CPU with a copy each way",
      source: "experiment with onnxruntime-node 1.30: no WebGPU kernel in any opset",
    },
  ],
};
