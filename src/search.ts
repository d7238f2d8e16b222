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
import type { Weighed } from "./report.ts";
import { drawSamples, sessionOf } from "./set.ts";
import { TOOL } from "./version.ts";

export interface MixInput {
  /** Told once, for the report. */
  readonly tell?: (w: Weighed) => void;
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

/** The frontier as JSON, as a page, and beside them a plan for each point: `front.json`, `front.html`, `front.01.plan.json` … Smallest first. */
async function writeFrontier(search: Search, file: string, mix: Mix, target: Target): Promise<void> {
  const { points, dominated, baselines, correlation, passes } = await search.pareto(CUTS);
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
  const textOf = (p: Point) =>
    `${p.weightBytes} bytes, ${p.bits.toFixed(2)} bits a weight, ${p.db.toFixed(1)} dB${p.drop ? `, ${p.drop.pt.toFixed(2)} points lost` : ""}`;
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
      dominated: dominated.map(row),
      baselines: baselines.map((b) => ({ name: b.name, ratio: b.ratio ?? null, ...row(b.point) })),
    }),
  );
  const { renderFrontier } = await import("./verify/html/frontier.ts");
  writeAtomic(
    `${stem}.html`,
    renderFrontier({
      title: `Frontier: ${mix.start.name} for ${printTarget(target)}`,
      unit: UNIT,
      points: points.map((p) => ({ bytes: p.weightBytes, loss: p.measured, text: textOf(p) })),
      others: baselines.map((b) => ({ bytes: b.point.weightBytes, loss: b.point.measured, text: `${b.name}: ${textOf(b.point)}` })),
    }),
  );
}

const UNIT = "noise ÷ signal";

function weighedBy(search: Search): Weighed {
  const rows = search.known?.rows ?? [];
  const schemes = [...new Set(rows.map((r) => r.scheme))];
  const nodes = [...new Set(rows.map((r) => r.unit))];
  const loss = new Map(rows.map((r) => [`${r.unit}\n${r.scheme}`, r.loss]));
  return {
    ...(rows.length > 0 && {
      sensitivity: {
        unit: UNIT,
        schemes,
        rows: nodes.map((node) => ({ node, losses: schemes.map((s) => loss.get(`${node}\n${s}`) ?? null) })),
      },
    }),
    ...(search.points.length > 1 && {
      frontier: {
        unit: UNIT,
        points: [...search.points]
          .sort((a, b) => a.weightBytes - b.weightBytes)
          .map((p) => ({ bytes: p.weightBytes, loss: p.measured, ...(p === search.reached && { chosen: true }) })),
      },
    }),
  };
}

/** The plan that keeps to the budget, or comes closest. */
export async function solveMix(job: Job, o: MixInput): Promise<PlanBundle> {
  const search = searchOf(job, o);
  try {
    const plan = await search.solve(o.mix.limits, o.mix.text);
    if (o.options.pareto !== undefined) await writeFrontier(search, o.options.pareto, o.mix, o.target);
    o.tell?.(weighedBy(search));
    return plan;
  } finally {
    await search.close();
  }
}
