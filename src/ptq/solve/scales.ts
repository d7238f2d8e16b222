import { MIN_SCALE, roundHalfEven } from "../../quant/affine.ts";
import type { Grid } from "./problem.ts";

/** Where one block's codes lie: real = scale · c, c an integer in [lo, hi], stored code = c + zero. */
export interface Spot {
  scale: number;
  lo: number;
  hi: number;
  zero: number;
}

/**
 * The grid for w[from, to) when its range is shrunk to the fraction `f`. Symmetric: scale = f · max|w| / ((hi − lo) / 2), so that at f = 1
 * all codes are used, the lowest too (7.5 steps at 4 bits). Free zero point: the range [f·min, f·max], with 0 on the grid.
 */
export function spotOf(grid: Grid, w: Float64Array, from: number, to: number, f: number, out: Spot): Spot {
  let min = 0;
  let max = 0;
  for (let i = from; i < to; i++) {
    const x = w[i]!;
    if (x < min) min = x;
    if (x > max) max = x;
  }
  const { lo, hi } = grid;
  if (grid.zero === "free") {
    const scale = Math.fround((f * (max - min)) / (hi - lo));
    out.scale = scale >= MIN_SCALE ? scale : 1;
    out.zero = scale >= MIN_SCALE ? Math.min(hi, Math.max(lo, roundHalfEven(lo - (min * (hi - lo)) / (max - min)))) : Math.max(lo, 0);
  } else {
    const scale = Math.fround((f * Math.max(max, -min)) / ((hi - lo) / 2));
    out.scale = scale >= MIN_SCALE ? scale : 1;
    out.zero = grid.zero;
  }
  out.lo = lo - out.zero;
  out.hi = hi - out.zero;
  return out;
}

/**
 * Fractions of the plain range worth trying: 1.07 down to 0.45 at 4 bits (measured on convolutions: below that clipping always loses),
 * further down with fewer codes, hardly below 1 at 8 bits.
 */
export function fractions(grid: Grid, count: number): Float64Array {
  const bits = Math.log2(grid.hi - grid.lo + 1);
  const low = Math.min(0.9, Math.max(0.25, 0.45 + 0.1 * (bits - 4)));
  const high = 1 + 0.07 * Math.min(1, 4 / bits) ** 4;
  return Float64Array.from({ length: count }, (_, i) => (count === 1 ? 1 : low + ((high - low) * i) / (count - 1)));
}
