import type { DataSet } from "../data/types.ts";
import { lower } from "../export/lower/index.ts";
import type { Model, Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import type { Target } from "../plan/target.ts";
import type { PlanBundle } from "../plan/types.ts";
import { withOutputs } from "../runtime/expose.ts";
import type { Feeds, Runtime, Session, SessionOptions, Tensor } from "../runtime/types.ts";

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

/** How far a plan's outputs (before a final softmax) are from the float model's. */
export interface Verdict {
  /** Pooled: noise and signal summed over all samples; the mean over outputs. */
  readonly pooledDb: number;
  /** Mean over samples (and outputs) of each sample's own SQNR. */
  readonly typicalDb: number;
  /** Each sample's own SQNR (of each output that has any signal), in the order of the samples. */
  readonly samplesDb: readonly number[];
}

/** Above this a sample's output is as good as equal: float32 sums in another order are there. */
const MOST_DB = 80;
/** Bytes of float outputs that are kept between plans. */
const MOST_KEPT = 16 * 2 ** 20;

/** Measures plans as they would be shipped: lowered, and run beside the float model on the deciding samples. */
export class Judge {
  readonly #o: JudgeOptions;
  #float: Promise<Session> | undefined;
  /** Plans measured so far. */
  count = 0;

  constructor(o: JudgeOptions) {
    this.#o = o;
  }

  /** Runs a plan on every deciding sample. */
  async measure(bundle: PlanBundle): Promise<Verdict> {
    const { model, target, runtime, session } = this.#o;
    const lowered = lower(model, bundle, target);
    const judged = judgedValues(model);
    this.#float ??= runtime.open(writeModel(exposed(model, judged)), { ...session, label: "prepared model" });
    const float = await this.#float;
    const seen = judgedValues(lowered);
    const quantized = await runtime.open(writeModel(exposed(lowered, seen)), { ...session, label: "candidate" });
    const names = judged.map((v) => v.name);
    const twins = seen.map((v) => v.name);
    const signal = new Float64Array(names.length);
    const noise = new Float64Array(names.length);
    const samplesDb: number[] = [];
    try {
      for (const i of this.#o.indices) {
        this.#o.signal?.throwIfAborted();
        const { feeds } = await this.#o.data.sample(i);
        const [y, z] = await Promise.all([this.#floatOutputs(i, float, feeds, names), quantized.run(feeds, twins)]);
        for (const [o, name] of names.entries()) {
          const a = y[name]!.data;
          const b = z[twins[o]!]!.data;
          if (!(a instanceof Float32Array) || !(b instanceof Float32Array)) continue;
          const [s, n] = energies(a, b);
          signal[o]! += s;
          noise[o]! += n;
          if (!(s > 0)) continue;
          const db = -10 * Math.log10(n / s);
          samplesDb.push(Number.isNaN(db) ? -MOST_DB : Math.max(-MOST_DB, Math.min(MOST_DB, db)));
        }
      }
    } finally {
      await quantized.release();
    }
    this.count++;
    const used = [...signal.keys()].filter((o) => signal[o]! > 0);
    const ratio = used.reduce((sum, o) => sum + noise[o]! / signal[o]!, 0) / Math.max(1, used.length);
    const typicalDb = samplesDb.reduce((sum, db) => sum + db, 0) / Math.max(1, samplesDb.length);
    return { pooledDb: Number.isNaN(ratio) ? -Infinity : -10 * Math.log10(ratio), typicalDb, samplesDb };
  }

  /** The float model's outputs do not change: kept while they are small. */
  async #floatOutputs(index: number, float: Session, feeds: Feeds, names: readonly string[]): Promise<Record<string, Tensor>> {
    const known = this.#known.get(index);
    if (known) return known;
    const out = await float.run(feeds, names);
    const bytes = Object.values(out).reduce((sum, t) => sum + (Array.isArray(t.data) ? 0 : t.data.byteLength), 0);
    if (this.#knownBytes + bytes <= MOST_KEPT) {
      this.#known.set(index, out);
      this.#knownBytes += bytes;
    }
    return out;
  }
  readonly #known = new Map<number, Record<string, Tensor>>();
  #knownBytes = 0;

  async close(): Promise<void> {
    const float = this.#float;
    this.#float = undefined;
    if (float) await (await float).release();
  }
}

/** Standard errors of the mean difference of the samples' SQNR: 1 in 40 of normal luck. */
const SURE = 2;

/** Better on the whole, and on the single samples by more than chance: paired, for samples differ more than plans do. */
export function surelyBetter(after: Verdict, before: Verdict): boolean {
  const n = after.samplesDb.length;
  if (n < 2 || n !== before.samplesDb.length || !(after.pooledDb > before.pooledDb)) return false;
  const differences = after.samplesDb.map((db, i) => db - before.samplesDb[i]!);
  const mean = differences.reduce((sum, d) => sum + d, 0) / n;
  const spread = differences.reduce((sum, d) => sum + (d - mean) ** 2, 0);
  return mean > SURE * Math.sqrt(spread / (n - 1) / n);
}

/** Functions that flatten differences: behind a softmax all confident samples are equal and a few borderline ones decide by chance. */
const SATURATING = new Set(["Softmax", "LogSoftmax", "Sigmoid", "Tanh", "HardSigmoid", "Identity"]);

/** The outputs of a model, or what goes into a saturating function that makes one. */
export function judgedValues(model: Model): Value[] {
  return model.graph.outputs.map((out) => {
    let v = out;
    while (v.producer && v.producer.domain === "" && SATURATING.has(v.producer.op)) {
      const before = v.producer.inputs[0];
      if (!before?.producer || before.graph !== model.graph) break;
      v = before;
    }
    return v;
  });
}

function exposed(model: Model, values: readonly Value[]): Model {
  return withOutputs(
    model,
    values.filter((v) => !v.isOutput).map((v) => v.name),
  );
}

function energies(a: Float32Array, b: Float32Array): readonly [number, number] {
  let s = 0;
  let n = 0;
  for (let i = 0; i < a.length; i++) {
    const x = a[i]!;
    const e = x - b[i]!;
    s += x * x;
    n += e * e;
  }
  return [s, n];
}
