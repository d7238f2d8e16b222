import { autoCandidates } from "../../calibrate/auto.ts";
import type { PlanBundle } from "../../plan/types.ts";
import { activationsAlone, withRanges, withSolved } from "../amend.ts";
import { surelyBetter } from "../judge.ts";
import { refineRanges } from "../refine.ts";
import { solve, trySolved } from "./rounding.ts";
import { fewBits, ROUNDED, type State, solvedAlready, thin } from "./state.ts";

/** Samples: a backward pass of each judges every range. */
const MOST_REFINE = 192;

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

/** Behind 4-bit round-to-nearest weights a choice of ranges is a choice by chance: choose with the weights in float. */
export async function ranges(s: State): Promise<void> {
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
}

/**
 * Ranges by what they do downstream, chosen on the samples of the statistics and confirmed on the deciding ones. With few bits the rounding
 * of weights makes the error: then only with time to spare, and confirmed with the weights in float.
 */
export async function refine(s: State): Promise<void> {
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
  s.steps.push({
    step: "refine",
    before: before.pooledDb,
    after: after.pooledDb,
    unit: "dB",
    kept,
    detail,
    ...(kept && { gains: refined.gains }),
  });
  if (!kept) return;
  s.base = refined.bundle;
  if (few) return;
  s.best = refined.bundle;
  s.verdict = after;
}

/** With the prefix repaired layer by layer another calibrator may be best than behind round-to-nearest weights. */
export async function rangesBehind(s: State): Promise<void> {
  for (const { spec, bundle } of otherRanges(s)) {
    const solved = await solve(s, s.model, bundle, s.options);
    await trySolved(s, "ranges-behind", withSolved(bundle, solved, ROUNDED), solved, spec);
  }
}
