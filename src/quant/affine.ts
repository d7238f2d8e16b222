import { INT_DTYPES, type IntDType } from "./dtype.ts";

/**
 * real = scale * (q - zeroPoint);  q = saturate(roundHalfEven(x / scale) + zeroPoint), the quotient in float32.
 * Source: ONNX QuantizeLinear/DequantizeLinear (onnx/defs/quantization/defs.cc).
 *
 * (A1) scale is a finite float32, scale > 0.
 * (A2) zeroPoint is an integer of the storage type.
 * (A3) real 0 is exactly representable, so zero padding adds no error.
 * (A4) for x inside the range that chose the parameters, |x - dequantize(quantize(x))| <= scale / 2.
 */
export interface QParams {
  readonly dtype: IntDType;
  readonly scale: number;
  readonly zeroPoint: number;
}

/** The smallest scale ever chosen: below it 1/scale and scale*scale leave the float32 normals. */
export const MIN_SCALE = 2 ** -100;

/** 1.5 * 2^52: adding and subtracting it rounds a double half to even, for |x| < 2^51. */
export const ROUND_MAGIC = 6755399441055744;

/** Ties go to the even neighbour, as in ONNX. `Math.round` sends ties to +Infinity. Exact for |x| < 2^51. */
export function roundHalfEven(x: number): number {
  return Math.abs(x) < 2 ** 51 ? x + ROUND_MAGIC - ROUND_MAGIC : x;
}

/** One real value to its code. NaN is not a value to quantize: it gives NaN, callers report it. */
export function quantize(x: number, q: QParams): number {
  const { min, max } = INT_DTYPES[q.dtype];
  const code = roundHalfEven(Math.fround(x / q.scale)) + q.zeroPoint;
  return Math.min(max, Math.max(min, code));
}

export function dequantize(code: number, q: QParams): number {
  return Math.fround((code - q.zeroPoint) * q.scale);
}

/**
 * Lowest and highest code that a scheme uses; `narrow` drops the lowest of a signed type (-127 for int8), `bits` leaves out the codes of a
 * signed type that need more (7 bits in int8: -63 to 63).
 */
export function codeBounds(dtype: IntDType, narrow: boolean, bits?: number): { readonly min: number; readonly max: number } {
  const { min, max } = INT_DTYPES[dtype];
  if (bits !== undefined && min < 0 && bits < INT_DTYPES[dtype].bits) return { min: 1 - 2 ** (bits - 1), max: 2 ** (bits - 1) - 1 };
  return { min: narrow && min < 0 ? -max : min, max };
}

/** Parameters whose codes cover [lo, hi] (widened to hold 0, A3). An all-zero range gives scale 1. */
export function chooseAsymmetric(lo: number, hi: number, dtype: IntDType): QParams {
  const { min, max } = INT_DTYPES[dtype];
  lo = Math.min(lo, 0);
  hi = Math.max(hi, 0);
  const scale = Math.fround((hi - lo) / (max - min));
  if (!(scale >= MIN_SCALE)) return { dtype, scale: 1, zeroPoint: Math.max(min, Math.min(max, 0)) };
  const zeroPoint = Math.min(max, Math.max(min, roundHalfEven(min - lo / scale)));
  return { dtype, scale, zeroPoint };
}

/**
 * Symmetric parameters: scale = absmax / max code, zero point 0 (signed types) or the middle code (unsigned).
 * With `halfStep`, scale = absmax / (max + 0.5): all 2^bits codes are used, the most negative one too (W4: 7.5).
 */
export function chooseSymmetric(absmax: number, dtype: IntDType, halfStep = false): QParams {
  const { min, max } = INT_DTYPES[dtype];
  const top = min < 0 ? max : (max - 1) / 2;
  const zeroPoint = min < 0 ? 0 : (max + 1) / 2;
  const scale = Math.fround(absmax / (halfStep ? top + 0.5 : top));
  if (!(scale >= MIN_SCALE)) return { dtype, scale: 1, zeroPoint };
  return { dtype, scale, zeroPoint };
}
