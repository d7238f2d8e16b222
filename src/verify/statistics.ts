import type { Metric, MetricState, Sample } from "../data/types.ts";
import type { Tensor } from "../runtime/types.ts";
import type { Estimate, MetricComparison } from "./types.ts";

/** Two-sided 95 % of the normal distribution. */
const Z = 1.959963984540054;

/**
 * Wilson's score interval of a rate of `k` in `n` (Wilson 1927): unlike rate ± z·se it stays in [0, 1] and is sound near the ends.
 *
 *   centre = (p + z²/2n) / (1 + z²/n);  half = z/(1 + z²/n) · sqrt(p(1−p)/n + z²/4n²)
 */
export function wilson(k: number, n: number): readonly [number, number] {
  const p = k / n;
  const d = 1 + (Z * Z) / n;
  const half = (Z / d) * Math.sqrt((p * (1 - p)) / n + (Z * Z) / (4 * n * n));
  const centre = (p + (Z * Z) / (2 * n)) / d;
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

/**
 * McNemar's exact test: under no change a flip goes either way with probability ½, so lost ~ Binomial(lost + won, ½).
 * Two-sided p = min(1, 2·P(X ≤ min(lost, won))).
 */
export function mcnemar(lost: number, won: number): number {
  const n = lost + won;
  const k = Math.min(lost, won);
  let logTerm = -n * Math.LN2;
  let sum = 0;
  for (let i = 0; i <= k; i++) {
    sum += Math.exp(logTerm);
    logTerm += Math.log((n - i) / (i + 1));
  }
  return Math.min(1, 2 * sum);
}

/**
 * Interval of the difference of two paired rates (Agresti & Min 2005): half a flip is added to each of the four cells, so that no flip in
 * a few samples is not taken for certainty.
 *
 *   d = (won − lost)/(n + 2);  se² = ((lost + won + 1) − (won − lost)²/(n + 2)) / (n + 2)²
 */
export function flipInterval(lost: number, won: number, n: number): readonly [number, number] {
  const m = n + 2;
  const d = (won - lost) / m;
  const se = Math.sqrt(lost + won + 1 - (won - lost) ** 2 / m) / m;
  return [Math.max(-1, d - Z * se), Math.min(1, d + Z * se)];
}

/** Mean and standard error of the mean. One sample has no error that could be known: Infinity. */
export function meanOf(x: readonly number[]): { readonly mean: number; readonly se: number } {
  let sum = 0;
  for (const v of x) sum += v;
  const mean = sum / x.length;
  let square = 0;
  for (const v of x) square += (v - mean) ** 2;
  return { mean, se: x.length < 2 ? Infinity : Math.sqrt(square / (x.length - 1) / x.length) };
}

export function quantileOf(sorted: ArrayLike<number>, q: number): number {
  const at = (sorted.length - 1) * q;
  const lo = Math.floor(at);
  const a = sorted[lo]!;
  const b = sorted[Math.min(lo + 1, sorted.length - 1)]!;
  // Infinity − Infinity and Infinity · 0 are NaN.
  return a === b || at === lo ? a : a + (b - a) * (at - lo);
}

/** Groups that are left out in turn when a metric is no mean of per-sample values. */
const GROUPS = 20;

/**
 * A metric of two models over the same samples. Metrics that are means of per-sample values are compared sample by sample. For the
 * others (AUC, mAP, perplexity) sample `i` belongs to group `i mod G`, and the metric is computed with each group left out:
 *
 *   jackknife se = sqrt((G − 1)/G · Σ (d_g − mean d)²),  d_g = difference without group g   (Quenouille, Tukey; Efron & Stein 1981)
 */
export class PairedMetric {
  readonly #metric: Metric;
  readonly #whole: readonly [MetricState, MetricState];
  readonly #without: readonly (readonly [MetricState, MetricState])[];
  #n = 0;

  /** `total`: samples that will come, so that each group has some. */
  constructor(metric: Metric, total: number) {
    this.#metric = metric;
    this.#whole = [metric.start(), metric.start()];
    const groups = total >= 2 ? Math.min(GROUPS, total) : 0;
    this.#without = Array.from({ length: groups }, () => [metric.start(), metric.start()] as const);
  }

  add(float: Readonly<Record<string, Tensor>>, quantized: Readonly<Record<string, Tensor>>, sample: Sample): void {
    this.#whole[0].add(float, sample);
    this.#whole[1].add(quantized, sample);
    const own = this.#without.length === 0 ? -1 : this.#n % this.#without.length;
    for (let g = 0; g < this.#without.length; g++) {
      if (g === own) continue;
      this.#without[g]![0].add(float, sample);
      this.#without[g]![1].add(quantized, sample);
    }
    this.#n++;
  }

  result(): MetricComparison {
    const { name, unit, better } = this.#metric;
    const [a, b] = [this.#whole[0].result(), this.#whole[1].result()];
    const value = b.value - a.value;
    const head = { name, unit, better, n: this.#n };
    const { perSample: x } = a;
    const y = b.perSample;
    const isMean =
      x !== undefined && y !== undefined && x.length > 0 && x.length === y.length && nearlyMean(x, a.value) && nearlyMean(y, b.value);
    if (!isMean) {
      const groups = this.#without.map(([f, q]) => [f.result().value, q.result().value] as const);
      const se = jackknife(groups.map(([f, q]) => q - f));
      const of = (r: typeof a, k: 0 | 1): Estimate => ({
        value: r.value,
        interval: r.interval ?? around(r.value, jackknife(groups.map((g) => g[k]))),
      });
      return { ...head, float: of(a, 0), quantized: of(b, 1), difference: { value, se, interval: around(value, se), from: "jackknife" } };
    }
    const scale = scaleOf(x, a.value);
    const difference = x.map((v, i) => (y[i]! - v) * scale);
    const se = meanOf(difference).se;
    const rate = x.every(isVerdict) && y.every(isVerdict);
    const of = (r: typeof a, v: readonly number[]): Estimate => {
      if (r.interval !== undefined) return { value: r.value, interval: r.interval };
      if (!rate) return { value: r.value, interval: around(r.value, meanOf(v).se * scale) };
      const [lo, hi] = wilson(
        v.reduce((s, t) => s + t, 0),
        v.length,
      );
      return { value: r.value, interval: [lo * scale, hi * scale] };
    };
    const lost = difference.filter((d) => d < 0).length;
    const won = difference.filter((d) => d > 0).length;
    const interval = rate ? flipInterval(lost, won, x.length).map((v) => v * scale) : around(value, se);
    return {
      ...head,
      float: of(a, x),
      quantized: of(b, y),
      difference: { value, se, interval: [interval[0]!, interval[1]!], from: "paired" },
      ...(rate ? { flips: { lost, won, p: mcnemar(lost, won) } } : {}),
    };
  }
}

const isVerdict = (v: number) => v === 0 || v === 1;
function around(value: number, se: number): readonly [number, number] {
  return [value - Z * se, value + Z * se];
}
/** Per-sample values may be in the metric's unit, or fractions of it (0/1 against percent). */
function scaleOf(x: readonly number[], value: number): 1 | 100 {
  const { mean } = meanOf(x);
  return Math.abs(mean - value) <= Math.abs(100 * mean - value) ? 1 : 100;
}
function nearlyMean(x: readonly number[], value: number): boolean {
  const { mean } = meanOf(x);
  const close = (m: number) => Math.abs(m - value) <= 1e-9 * Math.max(1, Math.abs(value));
  return close(mean) || close(100 * mean);
}
function jackknife(d: readonly number[]): number {
  if (d.length < 2) return Infinity;
  let sum = 0;
  for (const v of d) sum += v;
  const mean = sum / d.length;
  let square = 0;
  for (const v of d) square += (v - mean) ** 2;
  return Math.sqrt(((d.length - 1) / d.length) * square);
}
