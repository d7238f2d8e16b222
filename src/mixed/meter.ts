import type { DataSet, Metric, Sample } from "../data/types.ts";
import { QcError } from "../diagnostics.ts";
import { lower } from "../export/lower/index.ts";
import type { Model } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import type { Target } from "../plan/target.ts";
import type { PlanBundle } from "../plan/types.ts";
import type { Runtime, SessionOptions, Tensor } from "../runtime/types.ts";
import { Belief } from "./belief.ts";

export interface MeterOptions {
  readonly model: Model;
  readonly target: Target;
  readonly runtime: Runtime;
  readonly data: DataSet;
  readonly metric: Metric;
  readonly indices: readonly number[];
  readonly session?: SessionOptions;
  readonly signal?: AbortSignal;
}

export interface Drop {
  readonly pt: number;
  readonly percent: number;
  /** What it is at most, with 95 % confidence; absent where the metric's spread is not known. */
  readonly high?: { readonly pt: number; readonly percent: number };
}

/** Metrics that an expectation of right decisions stands for. */
const ACCURACIES: Readonly<Record<string, true>> = { top1: true, top5: true };

type Outputs = Readonly<Record<string, Tensor>>;
/** Samples whose runs may be outstanding. */
const WINDOW = 4;

/**
 * What plans lose of the task metric, as they would be shipped, on samples that are not held out. Calibrate samples often have no labels, or
 * one and the same for all: then the loss of accuracy is the float network's own expectation (`Belief`).
 */
export class Meter {
  readonly #o: MeterOptions;
  #float: Promise<{ readonly outputs: readonly Outputs[]; readonly value: number | undefined }> | undefined;
  /** How the drop was found; known once one was. */
  by: "labels" | "expectation" | undefined;

  constructor(o: MeterOptions) {
    this.#o = o;
  }

  get samples(): number {
    return this.#o.indices.length;
  }

  /** In the metric's points, and in percent of the float model's value; positive is worse. Undefined: nothing here tells. */
  async drop(bundle: PlanBundle): Promise<Drop | undefined> {
    const { model, target, metric } = this.#o;
    this.#float ??= this.#measureFloat();
    const float = await this.#float;
    const state = float.value === undefined ? undefined : metric.start();
    const belief = new Belief();
    const isAccuracy = metric.name in ACCURACIES;
    await this.#run(writeModel(lower(model, bundle, target)), (sample, out, n) => {
      const reference = float.outputs[n]!;
      state?.add(out, sample, reference);
      if (isAccuracy) belief.add(Object.values(reference)[0]!, Object.values(out)[0]!);
    });
    if (!state || float.value === undefined) {
      if (!isAccuracy) return undefined;
      this.by = "expectation";
      return belief.drop;
    }
    this.by = "labels";
    const { value } = state.result();
    const pt = metric.better === "higher" ? float.value - value : value - float.value;
    const inPercent = (x: number) => (100 * x) / Math.abs(float.value!);
    const most = pt + belief.chance;
    return { pt, percent: inPercent(pt), ...(isAccuracy && { high: { pt: most, percent: inPercent(most) } }) };
  }

  async #measureFloat(): Promise<{ readonly outputs: readonly Outputs[]; readonly value: number | undefined }> {
    const { metric, model, data, indices } = this.#o;
    let state = (await isLabelled(data, indices)) ? metric.start() : undefined;
    const outputs: Outputs[] = [];
    await this.#run(writeModel(model), (sample, out) => {
      outputs.push(out);
      try {
        state?.add(out, sample, out);
      } catch (e) {
        // A label that the metric needs is missing.
        if (!(e instanceof QcError)) throw e;
        state = undefined;
      }
    });
    const value = state?.result().value;
    return { outputs, value: value !== undefined && Number.isFinite(value) && value !== 0 ? value : undefined };
  }

  async #run(bytes: Uint8Array, each: (sample: Sample, out: Outputs, n: number) => void): Promise<void> {
    const { runtime, session, data, indices, signal } = this.#o;
    const opened = await runtime.open(bytes, { ...session, level: "all", label: "candidate" });
    const names = opened.outputs.map((x) => x.name);
    const flight: Promise<{ readonly sample: Sample; readonly out: Outputs }>[] = [];
    let n = 0;
    const settle = async () => {
      const { sample, out } = await flight.shift()!;
      each(sample, out, n++);
    };
    try {
      for (const i of indices) {
        signal?.throwIfAborted();
        const sample = await data.sample(i);
        flight.push(opened.run(sample.feeds, names).then((out) => ({ sample, out })));
        if (flight.length > WINDOW) await settle();
      }
      while (flight.length > 0) await settle();
    } finally {
      await Promise.allSettled(flight);
      await opened.release();
    }
  }
}

/** Samples that tell whether there are labels. */
const LOOKED_AT = 64;

/** Class labels are missing when there are none, or when all samples have the same one. Other kinds are taken as they are. */
async function isLabelled(data: DataSet, indices: readonly number[]): Promise<boolean> {
  const seen = new Set<number>();
  let n = 0;
  for (const i of indices.slice(0, LOOKED_AT)) {
    const { label } = await data.sample(i);
    if (typeof label !== "number") return label !== undefined || data.classes === undefined;
    seen.add(label);
    n++;
  }
  return n < 2 || seen.size > 1;
}
