import type { Calibrated } from "./choose.ts";
import type { DataSet } from "./data/types.ts";
import type { Job } from "./job.ts";
import { type Mix, pinned } from "./mix.ts";
import { Builder } from "./mixed/build.ts";
import type { LossName } from "./mixed/loss.ts";
import { Search } from "./mixed/search.ts";
import { DEFAULT_SAMPLES, type Effort } from "./options.ts";
import type { Target } from "./plan/target.ts";
import type { PlanBundle } from "./plan/types.ts";
import type { Prepared } from "./prepare/index.ts";
import type { Proposal } from "./ptq/propose.ts";
import { drawSamples, sessionOf } from "./set.ts";

export interface MixInput {
  readonly mix: Mix;
  readonly prepared: Prepared;
  readonly proposal: Proposal;
  readonly bundle: PlanBundle;
  readonly calibrated: Calibrated | undefined;
  readonly data: DataSet;
  readonly target: Target;
  readonly options: { readonly effort: string; readonly seed: number; readonly samples?: number | undefined; readonly provider: string };
  readonly loss?: LossName;
}

export function searchOf(job: Job, o: MixInput): Search {
  const { prepared, data, options } = o;
  const builder = new Builder({
    proposal: o.proposal,
    bundle: o.bundle,
    stats: o.calibrated?.stats,
    ladder: o.mix.ladder,
    pins: pinned(prepared.model, o.mix.pins),
  });
  return new Search({
    model: prepared.model,
    types: prepared.types,
    builder,
    ...(o.calibrated && { stats: o.calibrated.stats }),
    data,
    calibrate: drawSamples(data, "calibrate", options.samples ?? DEFAULT_SAMPLES),
    runtime: job.runtime,
    target: o.target,
    effort: options.effort as Effort,
    seed: options.seed,
    session: sessionOf(data, options),
    ...(o.loss && { loss: o.loss }),
    report: job.report,
    progress: job.progress("improve"),
    ...(job.signal === undefined ? {} : { signal: job.signal }),
  });
}

/** The plan that keeps to the budget, or comes closest. */
export async function solveMix(job: Job, o: MixInput): Promise<PlanBundle> {
  const search = searchOf(job, o);
  try {
    return await search.solve(o.mix.limits, o.mix.text);
  } finally {
    await search.close();
  }
}
