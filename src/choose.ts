import { encodeStats } from "./calibrate/file.ts";
import { type AutoCandidate, calibratorOf, chooseAuto, chooseRange, collectStats, joinParts, splitForAuto } from "./calibrate/index.ts";
import type { Stats } from "./calibrate/types.ts";
import type { DataSet } from "./data/types.ts";
import { QcError } from "./diagnostics.ts";
import { lower } from "./export/lower/index.ts";
import type { Model } from "./graph/ir.ts";
import { writeModel } from "./graph/onnx/index.ts";
import type { ValueType } from "./graph/types.ts";
import { sha256 } from "./io/hash.ts";
import type { Job } from "./job.ts";
import type { Target } from "./plan/target.ts";
import type { PlanBundle } from "./plan/types.ts";
import type { Proposal } from "./ptq/propose.ts";
import { planOf, type RangeOf } from "./ptq/ranges.ts";
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
}

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
  const collect = (indices: readonly number[], before: number) =>
    collectStats({
      ...o,
      indices,
      secret: o.data.secret,
      runtime: job.runtime,
      detail: o.calibrator === "minmax" ? "range" : "histogram",
      workers: job.runtime.workers,
      report: job.report,
      progress: (done) => report(before + done, o.indices.length),
      ...(job.signal === undefined ? {} : { signal: job.signal }),
    });
  const split = o.calibrator === "auto" ? splitForAuto(o.indices, o.data.roles.select, o.data.sequences) : undefined;
  const [first, second] = split?.folds ?? [];
  if (split === undefined || first === undefined) return { stats: await collect(o.indices, 0) };
  const stats = await collect(first.ranges, 0);
  if (second === undefined) return { stats, trial: { folds: [{ stats, select: first.select }], confirm: [] } };
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
  const { stats, trial } = o.calibrated;
  const plan = (s: Stats, c: AutoCandidate["calibrator"], report: Job["report"]) => planOf(o.proposal, s, rangesBy(c, report), { report });
  if (o.calibrator !== "auto") return named(plan(stats, calibratorNamed(o.calibrator), job.report), stats, o.calibrator);
  const folds = trial?.folds ?? [];
  const judge = (s: Stats, candidates: readonly AutoCandidate[], select: readonly number[]) =>
    errorsOf(
      job,
      o,
      candidates.map((c) => plan(s, c.calibrator, () => {})),
      select,
    );
  const choice = await chooseAuto({
    samples: folds.reduce((n, f) => n + f.select.length, 0),
    async evaluate(candidates) {
      const all: (readonly number[])[] = [];
      for (const f of folds) all.push(await judge(f.stats, candidates, f.select));
      return candidates.map((_, i) => all.reduce((sum, e) => sum + e[i]! / all.length, 0));
    },
    ...(trial !== undefined && trial.confirm.length > 0 && { confirm: (c: readonly AutoCandidate[]) => judge(stats, c, trial.confirm) }),
  });
  return named(plan(stats, choice.chosen.calibrator, job.report), stats, choice.chosen.spec);
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
  return { ...bundle, plan: { ...bundle.plan, calibrator, stats: { sha256: sha256(encodeStats(stats)), samples: stats.samples } } };
}

/**
 * Noise ÷ signal at the outputs for each plan, over the same samples: each is lowered and run as it would be shipped, all of them beside
 * one float run. Per output Σ(y − ŷ)² / Σy², then the mean over the outputs, so that each counts the same whatever its size.
 */
async function errorsOf(job: Job, o: ChooseInput, plans: readonly PlanBundle[], indices: readonly number[]): Promise<number[]> {
  const open = (m: Model, label: string) => job.runtime.open(writeModel(m), { ...o.session, level: "all", label });
  const sessions = await Promise.all([
    open(o.prepared, "prepared model"),
    ...plans.map((p) => open(lower(o.prepared, p, o.target), "candidate")),
  ]);
  try {
    const names = sessions[0]!.outputs.map((x) => x.name);
    const signal = new Float64Array(names.length);
    const noise = plans.map(() => new Float64Array(names.length));
    for await (const feeds of feedsOf(job, o.data!, indices)) {
      const [y, ...all] = await Promise.all(sessions.map((s) => s.run(feeds, names)));
      for (const [k, name] of names.entries()) {
        const x = floatsOf(y![name]!);
        if (x === undefined) continue;
        for (let i = 0; i < x.length; i++) signal[k]! += x[i]! * x[i]!;
        for (const [c, out] of all.entries()) noise[c]![k]! += squaredDistance(x, floatsOf(out[name]!)!);
      }
    }
    const used = [...signal.keys()].filter((k) => signal[k]! > 0);
    return noise.map((n) => used.reduce((sum, k) => sum + n[k]! / signal[k]!, 0) / Math.max(1, used.length));
  } finally {
    await Promise.all(sessions.map((s) => s.release()));
  }
}

function squaredDistance(x: Floats, y: Floats): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) {
    const e = x[i]! - y[i]!;
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
