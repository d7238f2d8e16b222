import { MIN_SCALE } from "./affine.ts";
import { FLOAT4_MAX } from "./float4.ts";
import { FLOAT8_MAX, fromFloat8, toFloat8 } from "./float8.ts";

/**
 * Scales of the block formats of NVIDIA's Blackwell, all in float32 steps:
 *
 *   NVFP4   codes float4 e2m1, blocks of 16. Two levels: t = max|x| / 6 / 448 of the whole tensor, b = float8(max|block| / 6 / t);
 *           the block's scale is b * t. (NVIDIA, "Introducing NVFP4"; TensorRT IDynamicQuantizeLayer)
 *   MXFP8   codes float8 e4m3, blocks of 32, scale 2^e with e = ceil(log2(max|block| / 448)), stored as e + 127 (float8 e8m0; OCP
 *           Microscaling Formats v1.0). Rounding up, as NVIDIA's tools do, so that nothing saturates; OCP's floor(log2 max) - 8 would.
 */
export const NVFP4_BLOCK = 16;
export const MXFP8_BLOCK = 32;
/** e8m0 exponents; code 255 is NaN. */
export const E8M0_BIAS = 127;

/** The scale t of a tensor whose largest magnitude is `absmax`; 1 where that is 0 (or so small that t leaves the normal floats). */
export function nvfp4TensorScale(absmax: number): number {
  const t = Math.fround(Math.fround(absmax / FLOAT4_MAX) / FLOAT8_MAX);
  return t >= MIN_SCALE ? t : 1;
}

/** The smallest float8 above 0. */
const LEAST_FLOAT8 = 2 ** -9;

/**
 * The scale b of a block of a weight: a value of float8 e4m3 above 0, which a stored scale must be. A block of zeros gets 1; what would
 * round to 0 gets the smallest.
 */
export function nvfp4BlockScale(absmax: number, tensorScale: number): number {
  if (absmax === 0) return 1;
  const b = fromFloat8(toFloat8(Math.fround(Math.fround(absmax / FLOAT4_MAX) / tensorScale)));
  return Math.max(b, LEAST_FLOAT8);
}

const bits = new DataView(new ArrayBuffer(8));

/** The exponent e of a block whose largest magnitude is `absmax`: -127 to 127. */
export function mxfp8Exponent(absmax: number): number {
  const v = Math.fround(absmax / FLOAT8_MAX);
  if (!(v > 0)) return -E8M0_BIAS;
  // A float32 is a normal double: its exponent can be read off, and its fraction tells whether it is a power of two.
  bits.setFloat64(0, v);
  const high = bits.getUint32(0);
  const floor = (high >>> 20) - 1023;
  const isPower = (high & 0xfffff) === 0 && bits.getUint32(4) === 0;
  return Math.min(E8M0_BIAS, Math.max(-E8M0_BIAS, isPower ? floor : floor + 1));
}
