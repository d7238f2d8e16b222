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
  /** Samples that no code was solved from: what plans lose is seen there. */
  readonly indices: readonly number[];
  /** Further samples, of which the float network's decisions are looked at. */
  readonly others?: readonly number[];
  readonly session?: SessionOptions;
  readonly signal?: AbortSignal;
}

export interface Drop {
  readonly pt: number;
  readonly percent: number;
  /** What it is at most, with 95 % confidence; absent where the metric's spread is not known. */
  readonly high?: { readonly pt: number; readonly percent: number };
}

/** Metrics that an expectation of right decisions stands for. "always": it knows more than counting a few hundred right ones. */
const ACCURACIES: Readonly<Record<string, "always" | "without labels">> = { top1: "always", top5: "without labels" };

interface FloatNetwork {
  readonly outputs: readonly Outputs[];
  readonly belief: Belief;
  readonly value: number | undefined;
}
type Outputs = Readonly<Record<string, Tensor>>;
/** Samples whose runs may be outstanding. */
const WINDOW = 4;

/**
 * What plans lose of the task metric, as they would be shipped, on samples that are neither held out nor solved from. Of accuracy it is an
 * expectation (`Belief`): a hundred samples that are right or wrong tell a loss of half a point from none only by luck.
 */
export class Meter {
  readonly #o: MeterOptions;
  #float: Promise<FloatNetwork> | undefined;
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
    const expect = ACCURACIES[metric.name];
    const expects = expect === "always" || (expect !== undefined && float.value === undefined);
    const state = expects || float.value === undefined ? undefined : metric.start();
    if (!expects && !state) return undefined;
    const { belief } = float;
    belief.clearErrors();
    await this.#run(this.#o.indices, writeModel(lower(model, bundle, target)), (sample, out, n) => {
      const reference = float.outputs[n]!;
      state?.add(out, sample, reference);
      if (expects) belief.addError(Object.values(reference)[0]!, Object.values(out)[0]!);
    });
    if (!state) {
      this.by = "expectation";
      return belief.drop;
    }
    this.by = "labels";
    const { value } = state.result();
    const pt = metric.better === "higher" ? float.value! - value : value - float.value!;
    return { pt, percent: (100 * pt) / Math.abs(float.value!) };
  }

  async #measureFloat(): Promise<FloatNetwork> {
    const { metric, model, data, indices, others = [] } = this.#o;
    const labelled = await isLabelled(data, [...indices, ...others]);
    let state = labelled ? metric.start() : undefined;
    const outputs: Outputs[] = [];
    const belief = new Belief();
    const believe = (sample: Sample, out: Outputs) => {
      if (metric.name in ACCURACIES)
        belief.addFloat(Object.values(out)[0]!, labelled && typeof sample.label === "number" ? sample.label : undefined);
    };
    await this.#run(indices, writeModel(model), (sample, out) => {
      outputs.push(out);
      believe(sample, out);
      try {
        state?.add(out, sample, out);
      } catch (e) {
        // A label that the metric needs is missing.
        if (!(e instanceof QcError)) throw e;
        state = undefined;
      }
    });
    if (metric.name in ACCURACIES) await this.#run(others, writeModel(model), believe);
    const value = state?.result().value;
    return { outputs, belief, value: value !== undefined && Number.isFinite(value) && value !== 0 ? value : undefined };
  }

  async #run(indices: readonly number[], bytes: Uint8Array, each: (sample: Sample, out: Outputs, n: number) => void): Promise<void> {
    const { runtime, session, data, signal } = this.#o;
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
