import { foldMagnitude, gridOf, gridOfHistogram, regrid } from "./histogram.ts";
import type { Range, ValueStats } from "./types.ts";

/** How a calibrator is asked. */
export interface Wish {
  /** Codes available: 256 for 8 bits (255 when the lowest is not used). */
  readonly levels: number;
  /** The range will be [-T, T]. */
  readonly symmetric: boolean;
}

/**
 * Counts of the non-zero elements over a range that contains 0 (which every quantizer must hold, affine.ts A3). Bin i covers
 * [(i - origin) * width, (i - origin + 1) * width).
 */
export interface Density {
  readonly counts: Float64Array;
  readonly width: number;
  /** Index of the bin that begins at 0; `counts.length` when nothing is positive. */
  readonly origin: number;
  readonly zeros: number;
  /** Observed extremes, 0 included; of |x| for magnitudes. */
  readonly min: number;
  readonly max: number;
}

/** The signed density. Requires a histogram. */
export function signedDensity(s: ValueStats): Density {
  const { min, max } = hull(s);
  const h = s.hist!;
  // Laid over the hull of the range and 0: [0.9, 1] needs the bins from 0 on, else a bin index could be as large as 2^30.
  const to = gridOf(min, max);
  const counts = new Float64Array(to.length);
  regrid(h.counts, gridOfHistogram(h), counts, to);
  return { counts, width: 2 ** to.exp, origin: -to.first, zeros: s.zeros, min, max };
}

/** The density of |x|. */
export function magnitudeDensity(s: ValueStats): Density {
  const d = signedDensity(s);
  const counts = foldMagnitude({ exp: 0, first: -d.origin, counts: d.counts });
  return { counts, width: d.width, origin: 0, zeros: d.zeros, min: 0, max: Math.max(d.max, -d.min) };
}

/** The observed range and 0. [0, 0] when nothing was observed. */
export function hull(s: ValueStats): Range {
  return { min: Math.min(s.min, 0), max: Math.max(s.max, 0) };
}

/** Min-max as a range for a wish. */
export function fullRange(s: ValueStats, o: Wish): Range {
  const r = hull(s);
  const t = Math.max(r.max, -r.min);
  return o.symmetric ? { min: -t + 0, max: t } : r;
}

/** The density with pairs of bins joined: half as many, twice as wide. */
export function halve(d: Density): Density {
  const shift = d.origin & 1; // so that 0 stays a border
  const counts = new Float64Array((d.counts.length + shift + 1) >> 1);
  for (let i = 0; i < d.counts.length; i++) counts[(i + shift) >> 1]! += d.counts[i]!;
  return { ...d, counts, width: 2 * d.width, origin: (d.origin + shift) >> 1 };
}

/** The negative of the value: for data that is never positive. */
export function mirror(d: Density): Density {
  return { ...d, counts: d.counts.slice().reverse(), origin: d.counts.length - d.origin, min: -d.max + 0, max: -d.min + 0 };
}

/** Fraction of the finite elements outside [lo, hi]; elements of a bin are taken as spread evenly over it. */
export function clippedFraction(s: ValueStats, r: Range): number {
  if (s.hist === undefined || s.count === 0 || (r.min <= s.min && r.max >= s.max)) return 0;
  const { exp, first, counts } = s.hist;
  const width = 2 ** exp;
  let inside = r.min <= 0 && r.max >= 0 ? s.zeros : 0;
  for (let i = 0; i < counts.length; i++) {
    const n = counts[i]!;
    if (n === 0) continue;
    // The bin cut to what was observed: the border bins are not filled to their edges.
    const lo = Math.max((first + i) * width, s.min);
    const hi = Math.min((first + i + 1) * width, s.max);
    const part = hi > lo ? (Math.min(hi, r.max) - Math.max(lo, r.min)) / (hi - lo) : lo >= r.min && lo <= r.max ? 1 : 0;
    inside += n * Math.min(1, Math.max(0, part));
  }
  return Math.max(0, 1 - inside / s.count);
}
