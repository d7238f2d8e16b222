import { roundHalfEven } from "./affine.ts";

/** float4 e2m1: 1 sign, 2 exponent (bias 1), 1 fraction bit; no infinities, no NaN. Magnitudes by code (OCP Microscaling Formats v1.0). */
const MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6] as const;
export const FLOAT4_MAX = 6;

/** Round to nearest, ties to the even code; beyond the largest value it saturates. NaN becomes +6, as ONNX Cast has it. */
export function toFloat4(x: number): number {
  if (Number.isNaN(x)) return 7;
  const sign = x < 0 || Object.is(x, -0) ? 8 : 0;
  const a = Math.abs(x);
  if (a >= 5) return sign | (a === 5 ? 6 : 7);
  // Codes are consecutive: steps of 1/2 below 2 (codes 0 to 4), of 1 from 2 to 4 (4 to 6), of 2 above.
  const code = a < 2 ? roundHalfEven(a * 2) : a < 4 ? roundHalfEven(a) + 2 : roundHalfEven(a / 2) + 4;
  return sign | code;
}

export function fromFloat4(code: number): number {
  const m = MAGNITUDES[code & 7]!;
  return code & 8 ? -m : m;
}
