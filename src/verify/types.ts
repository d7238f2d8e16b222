import type { DiagnosticCode } from "../diagnostics.ts";
import type { Plan, StepRecord } from "../plan/types.ts";
import type { OptLevel } from "../runtime/types.ts";

/** Error of one output against the float model's, over all samples. */
export interface OutputError {
  readonly name: string;
  readonly shape: readonly number[];
  /** Samples compared; each ratio below is over all of their elements. */
  readonly n: number;
  readonly sqnrDb: number;
  /** Middle of the samples' own SQNR, and the worst of them. */
  readonly medianSqnrDb: number;
  readonly worst: { readonly sample: string; readonly sqnrDb: number };
  readonly cosine: number;
  readonly maxAbsError: number;
  /** Rows (along the last axis) whose largest element is at the same place, where outputs are scores of classes. */
  readonly agreement?: { readonly rate: number; readonly rows: number };
  /** Elements that are NaN or infinite on either side: left out of everything above. */
  readonly nonFinite: number;
}

/** A value with its 95 % interval. */
export interface Estimate {
  readonly value: number;
  readonly interval?: readonly [number, number];
}

/** The task metric of both models on the same samples. */
export interface MetricComparison {
  readonly name: string;
  readonly unit: "%" | "dB" | "";
  readonly better: "higher" | "lower";
  readonly n: number;
  readonly float: Estimate;
  readonly quantized: Estimate;
  /** quantized − float; `se` is of the difference, from the same samples (`paired`) or from leaving out groups of them (`jackknife`). */
  readonly difference: {
    readonly value: number;
    readonly se: number;
    readonly interval: readonly [number, number];
    readonly from: "paired" | "jackknife";
  };
  /** For metrics of right and wrong: samples that became wrong and right, and McNemar's exact two-sided p. */
  readonly flips?: {
    readonly lost: number;
    readonly won: number;
    readonly p: number;
    /** The first of them by name. */
    readonly samples?: { readonly lost: readonly string[]; readonly won: readonly string[] };
  };
}

export interface LevelReport {
  readonly level: OptLevel;
  readonly outputs: readonly OutputError[];
  readonly metric?: MetricComparison;
}

/** How far a value inside the quantized graph is from the float one, errors of earlier layers included. */
export interface LayerError {
  readonly node: string;
  readonly op: string;
  readonly value: string;
  readonly sqnrDb: number;
  /** Noise ÷ signal here, less that of the noisiest input: what this layer added. */
  readonly noiseAdded: number;
  readonly state: "quantized" | "float";
}

export interface Latency {
  readonly level: OptLevel;
  readonly threads: number;
  readonly rounds: number;
  readonly float: Milliseconds;
  readonly quantized: Milliseconds;
  /** Quantized ÷ float: below 1 is faster. Hodges and Lehmann's estimate over the rounds' ratios. */
  readonly ratio: number;
  /** 95 %, from Wilcoxon's signed-rank test; missing where the rounds bound nothing. */
  readonly interval?: readonly [number, number];
}
export interface Milliseconds {
  readonly medianMs: number;
  readonly p10Ms: number;
  readonly p90Ms: number;
}

export type Verdict =
  /** Compared, and nothing below is wrong. */
  | "ok"
  /** An output carries more noise than signal is useful, or an optimizer changes the result. */
  | "suspect"
  /** There was no held-out sample. */
  | "not-verified";

export interface Machine {
  readonly platform: string;
  readonly arch: string;
  readonly cpu: string;
  readonly cores: number;
  readonly node: string;
  readonly onnxruntime: string;
  /** What a provider other than the CPU runs on, when times come from one. */
  readonly device?: string;
}

/** The document `report.json`; see docs/report.schema.json. Non-finite numbers are written as strings. */
export interface VerifyReport {
  readonly schema: "qc.report/1";
  readonly tool: string;
  readonly model: { readonly structure: string; readonly weights: string };
  readonly target: string;
  readonly recipe: string;
  readonly calibrator?: string;
  readonly seed: number;
  readonly data?: {
    readonly name: string;
    readonly sha256: string;
    readonly calibrate: number;
    readonly select: number;
    readonly heldOut: number;
  };
  readonly verdict: Verdict;
  readonly why: readonly string[];
  /** Held-out samples that were run, of those there are. */
  readonly samples: { readonly n: number; readonly of: number };
  readonly levels: readonly LevelReport[];
  readonly layers: { readonly n: number; readonly rows: readonly LayerError[] };
  readonly latency?: Latency;
  /** What the plan should take by a cost table. */
  readonly time?: NonNullable<Plan["time"]>;
  readonly bytes: { readonly before: number; readonly after: number };
  /** Stored bits of the weights that the plan touches, scales and zero points included, over their count. */
  readonly bitsPerWeight?: number;
  readonly sites: { readonly weight: number; readonly static: number; readonly dynamic: number; readonly cast: number };
  /** Convolutions, matrix products and recurrent layers: quantized on both sides, on the weight side alone, or float. */
  readonly products: { readonly products: number; readonly both: number; readonly weightOnly: number; readonly float: number };
  /** Nodes left in float, by the code of the reason. */
  readonly skips: Readonly<Record<string, number>>;
  /** Optimising steps and what each did on the select samples. */
  readonly steps: readonly StepRecord[];
  /** Loss of the output per layer and scheme, when it was measured; null: not tried. */
  readonly sensitivity?: {
    readonly unit: string;
    readonly schemes: readonly string[];
    readonly rows: readonly { readonly node: string; readonly losses: readonly (number | null)[] }[];
  };
  /** Plans that were weighed against each other: bytes of weights against loss. */
  readonly frontier?: {
    readonly unit: string;
    readonly points: readonly { readonly bytes: number; readonly loss: number; readonly chosen?: boolean }[];
  };
  readonly stages: readonly { readonly stage: string; readonly seconds: number }[];
  readonly diagnostics: readonly {
    readonly code: DiagnosticCode;
    readonly severity: string;
    readonly text: string;
    readonly note: string;
  }[];
  readonly machine: Machine;
}
