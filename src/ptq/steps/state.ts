import type { Stats } from "../../calibrate/types.ts";
import type { DataSet } from "../../data/types.ts";
import type { Report } from "../../diagnostics.ts";
import type { Model } from "../../graph/ir.ts";
import type { ValueType } from "../../graph/types.ts";
import type { Target } from "../../plan/target.ts";
import type { PlanBundle, StepRecord } from "../../plan/types.ts";
import type { Runtime, SessionOptions } from "../../runtime/types.ts";
import type { Judge, Verdict } from "../judge.ts";
import { layersOf } from "../layers.ts";
import { LAMBDA, type Solved, type SolveOptions } from "../sequential.ts";
import { SOLVE_BEST, SOLVE_DEFAULT } from "../solve/rows.ts";

export type ImproveEffort = "fast" | "default" | "best";

export interface ImproveContext {
  /** The prepared model. */
  readonly model: Model;
  /** Types of its values by path. */
  readonly types?: ReadonlyMap<string, ValueType>;
  /** The plan of round-to-nearest weights and calibrated ranges: always a candidate. */
  readonly bundle: PlanBundle;
  readonly stats?: Stats;
  readonly data: DataSet;
  /** Samples that statistics are taken from. Default: the role `calibrate`. */
  readonly calibrate?: readonly number[];
  /** Samples that decide what is kept. Default: the role `select`; without any, every fourth calibration sample, taken out of the others. */
  readonly select?: readonly number[];
  readonly runtime: Runtime;
  readonly target: Target;
  readonly effort: ImproveEffort;
  readonly seed?: number;
  readonly session?: SessionOptions;
  /** For kept activations. */
  readonly memoryBytes?: number;
  /** Steps by name; default: those of the effort. For measuring what each is worth. */
  readonly steps?: readonly StepName[];
  readonly report?: Report;
  /** What each step measured, for benchmarks. */
  readonly trace?: (step: string, before: Verdict, after: Verdict) => void;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** In order. Each starts from the best plan so far. */
export const STEPS = [
  "ranges",
  "refine",
  "rounding",
  "variants",
  "ranges-behind",
  "rounding-symmetric",
  "bias",
  "equalize",
  "smooth",
  "learned",
  "blocks",
] as const;
export type StepName = (typeof STEPS)[number];

/** What steps work on. */
export interface State {
  readonly ctx: ImproveContext;
  /** The model that layers are taken from: the one given, or the same function with other scales inside. */
  model: Model;
  readonly judge: Judge;
  readonly calibrate: readonly number[];
  readonly steps: StepRecord[];
  best: PlanBundle;
  /** What the next walk starts from: the best plan, or one whose ranges are better with its weights aside. */
  base: PlanBundle;
  /** How the layers of the best plan were solved: later walks do it the same way. */
  options: SolveOptions;
  /** The solved layers in the best plan. */
  solved: readonly Solved[];
  verdict: Verdict;
  /** Weights that were reported as too costly to round. */
  readonly costly: Set<string>;
}

export const ROUNDED = "rounded by output error";

export const CLOSED_FORM = { lambda: LAMBDA, asymmetric: true, correctBias: true, effort: SOLVE_DEFAULT } as const satisfies SolveOptions;
export const HARDER = { effort: SOLVE_BEST, light: false } as const;
export const solvedAlready = (s: State) => s.solved.length > 0;
/** Fewer than 8 bits: the rounding of weights, not the ranges of activations, makes the error of the plan given. */
export const fewBits = (s: State) => layersOf(s.model, s.best).some((l) => /int[24]$/.test(l.site.scheme.dtype));

/** At most `most`, evenly spaced. */
export function thin(indices: readonly number[], most: number): readonly number[] {
  const n = indices.length;
  return n <= most ? indices : Array.from({ length: most }, (_, i) => indices[Math.floor((i * n) / most)]!);
}
