import { checkStats, collectStats, readStats, splitForAuto, writeStats } from "./calibrate/index.ts";
import { readTable, statsOfTable } from "./calibrate/tables.ts";
import type { Stats } from "./calibrate/types.ts";
import { type Calibrated, chooseRanges } from "./choose.ts";
import { lowerPlan, prepare, proposeMeasured, settleDecisions } from "./compile.ts";
import { QcError } from "./diagnostics.ts";
import type { Model } from "./graph/ir.ts";
import { saveModel } from "./graph/onnx/index.ts";
import { valuesByPath } from "./graph/walk.ts";
import { type Job, RUN_KEYS, type RunOptions, withJob } from "./job.ts";
import { timeOver, withTime } from "./measured.ts";
import { APPLY, CALIBRATE, DEFAULT_SAMPLES, PLAN, settle, type Wished } from "./options.ts";
import { checkOutputs, stemOf } from "./outputs.ts";
import { readPlan, writePlan } from "./plan/io.ts";
import { recipeOf } from "./plan/recipes/index.ts";
import { TARGET_NAMES } from "./plan/target.ts";
import { targetOf } from "./plan/targets/index.ts";
import type { PlanBundle } from "./plan/types.ts";
import { type Prepared, prepareModel } from "./prepare/index.ts";
import { proposeSites } from "./ptq/propose.ts";
import { prunedModel } from "./ptq/prune/apply.ts";
import { castRest, restValues } from "./ptq/rest.ts";
import { recipeForGraph } from "./recurrent.ts";
import { coverageOf } from "./report.ts";
import { solveMix } from "./search.ts";
import { drawSamples, openSet, sessionOf } from "./set.ts";
import { readSource, refuseQuantized, type Source } from "./source.ts";

/** Parts of the compiler, each with its file: statistics, a plan, a model. */

export interface CalibrateOptions extends Omit<Wished<typeof CALIBRATE>, "memory">, RunOptions {}
export interface CalibrateResult {
  readonly stats: Stats;
  readonly file: string | undefined;
}

/** Statistics of every value that some target could ask for, so that one file serves them all. */
export async function calibrate(source: string | Uint8Array, given: CalibrateOptions): Promise<CalibrateResult> {
  const options = settle(CALIBRATE, given as Readonly<Record<string, unknown>>, RUN_KEYS);
  const { data: set } = options;
  if (set === undefined)
    throw new QcError({ code: "cli/needs-option", command: "calibrate", flag: "--data", why: "statistics come from samples" });
  const shard = options.shard === undefined ? undefined : parseShard(options.shard);
  return withJob({ ...given, threads: options.threads }, async (job) => {
    const read = readSource(source);
    refuseQuantized(read.model);
    const file = options.out ?? (read.path === undefined ? undefined : `${stemOf(read.path)}.stats`);
    if (file !== undefined) checkOutputs([file], [read.path, set]);
    const data = (await openSet(job, read.model, { data: set, seed: options.seed }))!;
    const prepared = await job.stage("prepare", () => prepare(job, read, data));
    const values = allTargetsValues(read, prepared);
    const drawn = drawSamples(data, "calibrate", options.samples ?? DEFAULT_SAMPLES);
    const indices = shard === undefined ? drawn : drawn.filter((_, i) => i % shard.of === shard.index);
    const stats = await job.stage(
      "calibrate",
      () =>
        collectStats({
          model: prepared.model,
          values,
          data,
          indices,
          runtime: job.runtime,
          prepare: prepared.version,
          source: read.hashes,
          workers: job.runtime.workers,
          session: sessionOf(data, options),
          report: job.report,
          progress: job.progress("calibrate"),
          ...(options.resume && file !== undefined ? resumeFrom(file) : {}),
          ...(job.signal === undefined ? {} : { signal: job.signal }),
        }),
      (s) => ({ stage: "calibrate", samples: s.samples, values: s.values.size }),
    );
    if (file !== undefined) writeStats(stats, file);
    return { stats, file };
  });
}

/** Half-finished work is kept every so often, so that `--resume` has something to go on from. */
const CHECKPOINT_MS = 30_000;
function resumeFrom(file: string) {
  let resume: Stats | undefined;
  try {
    resume = readStats(file);
  } catch (e) {
    // The first run has nothing to resume.
    if (!(e instanceof QcError) || e.diagnostics[0]?.code !== "io/not-found") throw e;
  }
  return { checkpoint: { everyMs: CHECKPOINT_MS, save: (s: Stats) => writeStats(s, file) }, ...(resume === undefined ? {} : { resume }) };
}

/** What any target may want to know of: the statistics outlive the choice of one. */
function allTargetsValues(read: Source, prepared: Prepared): readonly string[] {
  const values = new Set<string>();
  const base = { model: prepared.model, types: prepared.types, recipe: recipeOf("int8"), source: read.hashes, prepare: prepared.version };
  for (const name of TARGET_NAMES) {
    try {
      const target = targetOf(name);
      for (const v of proposeSites({ ...base, target }).values) values.add(v);
      // With a cost table, what the target's own rules would leave float may be codes.
      if (target.rows.some((r) => r.slow)) for (const v of proposeSites({ ...base, target, measured: true }).values) values.add(v);
    } catch (e) {
      // A target without static activations wants none.
      if (!(e instanceof QcError) || e.diagnostics[0]?.code !== "plan/recipe-unavailable") throw e;
    }
  }
  for (const v of restValues(prepared.model, prepared.types)) values.add(v);
  return [...values].sort();
}

/** `2/4`: every fourth sample, the second of each four. */
export function parseShard(text: string): { readonly index: number; readonly of: number } {
  const m = /^([0-9]+)\/([0-9]+)$/.exec(text);
  const [index, of] = [Number(m?.[1]) - 1, Number(m?.[2])];
  if (m === null || !(index >= 0 && index < of))
    throw new QcError({ code: "cli/bad-value", flag: "--shard", got: text, want: "I/N with 1 <= I <= N" });
  return { index, of };
}

export interface PlanOptions extends Omit<Wished<typeof PLAN>, "memory">, RunOptions {}
export interface PlanResult {
  readonly plan: PlanBundle;
  readonly files: readonly string[];
  readonly coverage: ReturnType<typeof coverageOf>;
}

/** Decisions from statistics; the data set, when given, chooses among calibrators. */
export async function plan(source: string | Uint8Array, given: PlanOptions): Promise<PlanResult> {
  const options = settle(PLAN, given as Readonly<Record<string, unknown>>, RUN_KEYS);
  if (options.stats !== undefined && options.table !== undefined)
    throw new QcError({ code: "cli/bad-value", flag: "--table", got: options.table, want: "no --stats beside it" }, { exitCode: 2 });
  const hasRanges = options.stats !== undefined || options.table !== undefined;
  const asked = settleDecisions(options, hasRanges);
  if (asked.recipe.data && !hasRanges)
    throw new QcError({ code: "cli/needs-option", command: "plan", flag: "--stats", why: `recipe ${asked.recipe.name} needs ranges` });
  return withJob({ ...given, threads: options.threads }, async (job) => {
    const read = readSource(source);
    refuseQuantized(read.model);
    const wish = recipeForGraph(asked, read.model, job.report);
    const file = options.out ?? (read.path === undefined ? undefined : `${stemOf(read.path)}.plan.json`);
    if (file !== undefined) checkOutputs([file], [read.path, options.stats, options.table, options.data]);
    const data = await openSet(job, read.model, options);
    const prepared = await job.stage("prepare", () => prepare(job, read, data));
    // Schemes are searched for by running candidates: without samples every layer has the recipe's.
    const mix = data === undefined ? undefined : wish.mix;
    const proposal = await proposeMeasured(job, read, prepared, { ...wish, mix });
    const calibrated =
      options.table !== undefined
        ? { stats: tableStats(job, options.table, read, prepared) }
        : options.stats === undefined || (proposal.values.length === 0 && wish.recipe.floatType === "float32")
          ? undefined
          : trialOf(read, prepared, readStats(options.stats), proposal.values, data?.roles.select);
    const chosen = await job.stage("plan", () =>
      chooseRanges(job, {
        proposal,
        prepared: prepared.model,
        calibrated,
        data,
        target: wish.target,
        // A table is ranges: there is nothing to choose.
        calibrator: proposal.values.length === 0 || options.table !== undefined ? "minmax" : options.calibrator,
        session: sessionOf(data, options),
      }),
    );
    const searched =
      mix === undefined || data === undefined
        ? chosen
        : await solveMix(job, {
            mix,
            prepared,
            proposal,
            bundle: chosen,
            calibrated,
            data,
            target: wish.target,
            options,
            ...(wish.start && { start: wish.start }),
            ...(wish.costs && { time: timeOver(wish.costs, prepared.model) }),
          });
    const bundle = castRest(wish.costs ? withTime(searched, wish.costs, prepared.model) : searched, {
      model: prepared.model,
      types: prepared.types,
      recipe: wish.recipe,
      target: wish.target,
      stats: calibrated?.stats,
      report: job.report,
    });
    return {
      plan: bundle,
      files: file === undefined ? [] : writePlan(bundle, file).reverse(),
      coverage: coverageOf(prepared.model, bundle),
    };
  });
}

/** Ranges of another tool, by the names of the source model's values. Nothing was sampled here, and the plan says so: 0 samples. */
function tableStats(job: Job, path: string, read: Source, prepared: Prepared): Stats {
  const table = readTable(path);
  const known = valuesByPath(prepared.model);
  const unknown = [...table.ranges.keys()].filter((name) => !known.has(name));
  if (unknown.length > 0) job.report({ code: "calibrate/table-names", path, unknown, used: table.ranges.size - unknown.length });
  return statsOfTable(table, { model: read.hashes, prepare: prepared.version });
}

function trialOf(
  read: Source,
  prepared: Prepared,
  stats: Stats,
  values: readonly string[],
  select: readonly number[] | undefined,
): Calibrated {
  checkStats(stats, { model: read.hashes, prepare: prepared.version, values });
  const folds = splitForAuto([], select).folds.map((f) => ({ stats, select: f.select }));
  return { stats, ...(folds.length > 0 && { trial: { folds, confirm: [] } }) };
}

export interface ApplyOptions extends Wished<typeof APPLY>, RunOptions {}
export interface ApplyResult {
  readonly model: Model;
  readonly file: string | undefined;
}

/** A plan and its model to a quantized model; no data, no decision. */
export async function apply(
  source: string | Uint8Array,
  given: Omit<ApplyOptions, "plan"> & { readonly plan: string | PlanBundle },
): Promise<ApplyResult> {
  const { plan: from, ...rest } = given;
  const options = settle(APPLY, rest as Readonly<Record<string, unknown>>, RUN_KEYS);
  const bundle = typeof from === "string" ? readPlan(from) : from;
  return withJob(given, async (job) => {
    const read = readSource(source);
    refuseStale(read, bundle);
    const file = options.out ?? (read.path === undefined ? undefined : `${stemOf(read.path)}.${bundle.plan.recipe}.onnx`);
    if (file !== undefined) checkOutputs([file], [read.path, typeof from === "string" ? from : undefined]);
    const prepared = await prepareModel(read.model, job.runtime, { report: job.report });
    if (prepared.version !== bundle.plan.prepare)
      throw new QcError({ code: "plan/wrong-model", part: "prepare", want: bundle.plan.prepare, got: prepared.version });
    const model = lowerPlan(job, prunedModel(prepared.model, bundle), bundle, targetOf(bundle.plan.target));
    if (file !== undefined) saveModel(model, file);
    return { model, file };
  });
}

function refuseStale(read: Source, { plan }: PlanBundle): void {
  for (const part of ["structure", "weights"] as const) {
    if (plan.model[part] !== read.hashes[part])
      throw new QcError({ code: "plan/wrong-model", part, want: plan.model[part], got: read.hashes[part] });
  }
}
