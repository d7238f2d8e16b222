import { MXFP8_BLOCK, NVFP4_BLOCK } from "../../quant/blockfloat.ts";
import { lowestOpset, type Need, type Target, type TargetNote, type TargetRow, type WeightRow } from "../target.ts";

const NVIDIA = "NVIDIA TensorRT documentation, Q/DQ Layer-Placement Recommendations";
const BUILDER = "experiment: parser and builder of TensorRT-RTX 1.7.1";
const INT8: WeightRow = { dtype: "int8", per: ["channel", "tensor"], symmetricOnly: true, form: "qdq", withActivation: true };
const INT8_ONLY: WeightRow = { ...INT8, withActivation: false };
const FP8: WeightRow = { dtype: "float8e4m3fn", per: ["channel", "tensor"], symmetricOnly: true, form: "qdq", withActivation: true };
const INT4_ONLY: WeightRow = {
  dtype: "int4",
  per: ["block"],
  blockSizes: [64, 128],
  wholeBlocks: "or-one",
  symmetricOnly: true,
  form: "qdq",
  withActivation: false,
};
const INT4_INT8: WeightRow = {
  dtype: "int4",
  per: ["block"],
  blockSizes: [64, 128],
  wholeBlocks: "or-one",
  symmetricOnly: true,
  form: "qdq-requantized",
  withActivation: true,
};

/** A convolution cannot have a 4-bit weight; requantized behind its DequantizeLinear it is one in memory and int8 in the product. */
const INT4_CONV: WeightRow = { dtype: "int4", per: ["channel"], symmetricOnly: true, form: "qdq-requantized", withActivation: true };

const NVFP4: WeightRow = {
  dtype: "float4e2m1",
  per: ["block"],
  blockSizes: [NVFP4_BLOCK],
  wholeBlocks: "exact",
  symmetricOnly: true,
  form: "nvfp4",
  withActivation: true,
  activationRanks: [2, 3],
};
const MXFP8: WeightRow = { ...NVFP4, dtype: "float8e4m3fn", blockSizes: [MXFP8_BLOCK], leastBlocks: 2, form: "mxfp8" };

const ROWS: readonly TargetRow[] = [
  {
    ops: ["Conv"],
    activation: ["int8"],
    output: "none",
    weight: [INT8, INT4_CONV, INT8_ONLY],
    source: `${NVIDIA}; ${BUILDER}: correlation i:Int8 c:Int8; with DQ(int4) -> Q(int8) -> DQ in front: kgen c:Int4 o:Int8, correlation i:Int8,Int8 (groups too)`,
  },
  {
    ops: ["Gemm", "MatMul"],
    activation: ["int8"],
    output: "none",
    weight: [INT8, INT4_INT8, INT4_ONLY, INT8_ONLY],
    source: `${NVIDIA}; ${BUILDER}: gemm i:Int8 c:Int8; runtime_fusion i:Half c:Int4 in blocks, kgen c:Int4 o:Half at each run with one block`,
  },
  {
    ops: ["Add"],
    activation: ["int8"],
    inputs: "one-side",
    fusesWith: ["Conv"],
    output: "none",
    weight: [],
    source: `${NVIDIA}: quantize the residual input of a skip connection, not the output of the Conv that feeds the sum`,
  },
  {
    ops: ["ConvTranspose"],
    activation: [],
    output: "none",
    weight: [],
    source: `${BUILDER}: int8 ConvTranspose builds in float32, with a dequantizing kernel at each run`,
  },
  {
    ops: ["Concat", "MaxPool", "Reshape", "Transpose", "Slice", "Split", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace"],
    activation: ["int8"],
    output: "same",
    weight: [],
    source: `${NVIDIA}: Q and DQ commute with data movement and MaxPool; the inputs of Concat need one scale`,
  },
  { ops: ["Gather"], activation: [], output: "none", weight: [INT4_ONLY], source: `${BUILDER}: int4 block Gather is one fused kernel` },
];
const FP8_ROWS: readonly TargetRow[] = [
  {
    ops: ["Conv"],
    activation: ["float8e4m3fn"],
    output: "none",
    weight: [FP8],
    slow: { inputChannelsBelow: 2, source: `${BUILDER}: one input channel runs as correlation i:Half,Half behind dequantizing kernels` },
    source: `${BUILDER}: correlation i:FP8 c:FP8`,
  },
  {
    ops: ["Gemm", "MatMul"],
    activation: ["float8e4m3fn"],
    output: "none",
    weight: [FP8],
    source: `${BUILDER}: gemm i:FP8 c:FP8`,
  },
];
const BLOCK_PRODUCTS = { ops: ["Gemm", "MatMul"], when: { attrs: { transA: [0, null] } }, output: "none" } as const;
const NVFP4_ROWS: readonly TargetRow[] = [
  {
    ...BLOCK_PRODUCTS,
    activation: ["float4e2m1"],
    weight: [NVFP4],
    source: `${BUILDER}: gemm i:FP4E2M1,FP8 c:FP4E2M1 with TRT_FP4DynamicQuantize; IDynamicQuantizeLayer: ranks 2 and 3, whole blocks`,
  },
];
const MXFP8_ROWS: readonly TargetRow[] = [
  {
    ...BLOCK_PRODUCTS,
    activation: [],
    weight: [MXFP8],
    source: `${BUILDER}: takes TRT_MXFP8DynamicQuantize and TRT_MXFP8DequantizeLinear; its own kernels for sm120 multiply in the float type`,
  },
];
const NOTES: readonly TargetNote[] = [
  { rule: "symmetric", text: "Zero points are 0: the parser refuses anything else", source: `${BUILDER}: shiftIsAllZeros(zeroPoint)` },
  {
    rule: "bias",
    text: "A bias stays float: int32 through DequantizeLinear is refused",
    source: `${BUILDER}: "input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8"`,
  },
  {
    rule: "kernel-shape",
    text: "Conv carries kernel_shape: TensorRT 8.6 refuses a DequantizeLinear weight without it",
    source: "experiment with TensorRT 8.6.0",
  },
  { rule: "zero-point-written", text: "Zero points are written out: TensorRT 8.6 fails without", source: "experiment with TensorRT 8.6.0" },
];

const NEWER = "TensorRT 8.6 has int8 alone: float8 and int4 came with TensorRT 9 and 10";

/** Whether a version has what came with `major.minor`; no version is the newest, and `10` the newest of 10. */
export function since(version: string | undefined, major: number, minor: number): boolean {
  if (version === undefined) return true;
  const [a, b] = version.split(".").map(Number);
  return a! > major || (a === major && (b === undefined || b >= minor));
}

/** Compute capability as a number: sm89 -> 89; undefined when no architecture was named. */
function capability(arch: string | undefined): number | undefined {
  return arch === undefined ? undefined : Number(arch.slice(2));
}

/**
 * TensorRT with explicit quantization. Version 8.6: opset <= 17, int8 only. 10: opset <= 23. 11 (and no version): opset <= 24, strongly typed.
 * float8 needs compute capability 8.9 (and TensorRT 9 or later); NVFP4 10.0 and TensorRT 10.8, MXFP8 10.0 and 10.12.
 */
export function tensorrt(version: string | undefined, arch: string | undefined): Target {
  const major = version === undefined ? undefined : Number.parseFloat(version);
  const old = major !== undefined && major < 9;
  const cap = capability(arch);
  const fp8 = !old && (cap === undefined || cap >= 89);
  const int4 = !old && (cap === undefined || cap >= 80);
  const max = old ? 17 : major !== undefined && major < 11 ? 23 : 24;
  const emit = (need: Need): number => lowestOpset(need);
  const blackwell = cap === undefined || cap >= 100;
  const nvfp4 = blackwell && since(version, 10, 8);
  const mxfp8 = blackwell && since(version, 10, 12);
  const rows = ROWS.map((r) => ({
    ...r,
    weight: r.weight.filter((w) => w.dtype === "int8" || int4),
  }));
  const gates = [
    ...(fp8
      ? []
      : [{ dtype: "float8e4m3fn", why: old ? NEWER : "float8 needs compute capability 8.9 or later: sm89, sm90, sm100, sm120" }]),
    ...(int4 ? [] : [{ dtype: "int4", why: old ? NEWER : "int4 weights need compute capability 8.0 or later: sm80, sm86, sm89 and up" }]),
  ];
  const blocks = (dtype: string, from: string, has: boolean): Target["gates"] =>
    has
      ? []
      : [
          {
            dtype,
            why: blackwell ? `it came with TensorRT ${from}` : "blocks of it need compute capability 10.0: sm100, sm103, sm120, sm121",
          },
        ];
  return {
    name: "tensorrt",
    version,
    arch,
    opset: { min: 13, max, emit },
    irVersion: { max: 13 },
    placement: "compute-inputs",
    activation: { dtype: "int8", symmetric: true },
    weightNarrow: true,
    bias: "float",
    tieMovement: true,
    domains: ["trt"],
    rows: [...rows, ...(fp8 ? FP8_ROWS : []), ...(nvfp4 ? NVFP4_ROWS : []), ...(mxfp8 ? MXFP8_ROWS : [])],
    notes: NOTES,
    gates: [...gates, ...blocks("float4e2m1", "10.8", nvfp4)!, ...(fp8 ? blocks("float8e4m3fn", "10.12", mxfp8)! : [])],
  };
}
