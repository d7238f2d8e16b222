import { outputErrors } from "../calibrate/auto.ts";
import type { DataSet } from "../data/types.ts";
import { lower } from "../export/lower/index.ts";
import type { Model } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import type { Target } from "../plan/target.ts";
import type { PlanBundle } from "../plan/types.ts";
import type { Feeds, Runtime, Session, SessionOptions } from "../runtime/types.ts";

export interface JudgeOptions {
  readonly model: Model;
  readonly target: Target;
  readonly runtime: Runtime;
  readonly data: DataSet;
  /** Samples that decide. */
  readonly indices: readonly number[];
  readonly session?: SessionOptions;
  readonly signal?: AbortSignal;
}

/** Measures plans as they would be shipped: lowered, and run beside the float model on the deciding samples. */
export class Judge {
  readonly #o: JudgeOptions;
  #float: Promise<Session> | undefined;
  /** Plans measured so far. */
  count = 0;

  constructor(o: JudgeOptions) {
    this.#o = o;
  }

  /** Output SQNR in dB: mean over the outputs of noise over signal. NaN counts as no signal at all. */
  async db(bundle: PlanBundle): Promise<number> {
    const { model, target, runtime, session } = this.#o;
    this.#float ??= runtime.open(writeModel(model), { ...session, label: "prepared model" });
    const quantized = await runtime.open(writeModel(lower(model, bundle, target)), { ...session, label: "candidate" });
    try {
      const [ratio] = await outputErrors(await this.#float, quantized, this.#feeds(), [{}]);
      this.count++;
      return Number.isNaN(ratio) ? -Infinity : -10 * Math.log10(ratio!);
    } finally {
      await quantized.release();
    }
  }

  async *#feeds(): AsyncGenerator<Feeds> {
    for (const i of this.#o.indices) {
      this.#o.signal?.throwIfAborted();
      yield (await this.#o.data.sample(i)).feeds;
    }
  }

  async close(): Promise<void> {
    const float = this.#float;
    this.#float = undefined;
    if (float) await (await float).release();
  }
}
