import { flipInterval, quantileOf } from "../statistics.ts";
import type { MetricComparison } from "../types.ts";

/**
 * How a figure that carries noise is judged.
 *
 *   fail       the estimate is above `most`, and its lower bound is above `harmless`
 *   pass       the upper bound is below `harmful`, and the estimate is not above `most`
 *   undecided  neither: there are too few samples, and `need` says how many would do
 *
 * Bounds are one-sided at 1 − alpha. What follows: a candidate whose true change is at most `harmless` fails with probability at most
 * alpha, and one whose true change is `harmful` or more passes with probability at most alpha, whatever the number of samples. With
 * enough samples for a standard error of (harmful − most)/z, it fails with probability 1 − alpha. Between the two the estimate decides.
 * `harmless` = `most` is the strict reading: nothing fails that is not above the limit beyond doubt.
 */
export interface Limits {
  readonly most: number;
  readonly harmless: number;
  readonly harmful: number;
  readonly alpha: number;
}
export type Outcome = "pass" | "fail" | "undecided";
export interface Decided {
  readonly outcome: Outcome;
  /** How much worse than the reference, in the limit's unit; negative is better. */
  readonly change: number;
  /** One-sided bounds. */
  readonly low: number;
  readonly high: number;
  /** Samples (or rounds) for the stated error rates; only when undecided. */
  readonly need?: number;
}

/** `n`: samples behind the bounds. Bounds may be infinite: one sample knows nothing of its error. */
export function decide(e: { readonly change: number; readonly low: number; readonly high: number }, l: Limits, n: number): Decided {
  const { change, low, high } = e;
  const head = { change, low, high };
  if (change > l.most && low > l.harmless) return { outcome: "fail", ...head };
  if (change <= l.most && high < l.harmful) return { outcome: "pass", ...head };
  // Half the interval falls with 1/sqrt(n); it must fit between the limit and the harmful change.
  const half = (high - low) / 2;
  const room = Math.max(l.harmful - l.most, Math.abs(l.most) * 1e-3, Number.MIN_VALUE);
  const need = Math.ceil(n * (half / room) ** 2);
  // The interval may be narrow enough already, and the change just where it cannot be told: then only more of the same helps.
  return { outcome: "undecided", ...head, ...(Number.isFinite(need) ? { need: Math.max(need, n + 1) } : {}) };
}

/**
 * The metric's change in its bad direction, with bounds. Rates: McNemar's exact test on the flips decides whether there is a loss at
 * all; the bounds are Agresti and Min's. Others: the paired (or jackknife) standard error.
 */
export function metricChange(m: MetricComparison, alpha: number): { readonly change: number; readonly low: number; readonly high: number } {
  const sign = m.better === "higher" ? -1 : 1;
  const change = sign * m.difference.value;
  const z = normalQuantile(1 - alpha);
  const half = z * m.difference.se;
  if (m.flips === undefined) return bounded(change, change - half, change + half);
  const { lost, won } = m.flips;
  const scale = m.unit === "%" ? 100 : 1;
  // In units of the metric, loss counted positive: `worse` of the flips went the bad way.
  const [worse, better] = sign < 0 ? [lost, won] : [won, lost];
  const [lo, hi] = flipInterval(better, worse, m.n, z);
  const low = lo * scale;
  // No verdict of a loss without the exact test: the interval is an approximation.
  const shown = worseTail(worse, better) <= alpha;
  // Few flips: the approximation is too sure, the exact bound of the lost ones alone is not.
  const high = Math.max(hi, rateUpper(worse, m.n, alpha) - better / m.n);
  return bounded(change, shown ? Math.max(low, Number.MIN_VALUE) : Math.min(low, 0), high * scale);
}
const bounded = (change: number, low: number, high: number) => ({
  change,
  low: Number.isNaN(low) ? -Infinity : low,
  high: Number.isNaN(high) ? Infinity : high,
});

/** Clopper and Pearson's upper bound of a rate: the p at which k or fewer of n have probability alpha (1 − alpha^(1/n) for k = 0). */
export function rateUpper(k: number, n: number, alpha: number): number {
  if (k >= n) return 1;
  let [lo, hi] = [k / n, 1];
  for (let step = 0; step < 60; step++) {
    const p = (lo + hi) / 2;
    let log = n * Math.log1p(-p);
    let sum = 0;
    for (let i = 0; i <= k; i++) {
      sum += Math.exp(log);
      log += Math.log(((n - i) / (i + 1)) * (p / (1 - p)));
    }
    if (sum > alpha) lo = p;
    else hi = p;
  }
  return hi;
}

/** McNemar, one-sided and exact: P(X ≥ worse), X ~ Binomial(worse + better, ½). */
export function worseTail(worse: number, better: number): number {
  const n = worse + better;
  let log = -n * Math.LN2;
  let sum = 0;
  // From X = n downwards: as many terms as X = 0 … better.
  for (let i = 0; i <= better; i++) {
    sum += Math.exp(log);
    log += Math.log((n - i) / (i + 1));
  }
  return Math.min(1, sum);
}

/**
 * Ratio of two series taken in turn: Hodges and Lehmann's estimate of the shift of log(b/a), the median of all Walsh averages
 * (d_i + d_j)/2, with the one-sided bounds that Wilcoxon's signed-rank test inverts to (Hollander & Wolfe, ch. 3.3). Outliers of a noisy
 * machine move neither. `lag`: neighbours in time share disturbances; the bound is widened by the first autocorrelation r of the
 * differences, sqrt((1 + r)/(1 − r)), when r > 0.
 */
export function pairedRatio(a: readonly number[], b: readonly number[], alpha: number): Ratio {
  const d = a.map((x, i) => Math.log(b[i]! / x));
  const n = d.length;
  const walsh = new Float64Array((n * (n + 1)) / 2);
  let at = 0;
  for (let i = 0; i < n; i++) for (let j = i; j < n; j++) walsh[at++] = (d[i]! + d[j]!) / 2;
  walsh.sort();
  const z = normalQuantile(1 - alpha);
  const r = Math.min(0.9, Math.max(0, autocorrelation(d)));
  const widen = Math.sqrt((1 + r) / (1 - r));
  const sd = Math.sqrt((n * (n + 1) * (2 * n + 1)) / 24) * widen;
  return bounds(walsh, (n * (n + 1)) / 4 - z * sd);
}

/** The same for series that were not taken in turn (a stored baseline): differences of all pairs, Mann and Whitney's test inverted. */
export function unpairedRatio(a: readonly number[], b: readonly number[], alpha: number): Ratio {
  const all = new Float64Array(a.length * b.length);
  let at = 0;
  for (const x of a) for (const y of b) all[at++] = Math.log(y / x);
  all.sort();
  const sd = Math.sqrt((a.length * b.length * (a.length + b.length + 1)) / 12);
  return bounds(all, all.length / 2 - normalQuantile(1 - alpha) * sd);
}

/** b ÷ a. */
export interface Ratio {
  readonly ratio: number;
  readonly low: number;
  readonly high: number;
}

/** The k-th smallest and k-th largest of the sorted differences; none when there are too few for this level. */
function bounds(sorted: Float64Array, k: number): Ratio {
  const c = Math.floor(k);
  const known = c >= 0 && sorted.length > 0;
  return {
    ratio: Math.exp(quantileOf(sorted, 0.5)),
    low: known ? Math.exp(sorted[c]!) : 0,
    high: known ? Math.exp(sorted[sorted.length - 1 - c]!) : Infinity,
  };
}

/** Differences of logarithms closer than this are equal: a millionth of a percent is the clock's rounding. */
const SAME = 1e-8;

/** First autocorrelation of ranks (ties share theirs), so that one spike does not hide it. */
function autocorrelation(d: readonly number[]): number {
  const n = d.length;
  if (n < 8) return 0;
  const order = d.map((_, i) => i).sort((i, j) => d[i]! - d[j]!);
  const rank = new Float64Array(n);
  for (let from = 0; from < n; ) {
    let to = from + 1;
    while (to < n && d[order[to]!]! - d[order[from]!]! < SAME) to++;
    for (let k = from; k < to; k++) rank[order[k]!] = (from + to - n) / 2;
    from = to;
  }
  let num = 0;
  let den = 0;
  for (let i = 0; i < n; i++) {
    den += rank[i]! ** 2;
    if (i > 0) num += rank[i]! * rank[i - 1]!;
  }
  return den === 0 ? 0 : num / den;
}

/** Inverse of the normal distribution (Acklam's rational approximation, relative error below 1.2e-9). */
export function normalQuantile(p: number): number {
  if (!(p > 0 && p < 1)) throw new RangeError(`internal: quantile ${p}`);
  const A = [-39.69683028665376, 220.9460984245205, -275.9285104469687, 138.357751867269, -30.66479806614716, 2.506628277459239];
  const B = [-54.47609879822406, 161.5858368580409, -155.6989798598866, 66.80131188771972, -13.28068155288572, 1];
  const C = [-0.007784894002430293, -0.3223964580411365, -2.400758277161838, -2.549732539343734, 4.374664141464968, 2.938163982698783];
  const D = [0.007784695709041462, 0.3224671290700398, 2.445134137142996, 3.754408661907416, 1];
  const poly = (c: readonly number[], x: number) => c.reduce((s, v) => s * x + v, 0);
  const low = 0.02425;
  if (p < low) {
    const q = Math.sqrt(-2 * Math.log(p));
    return poly(C, q) / poly(D, q);
  }
  if (p > 1 - low) return -normalQuantile(1 - p);
  const q = p - 0.5;
  return (poly(A, q * q) * q) / poly(B, q * q);
}
