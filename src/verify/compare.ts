import type { DataSet, Metric, Sample } from "../data/types.ts";
import { QcError, type Report } from "../diagnostics.ts";
import type { IoInfo, OptLevel, Runtime, Session, SessionOptions, Tensor } from "../runtime/types.ts";
import { PairedMetric } from "./statistics.ts";
import { OutputSums } from "./sums.ts";
import type { LevelReport, OutputError } from "./types.ts";

/** A model as the engine takes it. */
export interface Runnable {
  readonly model: string | Uint8Array;
  readonly externalFolder?: string | undefined;
  readonly label: string;
}

export interface CompareOptions {
  readonly runtime: Runtime;
  readonly float: Runnable;
  readonly quantized: Runnable;
  readonly data: DataSet;
  readonly indices: readonly number[];
  /** Levels at which the quantized model runs. The float model runs at the last of them. */
  readonly levels: readonly OptLevel[];
  /** Samples, the first ones, that the levels before the last run; default all. They cost more and need fewer. */
  readonly referenceSamples?: number | undefined;
  readonly session?: Pick<SessionOptions, "threads" | "provider" | "state">;
  readonly report: Report;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Samples whose runs may be outstanding: enough to keep every worker busy. Models that feed an output back run one by one. */
const WINDOW = 4;

export interface Compared {
  readonly levels: readonly LevelReport[];
  /** The last level on the samples that the levels before it ran: what may be held against theirs. */
  readonly common: LevelReport;
  /** Still open. Release when done. */
  readonly float: Session;
  readonly quantized: readonly Session[];
  readonly first: Sample | undefined;
}

/**
 * Runs both models over the samples and folds the difference: memory does not grow with their number. Sums are taken in the order of
 * `indices`, so that the result does not depend on workers.
 */
export async function compareModels(o: CompareOptions): Promise<Compared> {
  const deployed = o.levels.at(-1)!;
  const open = (r: Runnable, level: OptLevel) =>
    o.runtime.open(r.model, {
      ...o.session,
      level,
      label: r.label,
      ...(r.externalFolder === undefined ? {} : { externalFolder: r.externalFolder }),
    });
  const [float, ...quantized] = await Promise.all([open(o.float, deployed), ...o.levels.map((l) => open(o.quantized, l))]);
  const names = outputNames(float!, quantized[0]!);
  const few = Math.min(o.indices.length, o.referenceSamples ?? o.indices.length);
  const last = o.levels.length - 1;
  const folds = o.levels.map((level, k) => new LevelFold(level, names, o.data.metric, k < last ? few : o.indices.length));
  const common = few < o.indices.length ? new LevelFold(deployed, names, undefined, few) : undefined;
  const queue: Promise<{ sample: Sample; x: Outputs; y: readonly Outputs[] }>[] = [];
  const start = async (index: number) => {
    const sample = await o.data.sample(index);
    const runs = started++ < few ? quantized : quantized.slice(last);
    const [x, ...y] = await Promise.all([float!.run(sample.feeds), ...runs.map((s) => s.run(sample.feeds))]);
    return { sample, x: x!, y };
  };
  let started = 0;
  let first: Sample | undefined;
  let done = 0;
  const finish = async () => {
    const { sample, x, y } = await queue.shift()!;
    first ??= sample;
    const skipped = folds.length - y.length;
    for (const [k, out] of y.entries()) folds[skipped + k]!.add(x, out, sample);
    if (skipped === 0) common?.add(x, y[last]!, sample);
    o.onProgress?.(++done, o.indices.length);
  };
  const window = o.session?.state === undefined ? WINDOW : 1;
  for (const index of o.indices) {
    o.signal?.throwIfAborted();
    const p = start(index);
    p.catch(() => {}); // awaited in order below
    queue.push(p);
    if (queue.length >= window) await finish();
  }
  while (queue.length > 0) await finish();
  const levels = folds.map((f) => f.result(o.report));
  return { levels, common: common?.result(() => {}) ?? levels[last]!, float: float!, quantized, first };
}

type Outputs = Readonly<Record<string, Tensor>>;

/** Both models must have the same outputs; the compiler never renames them. */
function outputNames(float: Session, quantized: Session): readonly IoInfo[] {
  const have = new Set(quantized.outputs.map((x) => x.name));
  const missing = float.outputs.filter((x) => !have.has(x.name));
  if (missing.length > 0) throw new QcError({ code: "check/outputs-differ", missing: missing.map((x) => x.name), have: [...have] });
  return float.outputs;
}

/** Metrics over next tokens: their outputs are scores of classes along the last axis. */
const TOKEN_METRICS: ReadonlySet<string> = new Set(["perplexity"]);

class LevelFold {
  readonly #level: OptLevel;
  readonly #sums: readonly { readonly name: string; readonly sums: OutputSums }[];
  readonly #metric: PairedMetric | undefined;

  constructor(level: OptLevel, outputs: readonly IoInfo[], metric: Metric | undefined, total: number) {
    this.#level = level;
    const tokens = metric !== undefined && TOKEN_METRICS.has(metric.name);
    // A row of two or more scores is a classifier's; images and boxes have more axes, one-element rows are regressions.
    const classes = (x: IoInfo) => x.dims.length === 2 && typeof x.dims[1] === "number" && x.dims[1] > 1;
    this.#sums = outputs.map((x) => ({ name: x.name, sums: new OutputSums(x.name, tokens || classes(x)) }));
    this.#metric = metric === undefined ? undefined : new PairedMetric(metric, total);
  }

  add(x: Outputs, y: Outputs, sample: Sample): void {
    for (const { name, sums } of this.#sums) sums.add(x[name]!, y[name]!, sample.id);
    this.#metric?.add(x, y, sample);
  }

  result(report: Report): LevelReport {
    const outputs: OutputError[] = [];
    for (const { name, sums } of this.#sums) {
      const { float, quantized, sample } = sums.nonFinite;
      if (float > 0) report({ code: "check/non-finite", output: name, sample, where: "float", count: float });
      if (quantized > float) report({ code: "check/non-finite", output: name, sample, where: "quantized", count: quantized });
      outputs.push(sums.result());
    }
    return { level: this.#level, outputs, ...(this.#metric === undefined ? {} : { metric: this.#metric.result() }) };
  }
}
