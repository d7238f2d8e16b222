import { fullRange, halve, magnitudeDensity, mirror, signedDensity, type Wish } from "./density.ts";
import { BINS } from "./histogram.ts";
import { percentileRange } from "./percentile.ts";
import type { Range, ValueStats } from "./types.ts";

/** Elements a bin should hold on average before a divergence between histograms means anything. */
const PER_BIN = 10;
/** Bins on each side for the local median, at 2048 bins. */
const MEDIAN_REACH = 16;
/** Never clip more than this percentile does. KL does not see how far away a clipped value was. */
const FLOOR_PERCENT = 99.999;

export interface EntropyChoice extends Range {
  /** Fraction of the non-zero elements that stood above their neighbours in spikes and was left out of the search. */
  readonly spikes: number;
}

/**
 * The range whose quantized histogram Q loses the least information against the observed one P (NVIDIA, GTC 2017 S7310), with the
 * details that decide whether this works:
 *
 * 1. exact zeros are no part of P: they quantize without error, and as a spike they would forbid wide levels;
 * 2. despike: h_j > mean becomes min(h_j, max(mean, 2 * median(h over the neighbourhood))). Atoms (dead channels, padding) cost
 *    p * ln k when k bins share a level, whatever the precision;
 * 3. box filter as wide as one step of the full-range quantizer: structure finer than a level is not the quantizer's to lose;
 * 4. Q spreads each level's mass over its non-empty bins of the UNCLIPPED slice; the clipped mass m joins the border bin of P only;
 * 5. generalized divergence (I-divergence), Q not renormalized, else a slice of one bin with all mass clipped would be perfect:
 *
 *      D = sum_slice P ln(P / Q) - m - (bins - levels) / (2 W)        W bins averaged by (3)
 *
 *    the last term is what counting noise alone contributes: E[2 N KL] ~ degrees of freedom;
 * 6. the range is never narrower than percentile 99.999.
 *
 * One-sided data: [0, T], T over all bins. Otherwise both ends in turn, at most three times, 0 kept inside.
 */
export function entropyRange(s: ValueStats, o: Wish): EntropyChoice {
  const full = { ...fullRange(s, o), spikes: 0 };
  if (s.hist === undefined || s.count === s.zeros || s.min === s.max) return full;
  const levels = o.symmetric ? Math.floor(o.levels / 2) : o.levels;
  const negative = !o.symmetric && full.max === 0;
  let d = o.symmetric ? magnitudeDensity(s) : negative ? mirror(signedDensity(s)) : signedDensity(s);
  const mass = s.count - s.zeros;
  if (mass < PER_BIN * d.counts.length && d.counts.length > BINS / 2) d = halve(d);
  if (mass < PER_BIN * d.counts.length || d.counts.length < 2 * levels) return full;

  const { counts, removed } = despike(d.counts);
  const p = prefixSums(boxFilter(counts, Math.floor(d.counts.length / levels / 2)), Math.floor(d.counts.length / levels / 2));
  const twoSided = d.min < 0;
  let a = 0;
  let b = d.counts.length;
  for (let round = 0; round < (twoSided ? 3 : 1); round++) {
    const [a0, b0] = [a, b];
    b = leastDivergence(p, levels, Math.max(a + levels, d.origin), d.counts.length, (end) => divergence(p, a, end, levels));
    if (twoSided) a = -leastDivergence(p, levels, -Math.min(b - levels, d.origin), 0, (begin) => divergence(p, -begin, b, levels));
    if (a === a0 && b === b0) break;
  }

  const floor = percentileRange(s, FLOOR_PERCENT, o);
  const spikes = removed / mass;
  if (o.symmetric) {
    const t = Math.min(full.max, Math.max(b * d.width, floor.max));
    return { min: -t, max: t, spikes };
  }
  const lo = negative ? -b * d.width : (a - d.origin) * d.width;
  const hi = negative ? 0 : (b - d.origin) * d.width;
  return { min: Math.max(full.min, Math.min(lo, floor.min)) + 0, max: Math.min(full.max, Math.max(hi, floor.max)), spikes };
}

/** Caps what stands out of its neighbourhood. Edges are repeated; medians are of the input. */
function despike(h: Float64Array): { readonly counts: Float64Array; readonly removed: number } {
  const reach = Math.max(1, Math.round((MEDIAN_REACH * h.length) / 2048));
  let mean = 0;
  for (const n of h) mean += n;
  mean /= h.length;
  const window = new Float64Array(2 * reach + 1);
  const counts = h.slice();
  let removed = 0;
  for (let j = 0; j < h.length; j++) {
    if (h[j]! <= mean) continue;
    for (let k = -reach; k <= reach; k++) window[k + reach] = h[Math.min(h.length - 1, Math.max(0, j + k))]!;
    const cap = Math.max(mean, 2 * window.sort()[reach]!);
    if (h[j]! > cap) {
      removed += h[j]! - cap;
      counts[j] = cap;
    }
  }
  return { counts, removed };
}

/** Mean over 2 r + 1 bins, fewer at the ends. */
function boxFilter(h: Float64Array, r: number): Float64Array {
  const sum = new Float64Array(h.length + 1);
  for (let i = 0; i < h.length; i++) sum[i + 1] = sum[i]! + h[i]!;
  const out = new Float64Array(h.length);
  for (let i = 0; i < h.length; i++) {
    const from = Math.max(0, i - r);
    const to = Math.min(h.length, i + r + 1);
    const mean = (sum[to]! - sum[from]!) / (to - from);
    out[i] = mean > sum[h.length]! * Number.EPSILON ? mean : 0; // what is left of a difference of equal sums
  }
  return out;
}

interface Prefix {
  readonly h: Float64Array;
  /** Sums over [0, i): mass, non-empty bins, h ln h. */
  readonly mass: Float64Array;
  readonly bins: Int32Array;
  readonly hlnh: Float64Array;
  /** Bins averaged by the box filter. */
  readonly averaged: number;
}

function prefixSums(h: Float64Array, r: number): Prefix {
  const mass = new Float64Array(h.length + 1);
  const bins = new Int32Array(h.length + 1);
  const hlnh = new Float64Array(h.length + 1);
  for (let i = 0; i < h.length; i++) {
    mass[i + 1] = mass[i]! + h[i]!;
    bins[i + 1] = bins[i]! + (h[i]! > 0 ? 1 : 0);
    hlnh[i + 1] = hlnh[i]! + xlnx(h[i]!);
  }
  return { h, mass, bins, hlnh, averaged: 2 * r + 1 };
}

function xlnx(x: number): number {
  return x > 0 ? x * Math.log(x) : 0;
}

/** D of the slice [a, b), in counts; Infinity where clipped mass would join an empty bin. */
function divergence(p: Prefix, a: number, b: number, levels: number): number {
  const { h, mass, bins, hlnh } = p;
  const n = b - a;
  const left = mass[a]!;
  const right = mass[h.length]! - mass[b]!;
  const first = h[a]!;
  const last = h[b - 1]!;
  if ((left > 0 && first === 0) || (right > 0 && last === 0)) return Infinity;
  let pq = 0;
  let used = 0;
  let from = a;
  let density = 0;
  for (let g = 1; g <= levels; g++) {
    const to = a + Math.ceil((g * n) / levels); // bin j belongs to level floor((j - a) * levels / n)
    const m = mass[to]! - mass[from]!;
    const k = bins[to]! - bins[from]!;
    if (k > 0 && m > 0) {
      density = Math.log(m / k);
      pq += m * density;
      if (used === 0 && left > 0) pq += left * density; // first is not empty then, so this is level 0
      used++;
    }
    from = to;
  }
  if (right > 0) pq += right * density;
  let pp = hlnh[b]! - hlnh[a]!;
  if (left > 0) pp += xlnx(first + left) - xlnx(first);
  if (right > 0) pp += xlnx(last + right) - xlnx(last);
  return pp - pq - left - right - (bins[b]! - bins[a]! - used) / (2 * p.averaged);
}

/** The last argument in [from, to] of the least divergence: every 1/256 of the bins first, then each one around the best. */
function leastDivergence(p: Prefix, levels: number, from: number, to: number, at: (i: number) => number): number {
  const stride = Math.max(1, Math.floor(p.h.length / Math.max(256, levels)));
  let best = to;
  let least = at(to);
  for (let i = to - stride; i >= from; i -= stride) {
    const d = at(i);
    if (d < least) {
      least = d;
      best = i;
    }
  }
  const centre = best;
  for (let i = Math.min(to, centre + stride); i >= Math.max(from, centre - stride); i--) {
    const d = at(i);
    if (d < least || (d === least && i > best)) {
      least = d;
      best = i;
    }
  }
  return best;
}
