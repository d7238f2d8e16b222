import { autoCandidates } from "../calibrate/auto.ts";
import type { Stats } from "../calibrate/types.ts";
import type { DataSet } from "../data/types.ts";
import type { Report } from "../diagnostics.ts";
import type { Model } from "../graph/ir.ts";
import type { ValueType } from "../graph/types.ts";
import type { Target } from "../plan/target.ts";
import type { PlanBundle, StepRecord } from "../plan/types.ts";
import type { Runtime, SessionOptions } from "../runtime/types.ts";
import { withRanges, withSolved } from "./amend.ts";
import { Judge, type Verdict } from "./judge.ts";
import { layersOf } from "./layers.ts";
import { LAMBDA, type Solved, type SolveOptions, solveLayer, solveSequentially } from "./sequential.ts";
import { AdaRound } from "./solve/adaround.ts";
import { SOLVE_BEST, SOLVE_DEFAULT } from "./solve/rows.ts";
import { Streams } from "./streams.ts";

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
  readonly force?: boolean;
  readonly trace?: (step: string, before: Verdict, after: Verdict) => void;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Samples at most: more do not help (measured with 512 and 3000 images: the grid limits, not the data). */
const MOST_CALIBRATE = 512;
const MOST_SELECT = 128;
/** Kept activations, when the caller sets no limit. */
const MEMORY = 64 * 2 ** 20;

/** In order. Each starts from the best plan so far. */
export const STEPS = ["ranges", "rounding", "rounding-symmetric", "bias", "learned"] as const;
export type StepName = (typeof STEPS)[number];

const EFFORT_STEPS: Readonly<Record<ImproveEffort, readonly StepName[]>> = {
  fast: [],
  default: ["rounding", "rounding-symmetric"],
  best: ["ranges", "rounding", "rounding-symmetric", "bias", "learned"],
};

/** What steps work on. */
interface State {
  readonly ctx: ImproveContext;
  readonly judge: Judge;
  readonly calibrate: readonly number[];
  readonly steps: StepRecord[];
  best: PlanBundle;
  verdict: Verdict;
}

/**
 * The plan given, made better step by step. Every step is measured on `select` before and after, as the model that would be shipped, and
 * is kept only when it helps, so that no effort ends below the plan given there. The records say what each step did.
 */
export async function improvePlan(ctx: ImproveContext): Promise<PlanBundle> {
  const wanted = ctx.steps ?? EFFORT_STEPS[ctx.effort];
  const { calibrate, select } = samplesOf(ctx);
  if (wanted.length === 0 || calibrate.length === 0 || select.length === 0) return ctx.bundle;
  const judge = new Judge({
    model: ctx.model,
    target: ctx.target,
    runtime: ctx.runtime,
    data: ctx.data,
    indices: select,
    ...(ctx.session && { session: ctx.session }),
    ...(ctx.signal && { signal: ctx.signal }),
  });
  try {
    const state: State = {
      ctx,
      judge,
      calibrate,
      steps: [...ctx.bundle.plan.steps],
      best: ctx.bundle,
      verdict: await judge.measure(ctx.bundle),
    };
    for (const name of wanted) {
      ctx.signal?.throwIfAborted();
      await RUN[name](state);
    }
    return { ...state.best, plan: { ...state.best.plan, steps: state.steps } };
  } finally {
    await judge.close();
  }
}

/** Statistics and decisions from different samples. */
export function samplesOf(ctx: Pick<ImproveContext, "data" | "calibrate" | "select">): {
  readonly calibrate: readonly number[];
  readonly select: readonly number[];
} {
  const all = ctx.calibrate ?? ctx.data.roles.calibrate;
  const given = ctx.select ?? ctx.data.roles.select;
  if (given.length > 0) return { calibrate: thin(all, MOST_CALIBRATE), select: thin(given, MOST_SELECT) };
  const part = all.length < 8 ? [] : all.filter((_, i) => i % 4 === 3);
  const select = new Set(thin(part, MOST_SELECT));
  return {
    calibrate: thin(part.length === 0 ? all : all.filter((i) => !select.has(i)), MOST_CALIBRATE),
    select: part.length === 0 ? all : [...select],
  };
}

/** At most `most`, evenly spaced. */
function thin(indices: readonly number[], most: number): readonly number[] {
  const n = indices.length;
  return n <= most ? indices : Array.from({ length: most }, (_, i) => indices[Math.floor((i * n) / most)]!);
}

/** Measures a candidate and keeps the better. */
async function tryCandidate(
  s: State,
  step: string,
  candidate: PlanBundle,
  facts: Pick<StepRecord, "layers" | "detail"> = {},
): Promise<boolean> {
  const after = await s.judge.measure(candidate);
  const kept = after.pooledDb > s.verdict.pooledDb || s.ctx.force === true;
  if (s.ctx.trace) s.ctx.trace(step, s.verdict, after);
  s.steps.push({ step, before: s.verdict.pooledDb, after: after.pooledDb, unit: "dB", kept, ...facts });
  if (kept) {
    s.best = candidate;
    s.verdict = after;
  }
  return kept;
}

const CLOSED_FORM = { lambda: LAMBDA, asymmetric: true, correctBias: true, effort: SOLVE_DEFAULT } as const satisfies SolveOptions;
const HARDER = { effort: SOLVE_BEST, light: false } as const;
const LEARNING_STEPS = 1500;
const solvedAlready = (s: State) => s.steps.some((t) => /^rounding|^ranges/.test(t.step) && t.kept);

const RUN: Readonly<Record<StepName, (s: State) => Promise<void>>> = {
  // Ranges were calibrated for round-to-nearest weights; with the prefix repaired layer by layer another calibrator may be best.
  ranges: async (s) => {
    const { stats, model } = s.ctx;
    if (!stats) return;
    const start = s.best;
    const outputs = new Set(model.graph.outputs.map((v) => v.name));
    for (const { spec, calibrator } of autoCandidates()) {
      if (spec === "entropy" || spec === start.plan.calibrator) continue;
      const other = withRanges(start, stats, calibrator, spec, outputs);
      if (JSON.stringify(other.plan.sites) === JSON.stringify(start.plan.sites)) continue;
      const solved = await solve(s, other, CLOSED_FORM);
      await tryCandidate(s, "ranges", withSolved(other, solved, "rounded by output error"), { layers: solved.length, detail: spec });
    }
  },
  rounding: (s) => solveStep(s, "rounding", { ...CLOSED_FORM, ...(s.ctx.effort === "best" && HARDER) }),
  // Towards W instead of W*: where many branches are summed, repairing the prefix in every one of them can be too much.
  "rounding-symmetric": async (s) => {
    if (!solvedAlready(s)) await solveStep(s, "rounding-symmetric", { ...CLOSED_FORM, asymmetric: false });
  },
  // The full bias correction alone, on round-to-nearest weights: a part of both above.
  bias: async (s) => {
    if (!solvedAlready(s)) await solveStep(s, "bias", { ...CLOSED_FORM, asymmetric: false, keepCodes: true });
  },
  learned: async (s) => {
    // At 8 bits there is nothing to win: the loss of solved codes is far below that of the activations.
    if (!layersOf(s.ctx.model, s.best).some((l) => /int[24]$/.test(l.site.scheme.dtype))) return;
    const engine = new AdaRound(s.ctx.runtime);
    try {
      await solveStep(s, "learned", { ...CLOSED_FORM, ...HARDER, learned: { engine, steps: LEARNING_STEPS } });
    } finally {
      await engine.release();
    }
  },
};

/** One walk over the layers of the best plan so far. */
async function solveStep(s: State, step: string, options: SolveOptions): Promise<void> {
  const solved = await solve(s, s.best, options);
  if (solved.length === 0) return;
  await tryCandidate(s, step, withSolved(s.best, solved, options.keepCodes ? "bias corrected" : "rounded by output error"), {
    layers: solved.length,
  });
}

async function solve(s: State, bundle: PlanBundle, options: SolveOptions): Promise<Solved[]> {
  const { ctx } = s;
  const layers = layersOf(ctx.model, bundle);
  if (layers.length === 0) return [];
  return solveSequentially({
    streams: new Streams(ctx.model, bundle, ctx.types),
    runtime: ctx.runtime,
    layers,
    indices: s.calibrate,
    load: async (i) => (await ctx.data.sample(i)).feeds,
    memoryBytes: ctx.memoryBytes ?? MEMORY,
    seed: ctx.seed ?? 0,
    solve: (layer, grams, halves) => solveLayer(layer, grams, halves, options),
    ...(ctx.progress && { progress: ctx.progress }),
    ...(ctx.signal && { signal: ctx.signal }),
  });
}
