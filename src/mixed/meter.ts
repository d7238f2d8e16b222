import type { DataSet, Metric, Sample } from "../data/types.ts";
import { lower } from "../export/lower/index.ts";
import type { Model } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import type { Target } from "../plan/target.ts";
import type { PlanBundle } from "../plan/types.ts";
import type { Runtime, SessionOptions, Tensor } from "../runtime/types.ts";

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

/** The task metric of plans as they would be shipped, on samples that are not held out. */
export class Meter {
  readonly #o: MeterOptions;
  #float: Promise<{ readonly value: number; readonly outputs: readonly Outputs[] | undefined }> | undefined;

  constructor(o: MeterOptions) {
    this.#o = o;
  }

  get samples(): number {
    return this.#o.indices.length;
  }

  /** What a plan loses in the metric's bad direction: in its points, and in percent of the float model's. */
  async drop(bundle: PlanBundle): Promise<{ readonly pt: number; readonly percent: number; readonly value: number }> {
    const { model, target, metric } = this.#o;
    this.#float ??= this.#measure(writeModel(model), metric.needsReference === true);
    const float = await this.#float;
    const { value } = await this.#measure(writeModel(lower(model, bundle, target)), false, float.outputs);
    const pt = metric.better === "higher" ? float.value - value : value - float.value;
    return { pt, percent: (100 * pt) / Math.abs(float.value), value };
  }

  async #measure(
    bytes: Uint8Array,
    keep: boolean,
    reference?: readonly Outputs[],
  ): Promise<{ readonly value: number; readonly outputs: readonly Outputs[] | undefined }> {
    const { runtime, session, data, metric, indices, signal } = this.#o;
    const opened = await runtime.open(bytes, { ...session, level: "all", label: "candidate" });
    const state = metric.start();
    const kept: Outputs[] = [];
    try {
      const flight: Promise<{ readonly sample: Sample; readonly out: Outputs }>[] = [];
      let n = 0;
      const settle = async () => {
        const { sample, out } = await flight.shift()!;
        state.add(out, sample, keep ? out : reference?.[n]);
        if (keep) kept.push(out);
        n++;
      };
      for (const i of indices) {
        signal?.throwIfAborted();
        const sample = await data.sample(i);
        flight.push(opened.run(sample.feeds).then((out) => ({ sample, out })));
        if (flight.length > WINDOW) await settle();
      }
      while (flight.length > 0) await settle();
      return { value: state.result().value, outputs: keep ? kept : undefined };
    } finally {
      await opened.release();
    }
  }
}

type Outputs = Readonly<Record<string, Tensor>>;
/** Runs in flight. */
const WINDOW = 4;
