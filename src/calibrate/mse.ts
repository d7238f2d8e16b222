import { type Density, fullRange, magnitudeDensity, signedDensity, type Wish } from "./density.ts";
import type { Range, ValueStats } from "./types.ts";

/** Shares of the observed extreme that are tried: 1.00, 0.99 … 0.10. */
const CANDIDATES = 91;

/**
 * The range with the least squared error of quantization, summed over the bins at their centres:
 *
 *   E(lo, hi) = sum_i h_i * (c_i - DQ(Q(c_i)))^2     exact zeros have none (affine.ts A3)
 *
 * Symmetric: T over a grid. Asymmetric: both ends shrunk together, then the upper and the lower one alone, each over the grid.
 * Of equal errors the wider range is taken. Ref.: MSE calibration of pytorch-quantization (calib/histogram.py).
 */
export function mseRange(s: ValueStats, o: Wish): Range {
  const full = fullRange(s, o);
  if (s.hist === undefined || s.count === 0 || full.max === full.min) return full;
  if (o.symmetric) {
    const d = magnitudeDensity(s);
    const top = Math.floor((o.levels - 1) / 2);
    const t = full.max * best((f) => squaredError(d, (f * full.max) / top, 0, 0, top));
    return { min: -t, max: t };
  }
  const d = signedDensity(s);
  const error = (lo: number, hi: number): number => {
    const scale = (hi - lo) / (o.levels - 1);
    return squaredError(d, scale, Math.round(-lo / scale), 0, o.levels - 1);
  };
  let { min, max } = full;
  if (min < 0 && max > 0) {
    const f = best((g) => error(g * min, g * max));
    min *= f;
    max *= f;
  }
  if (max > 0) max = full.max * best((f) => error(min, f * full.max));
  if (min < 0) min = full.min * best((f) => error(f * full.min, max));
  return { min, max };
}

function best(error: (share: number) => number): number {
  let share = 1;
  let least = Infinity;
  for (let k = 100; k > 100 - CANDIDATES; k--) {
    const e = error(k / 100);
    if (e < least) {
      least = e;
      share = k / 100;
    }
  }
  return share;
}

function squaredError(d: Density, scale: number, zeroPoint: number, low: number, high: number): number {
  const { counts, width, origin } = d;
  const inv = 1 / scale;
  let sum = 0;
  for (let i = 0; i < counts.length; i++) {
    const n = counts[i]!;
    if (n === 0) continue;
    const x = (i - origin + 0.5) * width;
    let q = Math.floor(x * inv + zeroPoint + 0.5);
    if (q < low) q = low;
    else if (q > high) q = high;
    const e = x - (q - zeroPoint) * scale;
    sum += n * e * e;
  }
  return sum;
}
