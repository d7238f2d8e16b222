import type { Value } from "../graph/ir.ts";
import { floats, int64s } from "../graph/tensor.ts";
import { E8M0_BIAS, MXFP8_BLOCK, NVFP4_BLOCK } from "../quant/blockfloat.ts";
import { DTYPES } from "../quant/dtype.ts";
import { FLOAT4_MAX } from "../quant/float4.ts";
import { FLOAT8_MAX } from "../quant/float8.ts";
import type { Granularity } from "../quant/granularity.ts";
import { readNumbers } from "./tensors.ts";
import type { TokenBuilder } from "./tokens.ts";
import type { PlanBundle, Scheme, Site } from "./types.ts";

/** Sites whose scales, one for each block along the last axis, are taken while running (TensorRT's DynamicQuantize; see quant/blockfloat.ts). */
export type BlockSite = Extract<Site, { kind: "static" | "dynamic" }> & {
  readonly scheme: Scheme & { readonly granularity: Extract<Granularity, { kind: "block" }> };
};
export function isBlockSite(s: Site): s is BlockSite {
  return (s.kind === "static" || s.kind === "dynamic") && s.scheme.granularity.kind === "block";
}

/** `make` on x [..., K] of a rank, seen as [..., K / size, size]. */
function inBlocks(x: Value, rank: number, size: number, b: TokenBuilder, make: (blocks: Value) => Value): Value {
  // 0 keeps a dimension as it is.
  const keep = Array.from({ length: rank - 1 }, () => 0);
  const blocks = b.node("Reshape", [x, b.constant(int64s([...keep, -1, size]), "split")], "blocks");
  return b.node("Reshape", [make(blocks), b.constant(int64s([...keep, -1]), "shape")], "whole");
}

function absmax(blocks: Value, b: TokenBuilder): Value {
  return b.node("ReduceMax", [b.node("Abs", [blocks], "magnitude"), b.constant(int64s([-1]), "axes")], "most", { keepdims: 1 });
}

/** Through float8 e4m3 and back; Cast saturates and rounds to nearest even. */
function throughFloat8(x: Value, b: TokenBuilder): Value {
  const code = b.node("Cast", [x], "float8", { to: DTYPES.float8e4m3fn.code });
  return b.node("Cast", [code], "rounded", { to: DTYPES.float32.code });
}

/**
 * NVFP4 of an activation in standard float32 operators (opset 19 and above, for Cast), t the tensor's fixed scale:
 *
 *   b = float8(max|block| / 6 / t);  s = b * t;  a = min(|x / s|, 6);  u = 1/2, 1 or 2 for a < 2, < 4, <= 6;  y = sign(x) * round(a / u) * u * s
 *
 * Within each third the codes are multiples of u and odd codes odd multiples, so that ties go to the even code. A block with s = 0 is 0.
 */
function nvfp4Rounded(x: Value, rank: number, tensorScale: number, b: TokenBuilder): Value {
  const k = (v: number, name: string): Value => b.constant(floats([v], []), name);
  return inBlocks(x, rank, NVFP4_BLOCK, b, (blocks) => {
    const t = k(tensorScale, "tensor_scale");
    const wish = b.node("Div", [b.node("Div", [absmax(blocks, b), k(FLOAT4_MAX, "six")], "reach"), t], "wish");
    const s = b.node("Mul", [throughFloat8(wish, b), t], "scale");
    const divisor = b.node("Where", [b.node("Equal", [s, k(0, "zero")], "dead"), k(1, "one"), s], "divisor");
    const a = b.node("Min", [b.node("Abs", [b.node("Div", [blocks, divisor], "quotient")], "size"), k(FLOAT4_MAX, "top")], "clamped");
    const upper = b.node("Where", [b.node("Less", [a, k(4, "four")], "below_four"), k(1, "unit"), k(2, "double")], "upper");
    const u = b.node("Where", [b.node("Less", [a, k(2, "two")], "below_two"), k(0.5, "half"), upper], "unit_here");
    const q = b.node("Mul", [b.node("Round", [b.node("Div", [a, u], "units")], "round"), u], "code");
    return b.node("Mul", [b.node("Mul", [b.node("Sign", [blocks], "sign"), q], "signed"), s], "real");
  });
}

/**
 * MXFP8 of an activation in standard float32 operators: y = float8(x / s) * s with s = 2^ceil(log2(max|block| / 448)), -127 to 127.
 * The logarithm is only a guess, off by one at most; from half of the guess the scale doubles while it is below.
 */
function mxfp8Rounded(x: Value, rank: number, b: TokenBuilder): Value {
  const k = (v: number, name: string): Value => b.constant(floats([v], []), name);
  return inBlocks(x, rank, MXFP8_BLOCK, b, (blocks) => {
    const v = b.node("Div", [absmax(blocks, b), k(FLOAT8_MAX, "top")], "wish");
    const guess = b.node("Floor", [b.node("Mul", [b.node("Log", [v], "log"), k(Math.LOG2E, "log2e")], "log2")], "floor");
    const at = b.node("Clip", [guess, k(1 - E8M0_BIAS, "lowest"), k(E8M0_BIAS, "highest")], "exponent");
    const index = b.node("Cast", [b.node("Add", [at, k(E8M0_BIAS - 1, "bias")], "index")], "index_integer", { to: DTYPES.int64.code });
    const powers = Float32Array.from({ length: 2 * E8M0_BIAS }, (_, i) => 2 ** (i - E8M0_BIAS));
    let s = b.node("Gather", [b.constant(floats(powers), "powers"), index], "start");
    for (const step of ["first", "second", "third"])
      s = b.node("Where", [b.node("Less", [s, v], `${step}_below`), b.node("Add", [s, s], `${step}_double`), s], step);
    return b.node("Mul", [throughFloat8(b.node("Div", [blocks, s], "quotient"), b), s], "real");
  });
}

/** What the site's readers get, in standard float32 operators: where the engine here has no kernels of the block formats. */
export function blockRounded(x: Value, bundle: PlanBundle, site: BlockSite, b: TokenBuilder): Value {
  const { axis } = site.scheme.granularity;
  return site.kind === "static" ? nvfp4Rounded(x, axis + 1, readNumbers(bundle, site.scale)[0]!, b) : mxfp8Rounded(x, axis + 1, b);
}
