/** The 16-bit float types. Largest finite value, smallest normal value, bits of the fraction. */
export const HALVES = {
  float16: { max: 65504, leastNormal: 2 ** -14, fraction: 10 },
  bfloat16: { max: (2 - 2 ** -7) * 2 ** 127, leastNormal: 2 ** -126, fraction: 7 },
} as const;
export type HalfDType = keyof typeof HALVES;

/** float32 to the bit patterns of a 16-bit type, round to nearest, ties to even; beyond the largest value becomes infinity. */
export function toHalfBits(x: Float32Array, to: HalfDType): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(x.buffer, x.byteOffset, x.length);
  const out = new Uint16Array(x.length);
  if (to === "bfloat16") for (let i = 0; i < bits.length; i++) out[i] = bfloat16(bits[i]!);
  else for (let i = 0; i < bits.length; i++) out[i] = float16(bits[i]!);
  return out;
}

/** The upper half of the pattern, rounded; a NaN keeps a bit of its fraction. */
function bfloat16(u: number): number {
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40;
  return (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
}

/** binary32 to binary16 on the bit patterns (IEEE 754, 5.4.2). */
function float16(u: number): number {
  const sign = (u >>> 16) & 0x8000;
  const a = u & 0x7fffffff;
  if (a >= 0x7f800000) return sign | (a > 0x7f800000 ? 0x7e00 : 0x7c00);
  // 65520 and more round to infinity.
  if (a >= 0x477ff000) return sign | 0x7c00;
  if (a >= 0x38800000) return sign | ((a + 0xfff + ((a >>> 13) & 1) - 0x38000000) >>> 13);
  // Subnormal: units of 2^-24.
  const e = a >>> 23;
  if (e < 102) return sign;
  const m = (a & 0x7fffff) | 0x800000;
  const shift = 126 - e;
  const q = m >>> shift;
  const rest = m & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (q + (rest > half || (rest === half && (q & 1) === 1) ? 1 : 0));
}
