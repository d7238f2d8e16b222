import { type CodebookDType, isCodebookDType } from "./codebook.ts";
import { type IntDType, isIntDType } from "./dtype.ts";

/**
 * float8 e4m3fn: 1 sign, 4 exponent (bias 7), 3 fraction bits; no infinities; S.1111.111 is NaN; largest 448, smallest subnormal 2^-9
 * (Micikevicius et al. 2022; ONNX Cast and QuantizeLinear with saturate = 1).
 */
export const FLOAT8_MAX = 448;

/** Types whose values are codes of a scheme: integers, and float8, float4 or a table of 16 values with a scale. */
export type CodeDType = IntDType | FloatCodeDType | CodebookDType;
export type FloatCodeDType = "float8e4m3fn" | "float4e2m1";
export const isFloatCodeDType = (d: string): d is FloatCodeDType => d === "float8e4m3fn" || d === "float4e2m1";
export const isCodeDType = (d: string): d is CodeDType => isFloatCodeDType(d) || isIntDType(d) || isCodebookDType(d);

/** Round to nearest, ties to even; beyond the largest value it saturates. NaN becomes 0x7f. */
export function toFloat8(x: number): number {
  if (Number.isNaN(x)) return 0x7f;
  const sign = x < 0 || Object.is(x, -0) ? 0x80 : 0;
  const a = Math.abs(x);
  if (a >= FLOAT8_MAX) return sign | 0x7e;
  // Steps of 2^-9 below 2^-6, of 2^(e - 3) in [2^e, 2^(e + 1)).
  const e = Math.max(-6, Math.floor(Math.log2(a)));
  const exact = a > 0 && 2 ** (e + 1) <= a ? e + 1 : a > 0 && 2 ** e > a && e > -6 ? e - 1 : e; // log2 may round over a power of two
  const steps = roundEven(a / 2 ** (exact - 3)); // 0 ... 16
  // Codes are consecutive: a carry out of the fraction lands in the exponent by itself.
  const code = exact === -6 && steps < 8 ? steps : ((exact + 7) << 3) + (steps - 8);
  return sign | Math.min(code, 0x7e);
}

export function fromFloat8(code: number): number {
  const sign = code & 0x80 ? -1 : 1;
  const e = (code >> 3) & 15;
  const m = code & 7;
  if (e === 15 && m === 7) return Number.NaN;
  return sign * (e === 0 ? m * 2 ** -9 : (8 + m) * 2 ** (e - 10));
}

function roundEven(x: number): number {
  const r = Math.round(x);
  return r - x === 0.5 && r % 2 !== 0 ? r - 1 : r;
}
