/**
 * What the observers saw of one value; no decision yet. Everything adds (or takes min/max), so merging shards in any order
 * gives the same numbers, bit for bit: counts are integers below 2^53 in Float64.
 */
export interface ValueStats {
  readonly name: string;
  /** Finite elements, exact zeros included. */
  readonly count: number;
  /** 0 where only the range was asked for. */
  readonly zeros: number;
  readonly nan: number;
  readonly inf: number;
  /** Of the finite elements; +Infinity / -Infinity when there was none. */
  readonly min: number;
  readonly max: number;
  /** Absent when no element was finite, or only the range was asked for. */
  readonly hist: Histogram | undefined;
  /** Runs that gave elements (one sample a run): a value in a branch that was not taken gives none. */
  readonly runs: number;
}

/**
 * Signed histogram with bins of width 2^exp: bin i of `counts` covers [(first + i) * 2^exp, (first + i + 1) * 2^exp).
 * The width is the smallest power of two for which [min, max] fits 4096 bins (2049 or more, unless the range is narrower than 2^-19
 * of the largest magnitude), reached by merging pairs, so that it does not depend on order, batching or shards. Exact zeros are counted
 * in `zeros` only, not here.
 */
export interface Histogram {
  readonly exp: number;
  readonly first: number;
  readonly counts: Float64Array;
}

export interface Stats {
  readonly schema: "qc.stats/1";
  readonly model: { readonly structure: string; readonly weights: string };
  readonly prepare: string;
  readonly samples: number;
  /** HMAC of each sample's content with the set's secret, sorted: merge detects overlap, outsiders cannot test membership. */
  readonly sampleKeys: readonly string[];
  readonly values: ReadonlyMap<string, ValueStats>;
}

export interface Range {
  readonly min: number;
  readonly max: number;
}

export type CalibratorName = "minmax" | "percentile" | "entropy" | "mse";

/** Takes statistics and decides a range. Pure. `levels`: codes available; `symmetric`: range will be [-T, T]. */
export interface Calibrator {
  readonly name: CalibratorName;
  choose(s: ValueStats, o: { readonly levels: number; readonly symmetric: boolean }): RangeChoice;
}
export interface RangeChoice extends Range {
  /** Fraction of finite elements outside the range. */
  readonly clipped: number;
  /** Entropy: fraction of the non-zero elements that it had to leave out as spikes of the histogram. */
  readonly spikes?: number;
  readonly note?: string;
}
