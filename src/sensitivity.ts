import { chooseRanges } from "./choose.ts";
import { calibrateFor, prepare, propose, settleDecisions } from "./compile.ts";
import { QcError } from "./diagnostics.ts";
import { writeAtomic } from "./io/atomic.ts";
import { RUN_KEYS, type RunOptions, withJob } from "./job.ts";
import { mixOf } from "./mix.ts";
import { type FisherResult, fisher } from "./mixed/fisher.ts";
import { type Interaction, interactions } from "./mixed/interactions.ts";
import type { Sensitivity } from "./mixed/lab.ts";
import type { LossName } from "./mixed/loss.ts";
import { rankCorrelation } from "./mixed/rank.ts";
import { SENSITIVITY, settle, type Wished } from "./options.ts";
import { jsonText } from "./outputs.ts";
import { printTarget } from "./plan/target.ts";
import { searchOf } from "./search.ts";
import { openSet, sessionOf } from "./set.ts";
import { readSource, refuseQuantized } from "./source.ts";
import { TOOL } from "./version.ts";

export interface SensitivityOptions extends Omit<Wished<typeof SENSITIVITY>, "memory">, RunOptions {}

/** How much the output loses by each layer in each scheme, alone; codes solved. */
export interface SensitivityReport {
  readonly schema: "qc.sensitivity/1";
  readonly tool: string;
  readonly target: string;
  readonly recipe: string;
  readonly loss: LossName;
  readonly samples: number;
  /** Loss with every layer in its best quantized scheme. */
  readonly start: number;
  /** Worst added loss per byte saved first. */
  readonly rows: readonly SensitivityRow[];
  readonly interactions?: readonly Interaction[];
  /** The gradient method, and its rank correlation with what was measured. */
  readonly fisher?: FisherResult & { readonly rankCorrelation: number | null };
  /** Network runs that it took (parts of a network in parts). */
  readonly networkRuns: number;
}
export interface SensitivityRow extends Sensitivity {
  /** Bytes against the layer's best quantized scheme; below 0: it takes more. */
  readonly saves: number;
}

/** Samples of the gradient method: activations of all layers are kept. */
const FISHER_SAMPLES = 16;

export async function sensitivity(source: string | Uint8Array, given: SensitivityOptions): Promise<SensitivityReport> {
  const options = settle(SENSITIVITY, given as Readonly<Record<string, unknown>>, RUN_KEYS);
  if (options.data === undefined)
    throw new QcError({ code: "cli/needs-option", command: "sensitivity", flag: "--data", why: "losses are measured on samples" });
  const decided = settleDecisions(options, true);
  const mix = mixOf({ ...decided, budget: [], wanted: true, fewer: true }, decided.pins);
  if (!mix)
    throw new QcError({
      code: "plan/recipe-unavailable",
      recipe: decided.recipe.name,
      target: printTarget(decided.target),
      why: "it has no other schemes to compare with",
    });
  const wish = { ...decided, mix };
  return withJob({ ...given, threads: options.threads }, async (job) => {
    const read = readSource(source);
    refuseQuantized(read.model);
    const data = (await openSet(job, read.model, options))!;
    const prepared = await job.stage("prepare", () => prepare(job, read, data));
    const proposal = propose(read, prepared, wish);
    const calibrated = await job.stage("calibrate", () => calibrateFor(job, read, prepared, proposal, data, wish));
    const bundle = await job.stage("plan", () =>
      chooseRanges(job, {
        proposal,
        prepared: prepared.model,
        calibrated,
        data,
        target: wish.target,
        calibrator: options.calibrator,
        session: sessionOf(data, options),
      }),
    );
    const loss = options.loss as LossName;
    const search = searchOf(job, {
      mix,
      prepared,
      proposal,
      bundle,
      calibrated,
      data,
      target: wish.target,
      options: { ...options, effort: "default" },
      loss,
    });
    try {
      const { start, rows } = await job.stage("improve", () => search.sensitivities());
      const lab = await search.lab();
      const best = new Map(rows.filter((r) => lab.start.get(r.unit)!.name === r.scheme).map((r) => [r.unit, r.bytes]));
      const table = rows
        .filter((r) => lab.start.get(r.unit)!.name !== r.scheme)
        .map((r): SensitivityRow => ({ ...r, saves: best.get(r.unit)! - r.bytes }));
      const worth = (r: SensitivityRow) => r.added / Math.max(1, Math.abs(r.saves));
      table.sort((a, b) => worth(b) - worth(a) || (a.unit < b.unit ? -1 : 1));
      const alone = new Map(rows.map((r) => [`${r.unit}\n${r.scheme}`, r.added]));
      const together =
        options.coalitions === 0
          ? undefined
          : await interactions(lab, search.units, alone, {
              coalitions: options.coalitions,
              seed: options.seed,
              progress: job.progress("improve"),
              ...(job.signal && { signal: job.signal }),
            });
      const byGradient =
        options.fisher === 0
          ? undefined
          : await fisher(lab, {
              model: prepared.model,
              types: prepared.types,
              runtime: job.runtime,
              samples: FISHER_SAMPLES,
              draws: options.fisher,
              seed: options.seed,
            });
      const report: SensitivityReport = {
        schema: "qc.sensitivity/1",
        tool: TOOL,
        target: printTarget(wish.target),
        recipe: wish.recipe.name,
        loss,
        samples: lab.samples,
        start,
        rows: table,
        ...(together && { interactions: together }),
        ...(byGradient && {
          fisher: {
            ...byGradient,
            rankCorrelation:
              rankCorrelation(
                byGradient.rows.map((r) => r.added),
                byGradient.rows.map((r) => alone.get(`${r.unit}\n${r.scheme}`)!),
              ) ?? null,
          },
        }),
        networkRuns: Math.round(lab.passes),
      };
      if (options.out !== undefined) writeAtomic(options.out, jsonText(report));
      return report;
    } finally {
      await search.close();
    }
  });
}
