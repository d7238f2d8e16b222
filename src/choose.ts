import { hashStats } from "./calibrate/file.ts";
import { type AutoCandidate, calibratorOf, chooseAuto, chooseRange, collectStats, joinParts, splitForAuto } from "./calibrate/index.ts";
import type { Stats } from "./calibrate/types.ts";
import type { DataSet } from "./data/types.ts";
import { QcError } from "./diagnostics.ts";
import { lower } from "./export/lower/index.ts";
import type { Model } from "./graph/ir.ts";
import { writeModel } from "./graph/onnx/index.ts";
import type { ValueType } from "./graph/types.ts";
import type { Job } from "./job.ts";
import { deployedLevel } from "./plan/level.ts";
import type { Target } from "./plan/target.ts";
import type { PlanBundle } from "./plan/types.ts";
import type { Proposal } from "./ptq/propose.ts";
import { planOf, type RangeOf } from "./ptq/ranges.ts";
import { floatSuspects } from "./ptq/suspects.ts";
import type { Feeds, SessionOptions } from "./runtime/types.ts";
import { floatsOf } from "./verify/sums.ts";

export interface Calibrated {
  /** Over every calibrate sample that was drawn. */
  readonly stats: Stats;
  /** For `auto`: each fold's samples judge ranges that they did not set; `confirm` then judges the ranges over all of them. */
  readonly trial?: {
    readonly folds: readonly { readonly stats: Stats; readonly select: readonly number[] }[];
    readonly confirm: readonly number[];
  };
  /** Histograms of a few samples, where `stats` has extremes only. */
  readonly sketch?: Stats;
}

/** Samples whose histograms tell, for `minmax`, whether a range leaves anything of the bulk of a value. */
const SKETCH = 4;

export interface CalibrateInput {
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly values: readonly string[];
  readonly data: DataSet;
  readonly indices: readonly number[];
  readonly prepare: string;
  readonly source: { readonly structure: string; readonly weights: string };
  readonly calibrator: string;
  readonly session: SessionOptions;
}

/** One pass over the samples. For `auto` it is taken in two parts, whose statistics add up to those of the whole, bit for bit. */
export async function calibrateValues(job: Job, o: CalibrateInput): Promise<Calibrated> {
  const report = job.progress("calibrate");
  const collect = (
    indices: readonly number[],
    before: number,
    detail: "range" | "histogram" = o.calibrator === "minmax" ? "range" : "histogram",
  ) =>
    collectStats({
      ...o,
      indices,
      secret: o.data.secret,
      runtime: job.runtime,
      detail,
      workers: job.runtime.workers,
      report: job.report,
      progress: (done) => report(before + done, o.indices.length),
      ...(job.signal === undefined ? {} : { signal: job.signal }),
    });
  const split = o.calibrator === "auto" ? splitForAuto(o.indices, o.data.roles.select, o.data.sequences) : undefined;
  const [first, second] = split?.folds ?? [];
  if (split === undefined || first === undefined) {
    const stats = await collect(o.indices, 0);
    // A sequence with state cannot be entered in the middle: its first samples are its beginning.
    return o.calibrator === "minmax"
      ? { stats, sketch: await collect(o.indices.slice(0, SKETCH), Math.max(0, o.indices.length - SKETCH), "histogram") }
      : { stats };
  }
  const stats = await collect(first.ranges, 0);
  if (second === undefined) {
    const set = new Set(first.ranges);
    const rest = o.indices.filter((i) => !set.has(i));
    const whole = rest.length === 0 ? stats : joinParts([stats, await collect(rest, first.ranges.length)]);
    return { stats: whole, trial: { folds: [{ stats, select: first.select }], confirm: [] } };
  }
  const other = await collect(second.ranges, first.ranges.length);
  const folds = [
    { stats, select: first.select },
    { stats: other, select: second.select },
  ];
  return { stats: joinParts([stats, other]), trial: { folds, confirm: split.confirm } };
}

export interface ChooseInput {
  readonly proposal: Proposal;
  readonly prepared: Model;
  readonly calibrated: Calibrated | undefined;
  readonly data: DataSet | undefined;
  readonly target: Target;
  readonly calibrator: string;
  readonly session: SessionOptions;
}

/** Statistics to numbers: the plan of round-to-nearest weights and the chosen ranges. */
export async function chooseRanges(job: Job, o: ChooseInput): Promise<PlanBundle> {
  if (o.calibrated === undefined) return planOf(o.proposal, undefined, undefined, { report: job.report });
  const { stats, trial, sketch } = o.calibrated;
  const plan = (s: Stats, c: AutoCandidate["calibrator"], report: Job["report"]) =>
    planOf(o.proposal, s, rangesBy(c, report), { report, sketch });
  const settle = async (c: AutoCandidate["calibrator"], spec: string): Promise<PlanBundle> => {
    const calibrated = plan(stats, c, job.report);
    const data = o.data;
    if (data === undefined) return named(calibrated, stats, spec);
    const bundle = await floatSuspects({
      proposal: o.proposal,
      bundle: calibrated,
      stats,
      rangeOf: rangesBy(c, () => {}),
      report: job.report,
      evaluate: async (plans) => (await errorsOf(job, o, plans, suspectSamples(data))).total,
    });
    return named(bundle, stats, spec);
  };
  if (o.calibrator !== "auto") return settle(calibratorNamed(o.calibrator), o.calibrator);
  const folds = trial?.folds ?? [];
  const judge = (s: Stats, candidates: readonly AutoCandidate[], select: readonly number[]) =>
    errorsOf(
      job,
      o,
      candidates.map((c) => plan(s, c.calibrator, () => {})),
      select,
    );
  const judgeFolds = async (candidates: readonly AutoCandidate[]): Promise<readonly Errors[]> => {
    const all: Errors[] = [];
    for (const f of folds) all.push(await judge(f.stats, candidates, f.select));
    return all;
  };
  const choice = await chooseAuto({
    samples: folds.reduce((n, f) => n + f.select.length, 0),
    async evaluate(candidates) {
      const all = await judgeFolds(candidates);
      return candidates.map((_, i) => all.reduce((sum, e) => sum + e.total[i]! / all.length, 0));
    },
    async each(candidates) {
      const all = await judgeFolds(candidates);
      return candidates.map((_, i) => all.flatMap((e) => e.each[i]!));
    },
    ...(trial !== undefined &&
      trial.confirm.length > 0 && {
        confirm: async (c: readonly AutoCandidate[]) => (await judge(stats, c, trial.confirm)).total,
      }),
  });
  return settle(choice.chosen.calibrator, choice.chosen.spec);
}

/** A product out of all proportion shows on a few samples. */
const SUSPECT_SAMPLES = 4;
function suspectSamples(data: DataSet): readonly number[] {
  return [...data.roles.select, ...data.roles.calibrate].slice(0, SUSPECT_SAMPLES);
}

/** `minmax`, `entropy`, `mse`, `percentile` or `percentile=99.99`. */
export function calibratorNamed(spec: string): AutoCandidate["calibrator"] {
  const c = calibratorOf(spec);
  if (c === undefined)
    throw new QcError({ code: "cli/bad-value", flag: "--calibrator", got: spec, want: "a name, or percentile=P with 0 < P <= 100" });
  return c;
}

/** Ranges by a calibrator, with its warnings. */
function rangesBy(calibrator: AutoCandidate["calibrator"], report: Job["report"]): RangeOf {
  return (s, { levels, symmetric, isOutput }) => chooseRange(s, calibrator, { levels, symmetric, output: isOutput, report });
}

function named(bundle: PlanBundle, stats: Stats, calibrator: string): PlanBundle {
  return { ...bundle, plan: { ...bundle.plan, calibrator, stats: { sha256: hashStats(stats), samples: stats.samples } } };
}

/**
 * Noise ÷ signal at the outputs for each plan, over the same samples: each is lowered and run as it would be shipped, all of them beside
 * one float run. Per output Σ(y − ŷ)² / Σy², then the mean over the outputs, so that each counts the same whatever its size.
 */
async function errorsOf(job: Job, o: ChooseInput, plans: readonly PlanBundle[], indices: readonly number[]): Promise<Errors> {
  const open = (m: Model, label: string, level: "all" | "disabled" = "all") =>
    job.runtime.open(writeModel(m), { ...o.session, level, label });
  const sessions = await Promise.all([
    open(o.prepared, "prepared model"),
    ...plans.map((p) => open(lower(o.prepared, p, o.target, { simulateBlocks: true }), "candidate", deployedLevel(p))),
  ]);
  try {
    const names = sessions[0]!.outputs.map((x) => x.name);
    const signal = new Float64Array(names.length);
    const noise = plans.map(() => new Float64Array(names.length));
    const each: number[][] = plans.map(() => []);
    const run = { signal: new Float64Array(names.length), noise: plans.map(() => new Float64Array(names.length)) };
    for await (const feeds of feedsOf(job, o.data!, indices)) {
      const [y, ...all] = await Promise.all(sessions.map((s) => s.run(feeds, names)));
      for (const [k, name] of names.entries()) {
        const x = floatsOf(y![name]!);
        run.signal[k] = x === undefined ? 0 : squaredDistance(x);
        signal[k]! += run.signal[k]!;
        for (const [c, out] of all.entries()) {
          run.noise[c]![k] = x === undefined ? 0 : squaredDistance(x, floatsOf(out[name]!)!);
          noise[c]![k]! += run.noise[c]![k]!;
        }
      }
      for (const [c, n] of run.noise.entries()) each[c]!.push(meanRatio(n, run.signal));
    }
    return { total: noise.map((n) => meanRatio(n, signal)), each };
  } finally {
    await Promise.all(sessions.map((s) => s.release()));
  }
}

/** Noise ÷ signal at the outputs by plan: over all samples, and sample by sample. */
interface Errors {
  readonly total: readonly number[];
  readonly each: readonly (readonly number[])[];
}

/** Mean over the outputs that carry a signal. */
function meanRatio(noise: Float64Array, signal: Float64Array): number {
  let sum = 0;
  let n = 0;
  for (let k = 0; k < signal.length; k++) {
    if (!(signal[k]! > 0)) continue;
    sum += noise[k]! / signal[k]!;
    n++;
  }
  return n === 0 ? 0 : sum / n;
}

/** Sum of (x - y)^2; of x^2 without y. */
function squaredDistance(x: Floats, y?: Floats): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) {
    const e = y === undefined ? x[i]! : x[i]! - y[i]!;
    sum += e * e;
  }
  return sum;
}
type Floats = Float32Array | Float64Array;

async function* feedsOf(job: Job, data: DataSet, indices: readonly number[]): AsyncGenerator<Feeds> {
  for (const i of indices) {
    job.signal?.throwIfAborted();
    yield (await data.sample(i)).feeds;
  }
}
