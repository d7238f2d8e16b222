import { type Density, fullRange, magnitudeDensity, mirror, signedDensity, type Wish } from "./density.ts";
import type { Range, ValueStats } from "./types.ts";

/**
 * The range that `percent` of the elements lie in, exact zeros included. Asymmetric: half of the rest is left out at each end;
 * symmetric: the percentile of |x|. Elements of a bin are taken as spread evenly over it; never beyond the observed extremes.
 * A range of one point (nearly all elements equal) gives min-max instead.
 */
export function percentileRange(s: ValueStats, percent: number, o: Wish): Range {
  const full = fullRange(s, o);
  if (s.hist === undefined || s.count === 0) return full;
  const out = (1 - percent / 100) * s.count;
  if (o.symmetric) {
    const t = topQuantile(magnitudeDensity(s), out);
    return t > 0 ? { min: -t, max: t } : full;
  }
  const d = signedDensity(s);
  const max = Math.max(0, topQuantile(d, out / 2));
  const min = Math.min(0, -topQuantile(mirror(d), out / 2));
  return max > min ? { min: min + 0, max } : full;
}

/** The x above which `out` elements lie. */
function topQuantile(d: Density, out: number): number {
  let above = 0;
  for (let i = d.counts.length - 1; i >= 0; i--) {
    const n = d.counts[i]!;
    if (n > 0 && above + n > out) return Math.min(d.max, (i - d.origin + 1 - (out - above) / n) * d.width);
    above += n;
    if (i === d.origin) {
      above += d.zeros;
      if (above > out) return 0;
    }
  }
  return d.min;
}
