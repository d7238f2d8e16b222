import { traitOf } from "../graph/ops/index.ts";
import type { PlanBundle, Revert } from "../plan/types.ts";
import { Judge } from "./judge.ts";
import { layersOf } from "./layers.ts";
import { rankReverts } from "./reverts.ts";
import { blocks } from "./steps/blocks.ts";
import { ranges, rangesBehind, refine } from "./steps/ranges.ts";
import { equalization, smoothing } from "./steps/rescale.ts";
import { bias, learned, rounding, roundingSymmetric, variants } from "./steps/rounding.ts";
import { CLOSED_FORM, type ImproveContext, type ImproveEffort, STEPS, type State, type StepName, thin } from "./steps/state.ts";

export { type ImproveContext, type ImproveEffort, STEPS, type StepName };

/** Samples at most: more hardly help (256 and 384 images: 0.2 dB; 512 and 3000: nothing), positions within a sample are taken instead. */
const MOST_CALIBRATE = { fast: 0, default: 256, best: 512 } as const satisfies Record<ImproveEffort, number>;
const MOST_SELECT = 128;

const EFFORT_STEPS: Readonly<Record<ImproveEffort, readonly StepName[]>> = {
  fast: [],
  default: ["ranges", "refine", "rounding", "rounding-symmetric"],
  // On resnet8 no block beat its solved codes, in 54 processor seconds: `blocks` runs where it is asked for by name.
  best: STEPS.filter((s) => s !== "blocks"),
};

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
      costly: new Set(),
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

const RUN: Readonly<Record<StepName, (s: State) => Promise<void>>> = {
  ranges,
  refine,
  rounding,
  variants,
  "ranges-behind": rangesBehind,
  "rounding-symmetric": roundingSymmetric,
  bias,
  equalize: equalization,
  smooth: smoothing,
  learned,
  blocks,
};

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
