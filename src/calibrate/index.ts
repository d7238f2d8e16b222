import type { DataSet } from "../data/types.ts";
import { QcError, type Report } from "../diagnostics.ts";
import type { Model } from "../graph/ir.ts";
import { modelHashes } from "../graph/onnx/hash.ts";
import { writeModel } from "../graph/onnx/index.ts";
import type { ValueType } from "../graph/types.ts";
import { withOutputs } from "../runtime/expose.ts";
import type { Feeds, Runtime, Session, SessionOptions } from "../runtime/types.ts";
import { MODULE, type ObserveArgs, type Observed } from "./fold.ts";
import { sampleKey } from "./keys.ts";
import { joinParts } from "./merge.ts";
import { reduceRanges, reducible } from "./reduce.ts";
import type { Stats, ValueStats } from "./types.ts";

export {
  type AutoCandidate,
  type AutoChoice,
  type AutoFold,
  type AutoSplit,
  autoCandidates,
  chooseAuto,
  outputErrors,
  splitForAuto,
} from "./auto.ts";
export { CALIBRATORS, type ChooseOptions, calibratorOf, chooseRange, minmax, percentile } from "./calibrators.ts";
export { checkStats, readStats, writeStats } from "./file.ts";
export { joinParts, mergeStats, mergeValueStats } from "./merge.ts";
export { type ParametricSite, parametricQdq, siteFeeds } from "./parametric.ts";

export interface CollectOptions {
  /** The prepared model. */
  readonly model: Model;
  /** What to observe: paths of float values. Each distinct value once. */
  readonly values: readonly string[];
  readonly data: DataSet;
  /** Types of values, where the graph leaves them open (`Prepared.types`): tells which tensors are large. */
  readonly types?: ReadonlyMap<string, ValueType>;
  /** Which samples; one run each. */
  readonly indices: readonly number[];
  readonly runtime: Runtime;
  /** Version of the prepare rules, and the hashes of the source model: what the stats are bound to. Default: the model given. */
  readonly prepare?: string;
  readonly source?: { readonly structure: string; readonly weights: string };
  /**
   * `range`: extremes, reduced inside the engine so that no large tensor has to leave it; a histogram only of small values and of those
   * with outliers. Default `histogram`.
   */
  readonly detail?: "range" | "histogram";
  /** Sessions side by side, each in a thread of the runtime. No number depends on it. */
  readonly workers?: number;
  readonly session?: SessionOptions;
  /** Key of the sample hashes. Default: that of the set, so that shards of one set agree and outsiders cannot test membership. */
  readonly secret?: string;
  /** Stats collected before with the same arguments: their samples are not run again. */
  readonly resume?: Stats;
  /** Called every so often with what is complete so far. */
  readonly checkpoint?: { readonly everyMs: number; save(stats: Stats): void };
  readonly signal?: AbortSignal;
  progress?(done: number, total: number): void;
  readonly report?: Report;
}

/**
 * Runs the samples, one a run, and observes the values. Counts, extremes and histograms are the same, bit for bit, for any order,
 * split or number of workers; memory does not grow with the number of samples.
 */
export async function collectStats(o: CollectOptions): Promise<Stats> {
  const values = [...new Set(o.values)].sort();
  const none: Stats = { schema: "qc.stats/1", model: o.source ?? modelHashes(o.model), prepare: o.prepare ?? "", ...NOTHING };
  let stats = o.resume === undefined ? none : joinParts([none, o.resume]);
  if (o.indices.length === 0 && stats.samples === 0) throw new QcError({ code: "calibrate/no-samples", set: o.data.name });

  // A run with NaN is run again by itself, which a sequence forbids; what was resumed with a histogram goes on with one.
  const inGraph =
    o.detail === "range" && o.data.sequences === undefined
      ? reducible(
          o.model,
          values.filter((v) => stats.values.get(v)?.hist === undefined),
          o.types,
        )
      : [];
  const known = stats.sampleKeys;
  const first = new Pass(o, none, values, inGraph, known);
  const before = stats;
  try {
    stats = await first.run(o.indices, before);
  } catch (e) {
    // A tensor without elements cannot be reduced.
    if (inGraph.length === 0 || !(e instanceof QcError) || e.diagnostics[0]?.code !== "runtime/run-failed") throw e;
    stats = await new Pass(o, none, values, inGraph, known, true).run(o.indices, before);
    first.notFinite.length = 0;
  }
  // NaN or infinity somewhere: look at every element of those samples.
  if (first.notFinite.length > 0) stats = await new Pass(o, none, values, inGraph, [], true).run(first.notFinite, stats);
  if (first.outlying.size > 0) stats = await withHistograms(o, none, [...first.outlying], known, stats);
  stats = { ...stats, values: new Map(values.map((v) => [v, stats.values.get(v) ?? empty(v)])) };
  warn(stats, o.report ?? (() => {}));
  return stats;
}

/** Values that were only reduced and turned out to need a histogram: a second walk over the samples, for them alone. */
async function withHistograms(
  o: CollectOptions,
  none: Stats,
  values: readonly string[],
  known: readonly string[],
  stats: Stats,
): Promise<Stats> {
  // What was resumed has only their ranges, and its samples are not run again.
  const old = values.filter((v) => o.resume?.values.has(v));
  const anew = values.filter((v) => !old.includes(v));
  if (anew.length === 0) return stats;
  const { checkpoint: _later, ...rest } = o;
  const seen = await new Pass(rest, none, anew, [], known).run(o.indices, none);
  return { ...stats, values: new Map([...stats.values, ...seen.values]) };
}

const NOTHING = { samples: 0, sampleKeys: [], values: new Map<string, ValueStats>() };

function empty(name: string): ValueStats {
  return { name, count: 0, zeros: 0, nan: 0, inf: 0, min: Infinity, max: -Infinity, hist: undefined, runs: 0 };
}

/** One walk over samples with one exposed model. */
class Pass {
  readonly notFinite: number[] = [];
  readonly outlying = new Set<string>();
  readonly #o: CollectOptions;
  readonly #none: Stats;
  readonly #args: ObserveArgs;
  readonly #model: Model;
  /** Keys of samples counted before, with how often. */
  readonly #known = new Map<string, number>();

  /** `entire`: the values to reduce in the graph leave it nevertheless. */
  constructor(
    o: CollectOptions,
    none: Stats,
    values: readonly string[],
    inGraph: readonly string[],
    known: readonly string[],
    entire = false,
  ) {
    this.#o = o;
    this.#none = none;
    const inputs = new Set(o.model.graph.inputs.map((v) => v.name));
    const whole = values.filter((v) => !inGraph.includes(v));
    const bare = entire ? inGraph : [];
    const reduced = entire ? [] : inGraph;
    this.#args = { whole, bare, reduced };
    const model = reduced.length > 0 ? reduceRanges(o.model, reduced) : o.model;
    this.#model = withOutputs(
      model,
      [...whole, ...bare].filter((v) => !inputs.has(v)),
      o.types,
    );
    for (const k of known) this.#known.set(k, (this.#known.get(k) ?? 0) + 1);
  }

  async run(indices: readonly number[], start: Stats): Promise<Stats> {
    const { runtime, checkpoint, signal, data } = this.#o;
    const options: SessionOptions = { label: "calibration", ...this.#o.session, ...(data.state && { state: data.state }) };
    const bytes = writeModel(this.#model);
    const count = Math.max(1, Math.min(this.#o.workers ?? 1, indices.length));
    const sessions: Session[] = [];
    let stats = start;
    const queue = new Queue(runsOf(indices, data));
    try {
      for (let i = 0; i < count; i++) sessions.push(await runtime.open(bytes, options));
      while (!queue.empty) {
        const until = checkpoint === undefined ? Infinity : performance.now() + checkpoint.everyMs;
        const parts = await Promise.all(sessions.map((s) => this.#segment(s, queue, until, indices.length)));
        stats = joinParts([stats, ...parts]);
        signal?.throwIfAborted();
        if (!queue.empty) checkpoint?.save(stats);
      }
    } finally {
      await Promise.all(sessions.map((s) => s.release().catch(() => {})));
    }
    return stats;
  }

  /** Takes samples from the queue until it is empty or the time has come. */
  async #segment(session: Session, queue: Queue, until: number, total: number): Promise<Stats> {
    const { data, signal, progress, secret = data.secret ?? data.sha256 } = this.#o;
    const known = this.#known;
    const taken: number[] = [];
    const keys: string[] = [];
    const takeKnown = (key: string): boolean => {
      const before = known.get(key) ?? 0;
      if (before > 0) known.set(key, before - 1);
      return before > 0;
    };
    async function* feeds(): AsyncGenerator<Feeds> {
      while (performance.now() < until) {
        const run = queue.next();
        if (run === undefined) return;
        // A sequence carries state on, so it is run as a whole or not at all.
        if (run.length > 1 && known.size > 0) {
          const old: boolean[] = [];
          for (const index of run) old.push((known.get(sampleKey(secret, (await data.sample(index)).feeds)) ?? 0) > 0);
          if (old.every(Boolean)) continue;
        }
        for (const index of run) {
          signal?.throwIfAborted();
          const { feeds } = await data.sample(index);
          const key = sampleKey(secret, feeds);
          if (run.length === 1 && takeKnown(key)) continue;
          taken.push(index);
          keys.push(key);
          yield feeds;
        }
        queue.done += run.length;
        progress?.(queue.done, total);
      }
    }
    const seen = (await session.fold(feeds(), { module: MODULE, name: "observe", args: this.#args })) as Observed;
    const lost = new Set(seen.notFinite);
    for (const i of lost) this.notFinite.push(taken[i]!);
    for (const v of seen.outlying) this.outlying.add(v);
    const sampleKeys = keys.filter((_, i) => !lost.has(i)).sort();
    return { ...this.#none, samples: sampleKeys.length, sampleKeys, values: new Map(seen.values.map((v) => [v.name, v])) };
  }
}

/** What one session takes at a time: a sample, or all samples of a sequence in their order. */
function runsOf(indices: readonly number[], data: DataSet): readonly (readonly number[])[] {
  const { sequences } = data;
  if (sequences === undefined) return indices.map((i) => [i]);
  const runs = new Map<number, number[]>();
  for (const i of [...indices].sort((a, b) => a - b)) {
    const s = sequences[i]!;
    const run = runs.get(s);
    if (run !== undefined) run.push(i);
    else runs.set(s, [i]);
  }
  for (const [s, run] of runs) {
    const start = sequences.indexOf(s);
    // The state at a sample is what the samples before it in its sequence left behind.
    const gap = run.findIndex((i, k) => i !== start + k);
    if (gap >= 0) throw new QcError({ code: "calibrate/broken-sequence", set: data.name, sample: run[gap]!, missing: start + gap });
  }
  return [...runs.values()];
}

class Queue {
  done = 0;
  #at = 0;
  readonly #items: readonly (readonly number[])[];
  constructor(items: readonly (readonly number[])[]) {
    this.#items = items;
  }
  get empty(): boolean {
    return this.#at >= this.#items.length;
  }
  next(): readonly number[] | undefined {
    return this.#items[this.#at++];
  }
}

function warn(stats: Stats, report: Report): void {
  const all = [...stats.values.values()];
  const bad = all.filter((v) => v.nan + v.inf > 0);
  if (bad.length > 0) report({ code: "calibrate/not-finite", values: bad.map(({ name, nan, inf }) => ({ name, nan, inf })) });
  const still = all.filter((v) => v.count > 1 && v.min === v.max);
  if (still.length > 0) report({ code: "calibrate/constant", values: still.map(({ name, min }) => ({ name, value: min })) });
  const never = all.filter((v) => v.count === 0);
  if (never.length > 0) report({ code: "calibrate/never-ran", values: never.map((v) => v.name) });
}
