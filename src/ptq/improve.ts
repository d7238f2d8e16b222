import { autoCandidates } from "../calibrate/auto.ts";
import { calibratorOf, collectStats, minmax } from "../calibrate/index.ts";
import type { Stats } from "../calibrate/types.ts";
import type { DataSet } from "../data/types.ts";
import type { Report } from "../diagnostics.ts";
import type { Model, Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { traitOf } from "../graph/ops/index.ts";
import type { ValueType } from "../graph/types.ts";
import type { Target } from "../plan/target.ts";
import type { PlanBundle, Revert, StepRecord } from "../plan/types.ts";
import { withOutputs } from "../runtime/expose.ts";
import type { Runtime, SessionOptions } from "../runtime/types.ts";
import { activationsAlone, withConstants, withRanges, withSolved } from "./amend.ts";
import { Judge, surelyBetter, type Verdict } from "./judge.ts";
import { layersOf } from "./layers.ts";
import { refineRanges } from "./refine.ts";
import { equalize, findRescales, type Rescaling, smooth } from "./rescale.ts";
import { rankReverts } from "./reverts.ts";
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
  /** What each step measured, for benchmarks. */
  readonly trace?: (step: string, before: Verdict, after: Verdict) => void;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Samples at most: more hardly help (256 and 384 images: 0.2 dB; 512 and 3000: nothing), positions within a sample are taken instead. */
const MOST_CALIBRATE = { fast: 0, default: 256, best: 512 } as const satisfies Record<ImproveEffort, number>;
const MOST_SELECT = 128;
const MOST_REFINE = 192;
/** Kept activations, when the caller sets no limit. */
const MEMORY = 64 * 2 ** 20;

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
] as const;
export type StepName = (typeof STEPS)[number];

const EFFORT_STEPS: Readonly<Record<ImproveEffort, readonly StepName[]>> = {
  fast: [],
  default: ["ranges", "refine", "rounding", "rounding-symmetric"],
  best: STEPS,
};

/** What steps work on. */
interface State {
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
}

/**
 * The plan given, made better step by step. Every step is measured on `select` before and after, as the model that would be shipped, and
 * is kept only when it helps, so that no effort ends below the plan given there. The records say what each step did.
 */
export async function improvePlan(ctx: ImproveContext): Promise<PlanBundle> {
  const wanted = ctx.steps ?? EFFORT_STEPS[ctx.effort];
  const { calibrate, select } = samplesOf(ctx);
  if (wanted.length === 0) return ctx.bundle;
  const why =
    ctx.session?.state !== undefined
      ? "the set is one sequence, whose samples cannot be taken apart"
      : calibrate.length === 0 || select.length === 0
        ? "there are no samples to decide with"
        : undefined;
  if (why !== undefined) {
    ctx.report?.({ code: "plan/not-improved", why });
    return ctx.bundle;
  }
  reportUnsolved(ctx);
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
      model: ctx.model,
      judge,
      calibrate,
      steps: [...ctx.bundle.plan.steps],
      best: ctx.bundle,
      base: ctx.bundle,
      options: CLOSED_FORM,
      solved: [],
      verdict: await judge.measure(ctx.bundle),
    };
    for (const name of wanted) {
      ctx.signal?.throwIfAborted();
      await RUN[name](state);
    }
    const reverts = ctx.effort === "best" && ctx.steps === undefined ? await revertsOf(state, select) : state.best.plan.reverts;
    return { ...state.best, plan: { ...state.best.plan, steps: state.steps, reverts } };
  } finally {
    await judge.close();
  }
}

function reportUnsolved(ctx: ImproveContext): void {
  const solved = new Set(layersOf(ctx.model, ctx.bundle).map((l) => l.site.value));
  const products = new Set(
    ctx.model.graph.nodes.flatMap((n) => (traitOf(n) === "compute" ? n.inputs.flatMap((v) => (v ? [v.name] : [])) : [])),
  );
  const rest = ctx.bundle.plan.sites.flatMap((s) =>
    s.kind === "weight" && products.has(s.value) && !solved.has(s.value) ? [s.value] : [],
  );
  if (rest.length > 0)
    ctx.report?.({
      code: "plan/not-solved",
      weights: [...new Set(rest)],
      why: "several nodes share them, or their operator's statistics are not taken",
    });
}

/** Statistics and decisions from different samples. */
export function samplesOf(ctx: Pick<ImproveContext, "data" | "calibrate" | "select" | "effort">): {
  readonly calibrate: readonly number[];
  readonly select: readonly number[];
} {
  const all = ctx.calibrate ?? ctx.data.roles.calibrate;
  const most = MOST_CALIBRATE[ctx.effort];
  const given = ctx.select ?? ctx.data.roles.select;
  if (given.length > 0) return { calibrate: thin(all, most), select: thin(given, MOST_SELECT) };
  const part = all.length < 8 ? [] : all.filter((_, i) => i % 4 === 3);
  const select = new Set(thin(part, MOST_SELECT));
  return {
    calibrate: thin(part.length === 0 ? all : all.filter((i) => !select.has(i)), most),
    select: part.length === 0 ? all : [...select],
  };
}

/** At most `most`, evenly spaced. */
function thin(indices: readonly number[], most: number): readonly number[] {
  const n = indices.length;
  return n <= most ? indices : Array.from({ length: most }, (_, i) => indices[Math.floor((i * n) / most)]!);
}

/** Measures a plan with solved layers and keeps the better. `model`: what the layers were taken from. */
async function trySolved(
  s: State,
  step: string,
  candidate: PlanBundle,
  solved: readonly Solved[],
  detail?: string,
  model = s.model,
): Promise<void> {
  if (solved.length === 0) return;
  const after = await s.judge.measure(candidate);
  const kept = after.pooledDb > s.verdict.pooledDb;
  s.ctx.trace?.(step, s.verdict, after);
  s.steps.push({
    step,
    before: s.verdict.pooledDb,
    after: after.pooledDb,
    unit: "dB",
    kept,
    layers: solved.length,
    ...(detail !== undefined && { detail }),
  });
  if (!kept) return;
  s.best = candidate;
  s.base = candidate;
  s.model = model;
  s.solved = solved;
  s.verdict = after;
}

const ROUNDED = "rounded by output error";

const CLOSED_FORM = { lambda: LAMBDA, asymmetric: true, correctBias: true, effort: SOLVE_DEFAULT } as const satisfies SolveOptions;
const HARDER = { effort: SOLVE_BEST, light: false } as const;
const LEARNING_STEPS = 1500;
const VARIANTS = [
  [0.03, 0],
  [0.003, 0],
  [LAMBDA, 1],
] as const;
const solvedAlready = (s: State) => s.solved.length > 0;
/** Fewer than 8 bits: the rounding of weights, not the ranges of activations, makes the error of the plan given. */
const fewBits = (s: State) => layersOf(s.model, s.best).some((l) => /int[24]$/.test(l.site.scheme.dtype));

/** The plan's ranges by each other calibrator, where that makes a difference. */
function* otherRanges(s: State): Generator<{ readonly spec: string; readonly bundle: PlanBundle }> {
  const { stats, model } = s.ctx;
  if (!stats) return;
  const start = s.best;
  const outputs = new Set(model.graph.outputs.map((v) => v.name));
  for (const { spec, calibrator } of autoCandidates()) {
    if (spec === start.plan.calibrator) continue;
    const bundle = withRanges(start, stats, calibrator, spec, outputs);
    if (JSON.stringify(bundle.plan.sites) !== JSON.stringify(start.plan.sites)) yield { spec, bundle };
  }
}

const RUN: Readonly<Record<StepName, (s: State) => Promise<void>>> = {
  // Behind 4-bit round-to-nearest weights a choice of ranges is a choice by chance: choose with the weights in float.
  ranges: async (s) => {
    if (!fewBits(s) || solvedAlready(s)) return;
    const start = (await s.judge.measure(activationsAlone(s.best))).pooledDb;
    let most = start;
    let chosen: { readonly spec: string; readonly bundle: PlanBundle } | undefined;
    for (const c of otherRanges(s)) {
      const { pooledDb } = await s.judge.measure(activationsAlone(c.bundle));
      if (pooledDb <= most) continue;
      most = pooledDb;
      chosen = c;
    }
    if (!chosen) return;
    s.steps.push({ step: "ranges", before: start, after: most, unit: "dB", kept: true, detail: `${chosen.spec}, weights in float` });
    s.base = chosen.bundle;
  },
  // Ranges by what they do downstream, chosen on the samples of the statistics and confirmed on the deciding ones. With few bits the rounding
  // of weights makes the error: then only with time to spare, and confirmed with the weights in float.
  refine: async (s) => {
    const few = fewBits(s);
    if (solvedAlready(s) || (few && s.ctx.effort !== "best")) return;
    const { ctx } = s;
    const refined = await refineRanges({
      model: s.model,
      ...(ctx.types && { types: ctx.types }),
      bundle: s.base,
      runtime: ctx.runtime,
      indices: thin(s.calibrate, MOST_REFINE),
      load: async (i) => (await ctx.data.sample(i)).feeds,
      seed: ctx.seed ?? 0,
      ...(ctx.report && { report: ctx.report }),
      ...(ctx.signal && { signal: ctx.signal }),
    });
    if (refined.changed === 0) return;
    const before = few ? await s.judge.measure(activationsAlone(s.base)) : s.verdict;
    const after = await s.judge.measure(few ? activationsAlone(refined.bundle) : refined.bundle);
    const kept = surelyBetter(after, before);
    ctx.trace?.("refine", before, after);
    const detail = `${refined.changed} ranges${few ? ", weights in float" : ""}`;
    s.steps.push({ step: "refine", before: before.pooledDb, after: after.pooledDb, unit: "dB", kept, detail });
    if (!kept) return;
    s.base = refined.bundle;
    if (few) return;
    s.best = refined.bundle;
    s.verdict = after;
  },
  // Other dampings, other positions of the samples: each is a fair draw, and the network's output tells which came out best.
  variants: async (s) => {
    if (!fewBits(s) || !solvedAlready(s)) return;
    const seed = s.ctx.seed ?? 0;
    for (const [lambda, draw] of VARIANTS) {
      const solved = await solve(s, s.model, s.base, { ...CLOSED_FORM, ...HARDER, lambda }, seed + draw);
      await trySolved(s, "variants", withSolved(s.base, solved, ROUNDED), solved, `damping ${lambda}, draw ${draw}`);
    }
  },
  // With the prefix repaired layer by layer another calibrator may be best than behind round-to-nearest weights.
  "ranges-behind": async (s) => {
    for (const { spec, bundle } of otherRanges(s)) {
      const solved = await solve(s, s.model, bundle, s.options);
      await trySolved(s, "ranges-behind", withSolved(bundle, solved, ROUNDED), solved, spec);
    }
  },
  rounding: (s) => solveStep(s, "rounding", { ...CLOSED_FORM, ...(s.ctx.effort === "best" && HARDER) }),
  // Towards W instead of W*: where many branches are summed, repairing the prefix in every one of them can be too much, and so can be
  // repairing what a tighter range clips because the outputs do not need it.
  "rounding-symmetric": async (s) => {
    if (!solvedAlready(s) || s.ctx.effort === "best") await solveStep(s, "rounding-symmetric", { ...CLOSED_FORM, asymmetric: false });
  },
  // The full bias correction alone, on round-to-nearest weights: a part of both above.
  bias: async (s) => {
    if (!fewBits(s) || !solvedAlready(s)) await solveStep(s, "bias", { ...CLOSED_FORM, asymmetric: false, keepCodes: true });
  },
  equalize: (s) => rescaleStep(s, "equalize"),
  smooth: (s) => rescaleStep(s, "smooth"),
  learned: async (s) => {
    // At 8 bits there is nothing to win: the loss of solved codes is far below that of the activations.
    if (!fewBits(s)) return;
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
  const before = s.solved;
  const solved = await solve(s, s.model, s.base, options);
  await trySolved(s, step, withSolved(s.base, solved, options.keepCodes ? "bias corrected" : ROUNDED), solved);
  if (s.solved !== before) s.options = options;
}

/** Strengths of smoothing that are tried. */
const ALPHAS = [0.3, 0.5, 0.7];

/**
 * Channels in other units, then ranges and rounding of the changed network. Equalization is for weights with one scale a tensor: with one a
 * channel it has nothing to win, and was seen to cost 10 dB.
 */
async function rescaleStep(s: State, step: "equalize" | "smooth"): Promise<void> {
  const layers = layersOf(s.model, s.base);
  const places = findRescales(s.model, layers).filter((r) => (r.from.kind === "layer") === (step === "equalize"));
  if (places.length === 0) return;
  if (step === "equalize") {
    if (!layers.some((l) => l.site.scheme.granularity.kind === "tensor")) return;
    return tryRescaled(s, step, equalize(s.model, places), `${places.length} pairs`);
  }
  const ranges = await channelRanges(
    s,
    places.map((r) => r.value),
  );
  for (const alpha of ALPHAS) await tryRescaled(s, step, smooth(s.model, places, ranges, alpha), `alpha ${alpha}, ${places.length} places`);
}

async function tryRescaled(s: State, step: string, rescaled: Rescaling, detail: string): Promise<void> {
  const { ctx } = s;
  const { model, changed } = rescaled.finish();
  const values = [...new Set(s.base.plan.sites.flatMap((x) => (x.kind === "static" ? [x.value] : [])))];
  let bundle = s.base;
  if (values.length > 0) {
    const stats = await collectStats({
      model,
      values,
      data: ctx.data,
      indices: s.calibrate,
      runtime: ctx.runtime,
      ...(ctx.session && { session: ctx.session }),
    });
    const spec = s.base.plan.calibrator ?? "minmax";
    const outputs = new Set(model.graph.outputs.map((v) => v.name));
    bundle = withRanges(s.base, stats, calibratorOf(spec) ?? minmax, spec, outputs);
  }
  // The codes so far are of other weights.
  const solved = await solve(s, model, bundle, { ...s.options, keepCodes: false });
  const weights = new Set(solved.map((x) => x.layer.weight.value.name));
  await trySolved(s, step, withSolved(withConstants(bundle, model, changed, weights, step), solved, ROUNDED), solved, detail, model);
}

/** max|x| of each channel of the last axis, over the calibration samples. */
async function channelRanges(s: State, values: readonly Value[]): Promise<Map<Value, Float64Array>> {
  const { ctx } = s;
  const session = await ctx.runtime.open(
    writeModel(
      withOutputs(
        s.model,
        values.map((v) => v.name),
      ),
    ),
    { ...ctx.session, label: "channel ranges" },
  );
  const out = new Map<Value, Float64Array>();
  try {
    for (const i of s.calibrate) {
      const got = await session.run(
        (await ctx.data.sample(i)).feeds,
        values.map((v) => v.name),
      );
      for (const v of values) {
        const t = got[v.name]!;
        const c = t.dims.at(-1)!;
        const most = out.get(v) ?? new Float64Array(c);
        out.set(v, most);
        const x = t.data as Float32Array;
        for (let p = 0; p < x.length; p++) most[p % c] = Math.max(most[p % c]!, Math.abs(x[p]!));
      }
    }
  } finally {
    await session.release();
  }
  return out;
}

async function solve(s: State, model: Model, bundle: PlanBundle, options: SolveOptions, seed = s.ctx.seed ?? 0): Promise<Solved[]> {
  const { ctx } = s;
  const layers = layersOf(model, bundle);
  if (layers.length === 0) return [];
  return solveSequentially({
    streams: new Streams(model, bundle, ctx.types),
    runtime: ctx.runtime,
    layers,
    indices: s.calibrate,
    load: async (i) => (await ctx.data.sample(i)).feeds,
    memoryBytes: ctx.memoryBytes ?? MEMORY,
    seed,
    solve: (layer, grams, halves) => solveLayer(layer, grams, halves, options),
    ...(ctx.progress && { progress: ctx.progress }),
    ...(ctx.signal && { signal: ctx.signal }),
  });
}

async function revertsOf(s: State, select: readonly number[]): Promise<readonly Revert[]> {
  const { ctx } = s;
  return rankReverts({
    model: s.model,
    bundle: s.best,
    layers: layersOf(s.model, s.best),
    targets: new Map(s.solved.map((x) => [x.layer.site.value, { weight: x.target, bias: x.targetBias }])),
    runtime: ctx.runtime,
    indices: select,
    load: async (i) => (await ctx.data.sample(i)).feeds,
    ...(ctx.types && { types: ctx.types }),
    ...(ctx.signal && { signal: ctx.signal }),
  });
}
