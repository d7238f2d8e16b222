import { DTYPES, type DType } from "./dtype.ts";

/**
 * 4-bit codes into a table of 16 values in [-1, 1], times the largest magnitude of a block (QLoRA, Dettmers et al. 2023,
 * arXiv:2305.14314; bitsandbytes): `nf4` has quantiles of a normal distribution with 0 and both ends among them, `fp4` is a float of one
 * sign, two exponent (bias 3) and one fraction bit, divided by its largest value 12. Codes are those of com.microsoft MatMulBnb4.
 */
export type CodebookDType = "nf4" | "fp4";

const NF4 = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495,
  0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
  0.7229568362236023, 1.0,
];
const FP4_MAGNITUDES = [0, 0.0625, 8, 12, 4, 6, 2, 3];

export const CODEBOOKS: Readonly<Record<CodebookDType, Float32Array>> = {
  nf4: Float32Array.from(NF4),
  fp4: Float32Array.from({ length: 16 }, (_, c) => ((c & 8 ? -1 : 1) * FP4_MAGNITUDES[c & 7]!) / 12),
};

/** Bits of one element in any type that a scheme may name. */
export const bitsOf = (d: DType | CodebookDType): number => (isCodebookDType(d) ? 4 : DTYPES[d].bits);

export const isCodebookDType = (d: string): d is CodebookDType => d === "nf4" || d === "fp4";

/** Codes by value, and the middles between neighbours. -0 is the same value as 0 and is never chosen. */
const ORDER = { nf4: orderOf(CODEBOOKS.nf4), fp4: orderOf(CODEBOOKS.fp4) };
function orderOf(table: Float32Array): { readonly codes: readonly number[]; readonly middles: readonly number[] } {
  const codes = Array.from(table.keys()).filter((c) => !Object.is(table[c], -0));
  codes.sort((a, b) => table[a]! - table[b]!);
  return { codes, middles: codes.slice(1).map((c, i) => (table[c]! + table[codes[i]!]!) / 2) };
}

/** The code whose value is next to x; the one nearer to -1 in the middle. */
export function toCodebook(x: number, dtype: CodebookDType): number {
  const { codes, middles } = ORDER[dtype];
  let lo = 0;
  let hi = middles.length;
  while (lo < hi) {
    const mid = (lo + hi) >> 1;
    if (x > middles[mid]!) lo = mid + 1;
    else hi = mid;
  }
  return codes[lo]!;
}
