import type { Feeds, Tensor } from "../runtime/types.ts";

/** One example: what the graph is fed (batch axis included), and what the metric needs. */
export interface Sample {
  /** Stable name in its set: index, file name. */
  readonly id: string;
  readonly feeds: Feeds;
  readonly label?: Label;
  /** Slice for per-group figures. */
  readonly group?: string;
  /** The file it came from, when it is one (reports show images). */
  readonly file?: string;
}
export type Label = number | string | Tensor | readonly BoxLabel[] | readonly number[];
export interface BoxLabel {
  readonly class: number;
  readonly cx: number;
  readonly cy: number;
  readonly w: number;
  readonly h: number;
}

export type Role = "calibrate" | "select" | "heldOut";

/** A data set bound to a model's inputs. Samples are loaded one at a time; two reads of one index give equal bytes. */
export interface DataSet {
  readonly name: string;
  readonly size: number;
  /** Sample indices per role; disjoint. */
  readonly roles: Readonly<Record<Role, readonly number[]>>;
  /** Hash of the set's description and content, for manifests. */
  readonly sha256: string;
  readonly metric: Metric | undefined;
  /** Class index per sample where known cheaply (stratified draws). */
  readonly classes: readonly (number | undefined)[] | undefined;
  /** Input → output fed back (`SessionOptions.state`). Samples then follow each other within a sequence. */
  readonly state?: Readonly<Record<string, string>>;
  /**
   * Per sample the number of its sequence; samples of one sequence stand side by side, in order, and have one role. The first of a
   * sequence feeds the state inputs, the others leave them out. undefined: every sample stands alone.
   */
  readonly sequences?: readonly number[] | undefined;
  /** Keys the hashes of samples in manifests, so that outsiders cannot test who is in the set. Never written anywhere. */
  readonly secret?: string;
  sample(index: number): Promise<Sample>;
}

/**
 * A task metric as a fold. `outputs` are a model's outputs for one sample. `perSample` in the result, where the metric has one value
 * a sample, makes paired comparison possible.
 */
export interface Metric {
  readonly name: string;
  readonly unit: "%" | "dB" | "";
  readonly better: "higher" | "lower";
  /** The metric compares with the float model's outputs: `add` needs its third argument. */
  readonly needsReference?: boolean;
  start(): MetricState;
}
export interface MetricState {
  /** `reference`: the float model's outputs for the same sample. */
  add(outputs: Readonly<Record<string, Tensor>>, sample: Sample, reference?: Readonly<Record<string, Tensor>>): void;
  result(): MetricResult;
}
export interface MetricResult {
  readonly value: number;
  readonly n: number;
  readonly perSample: readonly number[] | undefined;
  /** 95% interval of `value` alone, when it can be had. */
  readonly interval?: readonly [number, number];
  /** Further figures: mAP over 0.5…0.95, next-token accuracy. */
  readonly more?: Readonly<Record<string, number>>;
}
