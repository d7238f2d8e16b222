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
export function flipInterval(lost: number, won: number, n: number, z = Z): readonly [number, number] {
  const m = n + 2;
  const d = (won - lost) / m;
  const se = Math.sqrt(lost + won + 1 - (won - lost) ** 2 / m) / m;
  return [Math.max(-1, d - z * se), Math.min(1, d + z * se)];
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

/** One model's metric, with what a paired comparison needs. It can be kept in a file and compared later, on the same samples. */
export interface MetricRun {
  readonly value: number;
  readonly n: number;
  readonly interval?: readonly [number, number];
  /** One value a sample, in order, when the metric is their mean (times 100 for percent). */
  readonly perSample?: readonly number[];
  /** Otherwise the metric without group g, where sample i belongs to group i mod G. */
  readonly without?: readonly number[];
}

/** Folds one model's outputs into a `MetricRun`. */
export class MetricFold {
  readonly #whole: MetricState;
  readonly #without: readonly MetricState[];
  #n = 0;

  /** `total`: samples that will come, so that each group has some. */
  constructor(metric: Metric, total: number) {
    this.#whole = metric.start();
    const groups = total >= 2 ? Math.min(GROUPS, total) : 0;
    this.#without = Array.from({ length: groups }, () => metric.start());
  }

  add(outputs: Readonly<Record<string, Tensor>>, sample: Sample, reference?: Readonly<Record<string, Tensor>>): void {
    this.#whole.add(outputs, sample, reference);
    const own = this.#without.length === 0 ? -1 : this.#n % this.#without.length;
    for (let g = 0; g < this.#without.length; g++) if (g !== own) this.#without[g]!.add(outputs, sample, reference);
    this.#n++;
  }

  result(): MetricRun {
    const { value, perSample: x, interval } = this.#whole.result();
    const isMean = x !== undefined && x.length > 0 && nearlyMean(x, value);
    return {
      value,
      n: this.#n,
      ...(interval === undefined ? {} : { interval }),
      ...(isMean ? { perSample: [...x] } : { without: this.#without.map((s) => s.result().value) }),
    };
  }
}

/**
 * A metric of two models over the same samples. Metrics that are means of per-sample values are compared sample by sample. For the
 * others (AUC, mAP, perplexity) sample `i` belongs to group `i mod G`, and the metric is computed with each group left out:
 *
 *   jackknife se = sqrt((G − 1)/G · Σ (d_g − mean d)²),  d_g = difference without group g   (Quenouille, Tukey; Efron & Stein 1981)
 */
export class PairedMetric {
  readonly #metric: Metric;
  readonly #folds: readonly [MetricFold, MetricFold];
  readonly #ids: string[] = [];

  /** `total`: samples that will come, so that each group has some. */
  constructor(metric: Metric, total: number) {
    this.#metric = metric;
    this.#folds = [new MetricFold(metric, total), new MetricFold(metric, total)];
  }

  add(float: Readonly<Record<string, Tensor>>, quantized: Readonly<Record<string, Tensor>>, sample: Sample): void {
    this.#folds[0].add(float, sample, float);
    this.#folds[1].add(quantized, sample, float);
    this.#ids.push(sample.id);
  }

  result(): MetricComparison {
    return compareRuns(this.#metric, this.#folds[0].result(), this.#folds[1].result(), this.#ids);
  }
}

/** Samples whose names are kept for each direction of a flip: what a person looks at. */
const FLIPS_NAMED = 24;

export function compareRuns(
  { name, unit, better }: Pick<Metric, "name" | "unit" | "better">,
  a: MetricRun,
  b: MetricRun,
  ids: readonly string[] = [],
): MetricComparison {
  const value = b.value - a.value;
  const head = { name, unit, better, n: a.n };
  const { perSample: x } = a;
  const y = b.perSample;
  if (x === undefined || y === undefined || x.length !== y.length) {
    const [f, q] = [a.without ?? [], b.without ?? []];
    const se = jackknife(f.length === q.length ? f.map((v, g) => q[g]! - v) : []);
    const of = (r: MetricRun): Estimate => ({ value: r.value, interval: r.interval ?? around(r.value, jackknife(r.without ?? [])) });
    return { ...head, float: of(a), quantized: of(b), difference: { value, se, interval: around(value, se), from: "jackknife" } };
  }
  const scale = scaleOf(x, a.value);
  const difference = x.map((v, i) => (y[i]! - v) * scale);
  const se = meanOf(difference).se;
  const rate = x.every(isVerdict) && y.every(isVerdict);
  const of = (r: MetricRun, v: readonly number[]): Estimate => {
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
  const named = (sign: number) => ids.filter((_, i) => difference[i]! * sign > 0).slice(0, FLIPS_NAMED);
  const interval = rate ? flipInterval(lost, won, x.length).map((v) => v * scale) : around(value, se);
  return {
    ...head,
    float: of(a, x),
    quantized: of(b, y),
    difference: { value, se, interval: [interval[0]!, interval[1]!], from: "paired" },
    ...(rate
      ? {
          flips: {
            lost,
            won,
            p: mcnemar(lost, won),
            ...(lost + won > 0 && ids.length === x.length ? { samples: { lost: named(-1), won: named(1) } } : {}),
          },
        }
      : {}),
  };
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
