import { toFloat32 } from "../../graph/constant.ts";
import type { Model } from "../../graph/ir.ts";
import { pathOf } from "../../graph/walk.ts";
import type { PlanBundle, StepGain } from "../../plan/types.ts";
import { withSolved } from "../amend.ts";
import { gainOf, gainsOf, type Walked } from "../gains.ts";
import { type Layer, layersOf } from "../layers.ts";
import { LAMBDA, type SolveOptions, solveLayer, solveSequentially } from "../sequential.ts";
import { weightTensor } from "../sites.ts";
import { AdaRound } from "../solve/adaround.ts";
import { Streams } from "../streams.ts";
import { CLOSED_FORM, fewBits, HARDER, ROUNDED, type State, solvedAlready } from "./state.ts";

/** Kept activations, when the caller sets no limit. */
const MEMORY = 64 * 2 ** 20;
/** Of Adam, in learned rounding. */
const LEARNING_STEPS = 1500;
/** Dampings and draws of positions beside the first. */
const VARIANTS = [
  [0.03, 0],
  [0.003, 0],
  [LAMBDA, 1],
] as const;

/** Measures a plan with solved layers and keeps the better. `model`: what the layers were taken from. */
export async function trySolved(
  s: State,
  step: string,
  candidate: PlanBundle,
  solved: readonly Walked[],
  detail?: string,
  { model = s.model, gains = gainsOf(solved) }: { readonly model?: Model; readonly gains?: readonly StepGain[] } = {},
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
    ...(kept && gains.length > 0 && { gains }),
  });
  if (!kept) return;
  s.best = candidate;
  s.base = candidate;
  s.model = model;
  s.solved = solved;
  s.verdict = after;
}

/** One walk over the layers of the best plan so far. */
export async function solveStep(s: State, step: string, options: SolveOptions): Promise<void> {
  const before = s.solved;
  const solved = await solve(s, s.model, s.base, options);
  await trySolved(s, step, withSolved(s.base, solved, options.keepCodes ? "bias corrected" : ROUNDED), solved);
  if (s.solved !== before) s.options = options;
}

export async function solve(s: State, model: Model, bundle: PlanBundle, options: SolveOptions, seed = s.ctx.seed ?? 0): Promise<Walked[]> {
  const { ctx } = s;
  const all = layersOf(model, bundle);
  const layers = ctx.effort === "best" ? all : affordable(all, MOST_WORK);
  if (layers.length < all.length) reportCostly(s, all, layers);
  if (layers.length === 0) return [];
  const gains = new Map<Layer, number>();
  const solved = await solveSequentially({
    streams: new Streams(model, bundle, ctx.types),
    runtime: ctx.runtime,
    layers,
    indices: s.calibrate,
    load: async (i) => (await ctx.data.sample(i)).feeds,
    memoryBytes: ctx.memoryBytes ?? MEMORY,
    seed,
    solve: async (layer, grams, halves) => {
      const x = await solveLayer(layer, grams, halves, options);
      gains.set(layer, gainOf(layer, storedAt(layer, bundle), x, grams));
      return x;
    },
    ...(ctx.progress && { progress: ctx.progress }),
    ...(ctx.signal && { signal: ctx.signal }),
  });
  return solved.map((x) => ({ ...x, gainDb: gains.get(x.layer)! }));
}

/** Multiplications of one pass over all codes at most, below `best`: about a quarter of an hour on one core. */
const MOST_WORK = 2 ** 36;

/** The layers, in their order, that fit into so much work; the costliest are left out first. Rounding a row of k inputs takes k². @internal */
export function affordable(layers: readonly Layer[], most: number): Layer[] {
  const work = (l: Layer) => l.groups * l.rows * l.k * l.k;
  const kept = new Set<Layer>();
  let sum = 0;
  for (const l of [...layers].sort((a, b) => work(a) - work(b))) {
    sum += work(l);
    if (sum > most) break;
    kept.add(l);
  }
  return layers.filter((l) => kept.has(l));
}

function reportCostly(s: State, all: readonly Layer[], kept: readonly Layer[]): void {
  const weights = all.filter((l) => !kept.includes(l)).map((l) => l.site.value);
  if (weights.every((w) => s.costly.has(w))) return;
  for (const w of weights) s.costly.add(w);
  s.ctx.report?.({ code: "plan/not-solved", weights, why: "it would take longer than --effort default gives it" });
}

/** What a plan makes of a layer: its weight as its consumers read it, and its bias. */
function storedAt(layer: Layer, bundle: PlanBundle) {
  const weight = toFloat32(weightTensor(layer.site, layer.weight.value, bundle));
  if (!layer.bias) return { weight, bias: undefined };
  const path = pathOf(layer.bias.value);
  const replaced = bundle.plan.replacements.find((r) => r.value === path);
  return { weight, bias: replaced ? toFloat32(bundle.tensors.get(replaced.tensor.tensor)!) : layer.bias.data };
}

export const rounding = (s: State) => solveStep(s, "rounding", { ...CLOSED_FORM, ...(s.ctx.effort === "best" && HARDER) });

/**
 * Towards W instead of W*: where many branches are summed, repairing the prefix in every one of them can be too much, and so can be
 * repairing what a tighter range clips because the outputs do not need it.
 */
export async function roundingSymmetric(s: State): Promise<void> {
  if (!solvedAlready(s) || s.ctx.effort === "best") await solveStep(s, "rounding-symmetric", { ...CLOSED_FORM, asymmetric: false });
}

/** The full bias correction alone, on round-to-nearest weights: a part of both above. */
export async function bias(s: State): Promise<void> {
  if (!fewBits(s) || !solvedAlready(s)) await solveStep(s, "bias", { ...CLOSED_FORM, asymmetric: false, keepCodes: true });
}

/** Other dampings, other positions of the samples: each is a fair draw, and the network's output tells which came out best. */
export async function variants(s: State): Promise<void> {
  if (!fewBits(s) || !solvedAlready(s)) return;
  const seed = s.ctx.seed ?? 0;
  for (const [lambda, draw] of VARIANTS) {
    const solved = await solve(s, s.model, s.base, { ...CLOSED_FORM, ...HARDER, lambda }, seed + draw);
    await trySolved(s, "variants", withSolved(s.base, solved, ROUNDED), solved, `damping ${lambda}, draw ${draw}`);
  }
}

/** At 8 bits there is nothing to win: the loss of solved codes is far below that of the activations. */
export async function learned(s: State): Promise<void> {
  if (!fewBits(s)) return;
  const engine = new AdaRound(s.ctx.runtime);
  try {
    await solveStep(s, "learned", { ...CLOSED_FORM, ...HARDER, learned: { engine, steps: LEARNING_STEPS } });
  } finally {
    await engine.release();
  }
}
