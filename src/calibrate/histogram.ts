import type { Histogram } from "./types.ts";

/**
 * Bins that a histogram may have. The width is the smallest power of two for which the observed range fits, so that between
 * BINS / 2 + 1 = 2049 and 4096 bins lie over [min, max] (a constant has one).
 */
export const BINS = 4096;

/**
 * Where bins lie. Bin k covers [k * 2^exp, (k + 1) * 2^exp): aligned at zero, so a bin of exp + 1 is the union of two bins of exp and
 * floor(floor(x / 2^e) / 2^n) = floor(x / 2^(e + n)). Hence counts at the final width do not depend on the widths passed on the way.
 */
export interface Grid {
  readonly exp: number;
  readonly first: number;
  readonly length: number;
}

/** Indices stay below 2^30, so that they are 32-bit integers in the hot loop: exp >= E - 30 where 2^E > |x| for every x. */
const INDEX_BITS = 30;
/** Every float32 is a multiple of 2^-149 (IEEE 754: the smallest subnormal). */
const LOWEST_EXP = -149;

/** The smallest E with |x| < 2^E; -Infinity for 0. Exact: no logarithm decides. */
function exponentOf(x: number): number {
  if (x === 0) return -Infinity;
  let e = Math.floor(Math.log2(Math.abs(x)));
  while (2 ** e > Math.abs(x)) e--;
  while (2 ** (e + 1) <= Math.abs(x)) e++;
  return e + 1;
}

/**
 * The grid of a range, a function of min and max alone: the smallest exp that fits BINS bins. It can only grow when the range grows.
 * Requires finite min <= max.
 */
export function gridOf(min: number, max: number): Grid {
  const reach = Math.max(Math.abs(min), Math.abs(max));
  const least = Math.max(LOWEST_EXP, exponentOf(reach) - INDEX_BITS);
  let exp = Math.max(least, exponentOf(max - min) - Math.log2(BINS) - 1);
  while (binOf(max, exp) - binOf(min, exp) >= BINS) exp++;
  while (exp > least && binOf(max, exp - 1) - binOf(min, exp - 1) < BINS) exp--;
  const first = binOf(min, exp);
  return { exp, first, length: binOf(max, exp) - first + 1 };
}

/** floor(x / 2^exp). A multiplication by a power of two is exact in double for every float32 and exp >= -149. */
export function binOf(x: number, exp: number): number {
  return Math.floor(x * 2 ** -exp) + 0; // + 0: no -0
}

/**
 * Adds `counts`, laid out by `from`, to `into`, laid out by `to`, whose bins are as wide or wider and cover every non-zero count.
 * Whole bins move, so no count is ever split.
 */
export function regrid(counts: ArrayLike<number>, from: Grid, into: Float64Array, to: Grid): void {
  const narrow = 2 ** (from.exp - to.exp);
  for (let i = 0; i < from.length; i++) {
    const n = counts[i]!;
    if (n !== 0) into[Math.floor((from.first + i) * narrow) - to.first]! += n;
  }
}

/** The two laid over the grid of [min, max], which is the union of their ranges. */
export function mergeHistograms(a: Histogram | undefined, b: Histogram | undefined, min: number, max: number): Histogram | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  const to = gridOf(min, max);
  const counts = new Float64Array(to.length);
  for (const h of [a, b]) regrid(h.counts, gridOfHistogram(h), counts, to);
  return { exp: to.exp, first: to.first, counts };
}

export function gridOfHistogram(h: Histogram): Grid {
  return { exp: h.exp, first: h.first, length: h.counts.length };
}

/** Counts of |x|: bin i covers [i * w, (i + 1) * w). Exact, since bin -1 - i mirrors bin i (its border values change sides, by one bin edge). */
export function foldMagnitude(h: Histogram): Float64Array {
  const last = h.first + h.counts.length - 1;
  const out = new Float64Array(Math.max(last + 1, -h.first, 1));
  for (let i = 0; i < h.counts.length; i++) {
    const bin = h.first + i;
    out[bin >= 0 ? bin : -1 - bin]! += h.counts[i]!;
  }
  return out;
}
