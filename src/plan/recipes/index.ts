import { QcError } from "../../diagnostics.ts";
import type { CodeDType } from "../../quant/float8.ts";
import { nearest } from "../nearest.ts";

/** The user's wish, independent of model and target. */
export interface Recipe {
  readonly name: string;
  /** static: Q/DQ with calibrated parameters · dynamic: parameters computed at run time · none: weights only. */
  readonly activations: "static" | "dynamic" | "none";
  /** Of dynamic activations: "token" gives every row a scale of its own, "block" every block of a row. Default: one for the whole value. */
  readonly dynamicPer?: "token" | "block";
  /** Bits of a static activation. */
  readonly activationBits: 4 | 8 | 16;
  readonly activationDType?: "float8e4m3fn" | "float4e2m1";
  /** undefined: weights are only cast. */
  readonly weight:
    | {
        readonly dtype: CodeDType;
        readonly per: "channel" | "tensor" | "block";
        readonly blockSize?: number;
        readonly symmetric: boolean;
        /** Fewer than the type has. */
        readonly bits?: 7;
      }
    | undefined;
  /**
   * What tables of lookups have instead, and products that read the same constant: each row is read as it is, no sum averages its error
   * away, and one 8-bit tensor of both is smaller than two 4-bit ones. Where the target has no such form they have `weight`.
   */
  readonly tables?: NonNullable<Recipe["weight"]> | "float";
  /** Least precision of the sums in MatMulNBits (its attribute accuracy_level): 1 float32 … 4 int8; absent: the kernel's choice. */
  readonly accuracyLevel?: number;
  /** What products that no product comes before, and those that none comes behind, have instead. */
  readonly ends?: {
    readonly activationBits: 8;
    readonly weight: { readonly dtype: "int8"; readonly per: "channel" | "tensor"; readonly symmetric: true };
  };
  /** What the rest of the network is cast to. */
  readonly floatType: "float32" | "float16" | "bfloat16";
  /** Calibration data are needed. */
  readonly data: boolean;
  readonly summary: string;
}

const INT8 = { dtype: "int8", per: "channel", symmetric: true } as const;
const TABLES = { dtype: "int8", per: "block", blockSize: 128, symmetric: true } as const;
const FLOAT = { activationBits: 8, floatType: "float32" } as const;

export const RECIPES = {
  int8: {
    ...FLOAT,
    activations: "static",
    weight: INT8,
    data: true,
    summary: "8-bit weights and activations, parameters from calibration data",
  },
  "int8-dynamic": {
    ...FLOAT,
    activations: "dynamic",
    weight: INT8,
    data: false,
    summary: "8-bit weights, activations quantized while running",
  },
  "int8-tokens": {
    ...FLOAT,
    activations: "dynamic",
    dynamicPer: "token",
    weight: INT8,
    data: false,
    summary: "8-bit weights, activations quantized while running, each token with a scale of its own",
  },
  "uint8-dynamic": {
    ...FLOAT,
    activations: "dynamic",
    weight: { dtype: "uint8", per: "channel", symmetric: true },
    data: false,
    summary: "8-bit unsigned weights where the target has such kernels, activations quantized while running",
  },
  "int8-weights": { ...FLOAT, activations: "none", weight: INT8, data: false, summary: "8-bit weights, float arithmetic" },
  "int4-weights": {
    ...FLOAT,
    activations: "none",
    weight: { dtype: "int4", per: "block", blockSize: 32, symmetric: false },
    tables: TABLES,
    data: false,
    summary: "4-bit weights in blocks, 8-bit tables, float arithmetic",
  },
  "int2-weights": {
    ...FLOAT,
    activations: "none",
    weight: { dtype: "int2", per: "block", blockSize: 16, symmetric: false },
    tables: TABLES,
    data: false,
    summary: "2-bit weights in blocks, 8-bit tables, float arithmetic",
  },
  "nf4-weights": {
    ...FLOAT,
    activations: "none",
    weight: { dtype: "nf4", per: "block", blockSize: 64, symmetric: true },
    tables: TABLES,
    data: false,
    summary: "4-bit codes into quantiles of a normal distribution (bitsandbytes), 8-bit tables, float arithmetic",
  },
  "fp4-weights": {
    ...FLOAT,
    activations: "none",
    weight: { dtype: "fp4", per: "block", blockSize: 64, symmetric: true },
    tables: TABLES,
    data: false,
    summary: "4-bit floats in blocks (bitsandbytes), 8-bit tables, float arithmetic",
  },
  w4a8: {
    ...FLOAT,
    activations: "static",
    weight: { dtype: "int4", per: "block", blockSize: 64, symmetric: true },
    data: true,
    summary: "4-bit weights in blocks, 8-bit activations",
  },
  w7a8: {
    ...FLOAT,
    activations: "static",
    weight: { ...INT8, bits: 7 },
    data: true,
    summary: "8-bit activations, 7-bit weights in int8: sums of two products fit 16 bits, for processors without VNNI",
  },
  w8a16: {
    ...FLOAT,
    activations: "static",
    activationBits: 16,
    weight: INT8,
    data: true,
    summary: "8-bit weights, 16-bit activations",
  },
  w4a16: {
    ...FLOAT,
    activations: "static",
    activationBits: 16,
    weight: { dtype: "int4", per: "block", blockSize: 64, symmetric: true },
    data: true,
    summary: "4-bit weights in blocks, 16-bit activations",
  },
  w4a4: {
    ...FLOAT,
    activations: "static",
    activationBits: 4,
    weight: { dtype: "int4", per: "channel", symmetric: true },
    ends: { activationBits: 8, weight: INT8 },
    data: true,
    summary: "4-bit weights and activations, the first and the last product in 8 bits",
  },
  fp16: {
    ...FLOAT,
    activations: "none",
    weight: undefined,
    floatType: "float16",
    data: false,
    summary: "everything in float16 but what overflows",
  },
  bf16: { ...FLOAT, activations: "none", weight: undefined, floatType: "bfloat16", data: false, summary: "everything in bfloat16" },
  fp8: {
    ...FLOAT,
    activations: "static",
    activationDType: "float8e4m3fn",
    weight: { dtype: "float8e4m3fn", per: "channel", symmetric: true },
    data: true,
    summary: "float8 e4m3 weights and activations",
  },
  mxfp8: {
    ...FLOAT,
    activations: "dynamic",
    dynamicPer: "block",
    weight: { dtype: "float8e4m3fn", per: "block", blockSize: 32, symmetric: true },
    data: false,
    summary: "float8 e4m3 weights and activations in blocks of 32, their scales powers of two",
  },
  nvfp4: {
    ...FLOAT,
    activations: "static",
    activationDType: "float4e2m1",
    weight: { dtype: "float4e2m1", per: "block", blockSize: 16, symmetric: true },
    data: true,
    summary: "float4 e2m1 weights and activations in blocks of 16 with float8 scales",
  },
} as const satisfies Record<string, Omit<Recipe, "name">>;

export type RecipeName = keyof typeof RECIPES;

export function recipeOf(name: string): Recipe {
  if (!Object.hasOwn(RECIPES, name)) {
    const known = Object.keys(RECIPES);
    throw new QcError({ code: "plan/unknown-recipe", given: name, known, nearest: nearest(name, known) }, { exitCode: 2 });
  }
  return { name, ...RECIPES[name as RecipeName] };
}
