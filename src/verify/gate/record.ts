import type { DataSet, Metric, Sample } from "../../data/types.ts";
import { QcError } from "../../diagnostics.ts";
import type { Session, Tensor } from "../../runtime/types.ts";
import { MetricFold, type MetricRun } from "../statistics.ts";
import { floatsOf, OutputSums } from "../sums.ts";
import type { OutputError } from "../types.ts";

type Outputs = Readonly<Record<string, Tensor>>;

/** What one model did on the samples; enough to compare another with it later. */
export interface ScoreRecord {
  readonly n: number;
  readonly metric?: MetricRun;
  /** Of samples whose label is one class, and of each group. */
  readonly classes: Readonly<Record<string, MetricRun>>;
  readonly groups: Readonly<Record<string, MetricRun>>;
  /** Place of the largest element in each row of the first output that scores classes. */
  readonly tops: readonly number[];
}

export interface Scored {
  readonly records: readonly ScoreRecord[];
  /** Errors of the second model's outputs against the first's, when both were run. */
  readonly outputs: readonly OutputError[];
  readonly ids: readonly string[];
  readonly samples: readonly Sample[];
}

const WINDOW = 4;
/** Samples that are kept to time with. */
const KEPT = 8;

/** Runs one or two models over the samples. Memory does not grow with their number but for a few numbers each. */
export async function scoreModels(o: {
  readonly sessions: readonly Session[];
  readonly data: DataSet;
  readonly indices: readonly number[];
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}): Promise<Scored> {
  const { sessions, data, indices } = o;
  const [first, second] = sessions;
  if (second !== undefined) {
    const have = second.outputs.map((x) => x.name);
    const missing = first!.outputs.map((x) => x.name).filter((x) => !have.includes(x));
    if (missing.length > 0) throw new QcError({ code: "check/outputs-differ", missing, have });
  }
  const folds = sessions.map(() => new RecordFold(data, indices));
  const scores = first!.outputs.map((x) => x.dims.length === 2 && typeof x.dims[1] === "number" && x.dims[1] > 1);
  const sums = second === undefined ? [] : first!.outputs.map((x, i) => new OutputSums(x.name, scores[i]!));
  const top = first!.outputs.find((_, i) => scores[i])?.name;
  const ids: string[] = [];
  const samples: Sample[] = [];
  const queue: Promise<{ readonly index: number; readonly sample: Sample; readonly outs: readonly Outputs[] }>[] = [];
  const start = async (index: number) => {
    const sample = await data.sample(index);
    return { index, sample, outs: await Promise.all(sessions.map((s) => s.run(sample.feeds))) };
  };
  const finish = async () => {
    const { index, sample, outs } = await queue.shift()!;
    ids.push(sample.id);
    if (samples.length < KEPT) samples.push(sample);
    for (const [k, out] of outs.entries()) folds[k]!.add(out, outs[0]!, sample, data.classes?.[index], top);
    if (second !== undefined) for (const [i, x] of first!.outputs.entries()) sums[i]!.add(outs[0]![x.name]!, outs[1]![x.name]!, sample.id);
    o.onProgress?.(ids.length, indices.length);
  };
  // Models that feed an output back are run one sample at a time.
  const window = data.state === undefined ? WINDOW : 1;
  for (const index of indices) {
    o.signal?.throwIfAborted();
    const p = start(index);
    p.catch(() => {}); // awaited in order below
    queue.push(p);
    if (queue.length >= window) await finish();
  }
  while (queue.length > 0) await finish();
  return { records: folds.map((f) => f.result()), outputs: sums.map((s) => s.result()), ids, samples };
}

class RecordFold {
  readonly #metric: Metric | undefined;
  readonly #whole: MetricFold | undefined;
  readonly #classes = new Map<string, MetricFold>();
  readonly #groups = new Map<string, MetricFold>();
  readonly #total: number;
  readonly #tops: number[] = [];
  #n = 0;

  constructor(data: DataSet, indices: readonly number[]) {
    this.#metric = data.metric;
    this.#total = indices.length;
    this.#whole = data.metric === undefined ? undefined : new MetricFold(data.metric, indices.length);
  }

  add(out: Outputs, reference: Outputs, sample: Sample, given: number | undefined, top: string | undefined): void {
    this.#n++;
    if (top !== undefined) this.#addTops(out[top]!);
    if (this.#metric === undefined) return;
    this.#whole!.add(out, sample, reference);
    const label = given ?? (typeof sample.label === "number" ? sample.label : undefined);
    if (label !== undefined) this.#slice(this.#classes, String(label)).add(out, sample, reference);
    if (sample.group !== undefined) this.#slice(this.#groups, sample.group).add(out, sample, reference);
  }

  #slice(of: Map<string, MetricFold>, name: string): MetricFold {
    let fold = of.get(name);
    if (fold === undefined) of.set(name, (fold = new MetricFold(this.#metric!, this.#total)));
    return fold;
  }

  #addTops(t: Tensor): void {
    const x = floatsOf(t);
    const width = t.dims.at(-1) ?? 1;
    if (x === undefined) return;
    for (let r = 0; r + width <= x.length; r += width) {
      let p = 0;
      for (let j = 1; j < width; j++) if (x[r + j]! > x[r + p]!) p = j;
      this.#tops.push(p);
    }
  }

  result(): ScoreRecord {
    const all = (of: Map<string, MetricFold>) =>
      Object.fromEntries([...of].sort(([a], [b]) => (a < b ? -1 : 1)).map(([k, f]) => [k, finite(f.result())]));
    return {
      n: this.#n,
      ...(this.#whole === undefined ? {} : { metric: this.#whole.result() }),
      classes: all(this.#classes),
      groups: all(this.#groups),
      tops: this.#tops,
    };
  }
}

/** A slice with too few samples leaves groups empty: AUC of one class is none. */
const finite = (r: MetricRun): MetricRun => (r.without?.some((v) => !Number.isFinite(v)) ? { ...r, without: [] } : r);
