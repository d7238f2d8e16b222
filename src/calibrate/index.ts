import type { DataSet } from "../data/types.ts";
import { QcError, type Report } from "../diagnostics.ts";
import type { Model } from "../graph/ir.ts";
import { modelHashes } from "../graph/onnx/hash.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { withOutputs } from "../runtime/expose.ts";
import type { Feeds, Runtime, Session, SessionOptions } from "../runtime/types.ts";
import { MODULE, type ObserveArgs, type Observed } from "./fold.ts";
import { sampleKey } from "./keys.ts";
import { joinParts } from "./merge.ts";
import { reduceRanges, reducible } from "./reduce.ts";
import type { Stats, ValueStats } from "./types.ts";

export { type AutoCandidate, type AutoChoice, type AutoSplit, autoCandidates, chooseAuto, outputErrors, splitForAuto } from "./auto.ts";
export { CALIBRATORS, type ChooseOptions, calibratorOf, chooseRange, minmax, percentile } from "./calibrators.ts";
export { checkStats, readStats, writeStats } from "./file.ts";
export { mergeStats, mergeValueStats } from "./merge.ts";
export { type ParametricSite, parametricQdq, siteFeeds } from "./parametric.ts";

export interface CollectOptions {
  /** The prepared model. */
  readonly model: Model;
  /** What to observe: paths of float values. Each distinct value once. */
  readonly values: readonly string[];
  readonly data: DataSet;
  /** Which samples; one run each. */
  readonly indices: readonly number[];
  readonly runtime: Runtime;
  /** Version of the prepare rules, and the hashes of the source model: what the stats are bound to. Default: the model given. */
  readonly prepare?: string;
  readonly source?: { readonly structure: string; readonly weights: string };
  /** `range`: extremes only, for which no large tensor needs to leave the engine. Default `histogram`. */
  readonly detail?: "range" | "histogram";
  /** Sessions side by side, each in a thread of the runtime. No number depends on it. */
  readonly workers?: number;
  readonly session?: SessionOptions;
  /** Key of the sample hashes. Default: the hash of the set, so that shards of one set agree and outsiders cannot test membership. */
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
  const state = o.session?.state !== undefined;
  const none: Stats = { schema: "qc.stats/1", model: o.source ?? modelHashes(o.model), prepare: o.prepare ?? "", ...NOTHING };
  // A set with state is one sequence: it cannot go on from the middle, nor be split.
  let stats = o.resume === undefined || state ? none : joinParts([none, o.resume]);
  if (o.indices.length === 0 && stats.samples === 0) throw new QcError({ code: "calibrate/no-samples", set: o.data.name });

  const inGraph: ReadonlyMap<string, number> = o.detail === "range" && !state ? reducible(o.model, values) : new Map();
  const first = new Pass(o, none, values, inGraph, stats.sampleKeys);
  stats = await first.run(o.indices, stats);
  // NaN or infinity somewhere: look at every element of those samples.
  if (first.notFinite.length > 0) stats = await new Pass(o, none, values, new Map(), []).run(first.notFinite, stats);
  stats = { ...stats, values: new Map(values.map((v) => [v, stats.values.get(v) ?? empty(v)])) };
  warn(stats, o.report ?? (() => {}));
  return stats;
}

const NOTHING = { samples: 0, sampleKeys: [], values: new Map<string, ValueStats>() };

function empty(name: string): ValueStats {
  return { name, count: 0, zeros: 0, nan: 0, inf: 0, min: Infinity, max: -Infinity, hist: undefined, runs: 0 };
}

/** One walk over samples with one exposed model. */
class Pass {
  readonly notFinite: number[] = [];
  readonly #o: CollectOptions;
  readonly #none: Stats;
  readonly #args: ObserveArgs;
  readonly #model: Model;
  /** Keys of samples counted before, with how often. */
  readonly #known = new Map<string, number>();

  constructor(o: CollectOptions, none: Stats, values: readonly string[], inGraph: ReadonlyMap<string, number>, known: readonly string[]) {
    this.#o = o;
    this.#none = none;
    const whole = values.filter((v) => !inGraph.has(v));
    const inputs = new Set(o.model.graph.inputs.map((v) => v.name));
    const reduced = [...inGraph.keys()];
    this.#args = { whole, reduced, counts: [...inGraph.values()], histogram: o.detail !== "range" };
    const model = reduced.length > 0 ? reduceRanges(o.model, reduced) : o.model;
    this.#model = withOutputs(
      model,
      whole.filter((v) => !inputs.has(v)),
    );
    for (const k of known) this.#known.set(k, (this.#known.get(k) ?? 0) + 1);
  }

  async run(indices: readonly number[], start: Stats): Promise<Stats> {
    const { runtime, checkpoint, signal } = this.#o;
    const bytes = writeModel(this.#model);
    const count = this.#o.session?.state !== undefined ? 1 : Math.max(1, Math.min(this.#o.workers ?? 1, indices.length));
    const sessions: Session[] = [];
    let stats = start;
    const queue = new Queue(indices);
    try {
      for (let i = 0; i < count; i++) sessions.push(await runtime.open(bytes, { label: "calibration", ...this.#o.session }));
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
    const { data, signal, progress, secret = data.sha256 } = this.#o;
    const known = this.#known;
    const taken: number[] = [];
    const keys: string[] = [];
    async function* feeds(): AsyncGenerator<Feeds> {
      while (performance.now() < until) {
        signal?.throwIfAborted();
        const index = queue.next();
        if (index === undefined) return;
        const sample = await data.sample(index);
        const key = sampleKey(secret, sample.feeds);
        const before = known.get(key) ?? 0;
        if (before > 0) known.set(key, before - 1);
        else {
          taken.push(index);
          keys.push(key);
          yield sample.feeds;
        }
        progress?.(++queue.done, total);
      }
    }
    const seen = (await session.fold(feeds(), { module: MODULE, name: "observe", args: this.#args })) as Observed;
    const lost = new Set(seen.notFinite);
    for (const i of lost) this.notFinite.push(taken[i]!);
    const sampleKeys = keys.filter((_, i) => !lost.has(i)).sort();
    return { ...this.#none, samples: sampleKeys.length, sampleKeys, values: new Map(seen.values.map((v) => [v.name, v])) };
  }
}

class Queue {
  done = 0;
  #at = 0;
  readonly #items: readonly number[];
  constructor(items: readonly number[]) {
    this.#items = items;
  }
  get empty(): boolean {
    return this.#at >= this.#items.length;
  }
  next(): number | undefined {
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
