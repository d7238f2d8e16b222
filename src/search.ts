import type { Calibrated } from "./choose.ts";
import type { DataSet } from "./data/types.ts";
import { writeAtomic } from "./io/atomic.ts";
import { fileNameOf } from "./io/path.ts";
import type { Job } from "./job.ts";
import { type Mix, pinned, schemesOf } from "./mix.ts";
import { Builder } from "./mixed/build.ts";
import type { UnitCost } from "./mixed/limits.ts";
import type { LossName } from "./mixed/loss.ts";
import type { Point } from "./mixed/point.ts";
import { Search } from "./mixed/search.ts";
import { DEFAULT_SAMPLES, type Effort } from "./options.ts";
import { jsonText } from "./outputs.ts";
import { printTarget, type Target } from "./plan/target.ts";
import type { Plan, PlanBundle } from "./plan/types.ts";
import { writePlan } from "./plan/write.ts";
import type { Prepared } from "./prepare/index.ts";
import type { Proposal } from "./ptq/propose.ts";
import { drawSamples, sessionOf } from "./set.ts";
import { TOOL } from "./version.ts";

export interface MixInput {
  readonly mix: Mix;
  readonly prepared: Prepared;
  readonly proposal: Proposal;
  readonly bundle: PlanBundle;
  readonly calibrated: Calibrated | undefined;
  readonly data: DataSet;
  readonly target: Target;
  /** A plan to start from: its schemes are among the choices that are run. */
  readonly start?: Plan;
  readonly options: {
    readonly effort: string;
    readonly seed: number;
    readonly samples?: number | undefined;
    readonly provider: string;
    readonly pareto?: string | undefined;
  };
  readonly loss?: LossName;
  /** From a table of what nodes take; built from `Builder`'s units. */
  readonly time?: (builder: Builder) => UnitCost;
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
    ...(o.time && { time: o.time(builder) }),
    ...(o.start && { start: schemesOf(prepared.model, o.start) }),
    report: job.report,
    progress: job.progress("improve"),
    ...(job.signal === undefined ? {} : { signal: job.signal }),
  });
}

/** Byte budgets of a frontier. */
const CUTS = 12;

/** The frontier as JSON, and beside it a plan for each point: `front.json`, `front.01.plan.json` … Smallest first. */
async function writeFrontier(search: Search, file: string, mix: Mix, target: Target): Promise<void> {
  const { points, baselines, correlation, passes } = await search.pareto(CUTS);
  const stem = file.replace(/\.json$/i, "");
  const row = (p: Point) => ({
    weightBytes: p.weightBytes,
    fileBytes: p.fileBytes,
    bitsPerWeight: p.bits,
    predictedLoss: p.predicted,
    measuredLoss: p.measured,
    sqnrDb: p.db,
    ...(p.drop && { drop: p.drop }),
    schemes: p.choice,
  });
  const written = points.map((p, i) => {
    const plan = `${stem}.${String(i + 1).padStart(2, "0")}.plan.json`;
    writePlan(p.bundle, plan);
    return { ...row(p), plan: fileNameOf(plan) };
  });
  writeAtomic(
    file,
    jsonText({
      schema: "qc.pareto/1",
      tool: TOOL,
      target: printTarget(target),
      recipe: mix.start.name,
      rankCorrelation: correlation ?? null,
      networkRuns: passes,
      points: written,
      baselines: baselines.map((b) => ({ name: b.name, ...row(b.point) })),
    }),
  );
}

/** The plan that keeps to the budget, or comes closest. */
export async function solveMix(job: Job, o: MixInput): Promise<PlanBundle> {
  const search = searchOf(job, o);
  try {
    const plan = await search.solve(o.mix.limits, o.mix.text);
    if (o.options.pareto !== undefined) await writeFrontier(search, o.options.pareto, o.mix, o.target);
    return plan;
  } finally {
    await search.close();
  }
}
