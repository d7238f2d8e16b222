import { METRICS } from "../../data/metrics/index.ts";
import { Random } from "../../data/random.ts";
import type { DataSet, Metric, Sample } from "../../data/types.ts";
import { QcError } from "../../diagnostics.ts";
import { Emit, gradients } from "../../grad/index.ts";
import { cloneModel } from "../../graph/clone.ts";
import type { Model } from "../../graph/ir.ts";
import { writeModel } from "../../graph/onnx/index.ts";
import { tensorType } from "../../graph/types.ts";
import { prepareModel } from "../../prepare/index.ts";
import { requireOpset } from "../../prepare/opset/index.ts";
import { judgedValues } from "../../ptq/judge.ts";
import type { NodeRuntime } from "../../runtime/index.ts";
import type { Feeds, Session, SessionOptions, Tensor } from "../../runtime/types.ts";
import { compareRuns, MetricFold } from "../statistics.ts";
import { floatsOf } from "../sums.ts";
import type { MetricComparison } from "../types.ts";
import type { AttackKind } from "./attacks.ts";

export interface AttackOptions {
  readonly kind: AttackKind;
  /** Largest change of an element, as a share of its input's range. */
  readonly epsilon: number;
  /** Steps of pgd. */
  readonly steps: number;
  readonly seed: number;
  /** Range of every attacked input; undefined: the smallest and largest element among the samples. */
  readonly range?: readonly [number, number] | undefined;
}

export interface Attacked {
  readonly kind: AttackKind;
  readonly epsilon: number;
  readonly steps: number;
  readonly n: number;
  /** Inputs that were changed, with the range that they were kept in and the largest change. */
  readonly inputs: readonly { readonly name: string; readonly low: number; readonly high: number; readonly most: number }[];
  /** What was maximized: cross-entropy with the labels or with the float model's own classes, or the distance from its own outputs. */
  readonly loss: "labels" | "own classes" | "own outputs";
  /** Both models on the samples as they are, and on the same changed samples. Without a task metric: against the float model's clean outputs. */
  readonly clean: MetricComparison;
  readonly attacked: MetricComparison;
}

/** Gradients are written for this opset. */
const OPSET = 18;
/** Steps of pgd together may go this many times epsilon (Madry et al. 2018): the border is reached from every start. */
const REACH = 2.5;

type Outputs = Readonly<Record<string, Tensor>>;
interface Range {
  low: number;
  high: number;
  /** Some sample differs from the first. */
  varies: boolean;
}

/**
 * Both models on inputs that were changed to make the float model err. White-box on the float graph: its gradients make the change, and
 * the quantized model is fed the very same tensors.
 *
 *   fgsm   x' = clip(x + ε·sign ∇ₓL)                                        (Goodfellow et al. 2015)
 *   pgd    x₀ = clip(x + ε·u), u uniform in [−1, 1];  xₜ₊₁ = clip(xₜ + α·sign ∇L), α = 2.5·ε/steps   (Madry et al. 2018)
 *
 * clip keeps |x' − x| ≤ ε and x' in the input's range (widened to x where a sample lies outside). With z the value before a final softmax or
 * sigmoid (behind it, gradients of confident samples vanish) the gradient of L that arrives there is
 *
 *   scores of classes, z [R, K]   softmax(k·z) − t, t = onehot(class): cross-entropy; k ≤ 1 keeps the spread of k·z below 20, so that no
 *                                 probability vanishes; with q = (1 − t)·softmax it is q − t·Σq, which does not cancel where the class has all
 *   one score, z [R, 1]           t·sigmoid(t·k·z), t = 1 for class 0 and −1 for class 1
 *   anything else                 (z − z₀) / ‖z₀‖² for each output, z₀ of the clean sample: the distance, whose gradient is 0 at the sample
 *                                 itself; both attacks then start at a random point
 */
export async function attackModels(o: {
  readonly options: AttackOptions;
  readonly runtime: NodeRuntime;
  readonly model: Model;
  readonly open: SessionOptions;
  /** Reference and candidate. */
  readonly sessions: readonly Session[];
  readonly data: DataSet;
  readonly indices: readonly number[];
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}): Promise<Attacked> {
  const { data, indices, options } = o;
  const [float, quantized] = [o.sessions[0]!, o.sessions.at(-1)!];
  if (data.state !== undefined) throw new QcError({ code: "gate/no-attack", why: "the set feeds outputs back (state:)" });
  const ranges = await rangesOf(data, indices, options.range, o.signal);
  if (ranges.size === 0)
    throw new QcError({ code: "gate/no-attack", why: "no float32 input differs between samples (token numbers have no gradient)" });
  const metric = await metricFor(data, float);
  const folds = {
    clean: [new MetricFold(metric, indices.length), new MetricFold(metric, indices.length)],
    attacked: [new MetricFold(metric, indices.length), new MetricFold(metric, indices.length)],
  };
  const ids: string[] = [];
  let loss: Attacked["loss"] = "own outputs";
  const crew = new Crew(o, [...ranges.keys()]);
  const one = async (index: number) => {
    const sample = await data.sample(index);
    const clean = await Promise.all([float.run(sample.feeds), quantized.run(sample.feeds)]);
    const changed = await crew.attack(sample, clean[0], ranges, index);
    const attacked = await Promise.all([float.run(changed.feeds), quantized.run(changed.feeds)]);
    return { sample, clean, attacked, changed };
  };
  try {
    const queue: ReturnType<typeof one>[] = [];
    const finish = async () => {
      const { sample, clean, attacked, changed } = await queue.shift()!;
      ids.push(sample.id);
      loss = changed.loss;
      for (const k of [0, 1]) {
        folds.clean[k]!.add(clean[k]!, sample, clean[0]);
        folds.attacked[k]!.add(attacked[k]!, { ...sample, feeds: changed.feeds }, clean[0]);
      }
      o.onProgress?.(ids.length, indices.length);
    };
    for (const index of indices) {
      o.signal?.throwIfAborted();
      const p = one(index);
      p.catch(() => {}); // awaited in order below
      queue.push(p);
      if (queue.length > o.runtime.workers) await finish();
    }
    while (queue.length > 0) await finish();
  } finally {
    await crew.release();
  }
  const compare = ([a, b]: readonly MetricFold[]) => compareRuns(metric, a!.result(), b!.result(), ids);
  return {
    kind: options.kind,
    epsilon: options.epsilon,
    steps: options.kind === "fgsm" ? 1 : options.steps,
    n: ids.length,
    inputs: [...ranges].map(([name, { low, high }]) => ({ name, low, high, most: options.epsilon * (high - low) })),
    loss,
    clean: compare(folds.clean),
    attacked: compare(folds.attacked),
  };
}

/** The set's metric; where it has none, the share of rows whose class stays, or the noise against the clean output. */
async function metricFor(data: DataSet, float: Session): Promise<Metric> {
  if (data.metric !== undefined) return data.metric;
  const scores = float.outputs[0]?.dims.length === 2 && float.outputs[0].dims[1] !== 1;
  return METRICS[scores ? "agreement" : "sqnr"]!.make({} as never, { folder: "." });
}

/** Range of each float32 input over the samples. Inputs that are the same in every sample are settings, not data. */
async function rangesOf(
  data: DataSet,
  indices: readonly number[],
  given: readonly [number, number] | undefined,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, Range>> {
  const out = new Map<string, Range>();
  const first = new Map<string, Float32Array>();
  for (const index of indices) {
    signal?.throwIfAborted();
    for (const [name, t] of Object.entries((await data.sample(index)).feeds)) {
      if (!(t.data instanceof Float32Array)) continue;
      const x = t.data;
      const r = out.get(name) ?? { low: Infinity, high: -Infinity, varies: false };
      out.set(name, r);
      const one = first.get(name);
      if (one === undefined) first.set(name, x);
      else r.varies ||= one.length !== x.length || one.some((v, i) => !Object.is(v, x[i]));
      for (const v of x) {
        if (v < r.low) r.low = v;
        if (v > r.high) r.high = v;
      }
    }
  }
  for (const [name, r] of out) {
    if ((!r.varies && indices.length > 1) || !(r.low <= r.high)) out.delete(name);
    else if (given !== undefined) [r.low, r.high] = given;
  }
  return out;
}

interface Backward {
  readonly sessions: readonly Session[];
  /** Values before a final softmax, and the names of what each is compared with and scaled by. */
  readonly heads: readonly { readonly value: string; readonly target: string; readonly scale: string }[];
  /** Input to its gradient. */
  readonly gradients: ReadonlyMap<string, string>;
}
interface Made {
  readonly shape: string;
  readonly backward: Promise<Backward>;
  readonly busy: Set<Promise<unknown>>;
}
type Job = Parameters<typeof attackModels>[0];
type Changed = { readonly feeds: Feeds; readonly loss: Attacked["loss"] };

/** Sessions of the float graph with its gradients, one for each worker; made anew when samples change their shape. */
class Crew {
  readonly #o: Job;
  readonly #names: readonly string[];
  #made: Made | undefined;
  #next = 0;

  constructor(o: Job, names: readonly string[]) {
    this.#o = o;
    this.#names = names;
  }

  /** The sample's feeds, changed. */
  async attack(sample: Sample, clean: Outputs, ranges: ReadonlyMap<string, Range>, index: number): Promise<Changed> {
    const classes = classesOf(sample, Object.values(clean)[0]!, this.#o.data.metric?.name);
    const shape = `${classes?.columns};${Object.entries(sample.feeds)
      .map(([name, t]) => `${name}:${t.dims.join()}`)
      .join(";")}`;
    if (this.#made?.shape !== shape) {
      const before = this.#made;
      const backward = retire(before).then(() => this.#make(sample.feeds, classes));
      backward.catch(() => {}); // whoever needs it awaits it
      this.#made = { shape, backward, busy: new Set() };
    }
    const { backward, busy } = this.#made;
    const work = backward.then((b) => this.#climb(b, sample, classes, ranges, index));
    busy.add(work);
    try {
      return await work;
    } finally {
      busy.delete(work);
    }
  }

  async #make(feeds: Feeds, classes: Classes | undefined): Promise<Backward> {
    const { runtime, model } = this.#o;
    const prepared = await prepareModel(model, runtime, { feeds });
    const copy = cloneModel(prepared.model);
    if ((copy.opsets.get("") ?? 1) < OPSET) requireOpset(copy, OPSET);
    const emit = new Emit(copy.graph, copy.opsets.get("")!, prepared.types);
    const float = judgedValues(copy).filter((v) => emit.dtype(v) === "float32");
    const heads = (classes === undefined ? float : float.slice(0, 1)).map((value, i) => {
      const target = copy.graph.addInput(copy.graph.freshName(`target${i}`), tensorType("float32"));
      const scale = copy.graph.addInput(copy.graph.freshName(`scale${i}`), tensorType("float32", [1]));
      const scaled = () => emit.op("Mul", [value, scale]);
      const toward = () => {
        if (classes!.columns === 1) return emit.op("Mul", [target, emit.op("Sigmoid", [emit.op("Mul", [scaled(), target])])]);
        const others = emit.op("Mul", [emit.op("Softmax", [scaled()], { axis: -1 }), emit.op("Sub", [emit.scalar(1, "float32"), target])]);
        return emit.op("Sub", [others, emit.op("Mul", [target, emit.reduce("ReduceSum", others, [-1], 1)])]);
      };
      const seed = classes === undefined ? emit.op("Mul", [emit.op("Sub", [value, target]), scale]) : toward();
      return { value, target, scale, seed: emit.like(seed, value) };
    });
    const wrt = copy.graph.inputs.filter((v) => this.#names.includes(v.name));
    const { of, blocked } = gradients(copy, { of: heads, wrt, emit });
    if (of.size === 0) {
      const at = blocked.slice(0, 3).map((b) => `${b.node.op} "${b.node.name}": ${b.why}`);
      throw new QcError({ code: "gate/no-attack", why: `no gradient reaches an input${at.length > 0 ? ` (${at.join("; ")})` : ""}` });
    }
    for (const v of [...heads.map((h) => h.value), ...of.values()]) if (!v.isOutput) copy.graph.addOutput(v);
    return {
      sessions: await runtime.openPool(writeModel(copy), { ...this.#o.open, label: "gradients" }),
      heads: heads.map((h) => ({ value: h.value.name, target: h.target.name, scale: h.scale.name })),
      gradients: new Map([...of].map(([v, g]) => [v.name, g.name])),
    };
  }

  async #climb(
    b: Backward,
    sample: Sample,
    classes: Classes | undefined,
    ranges: ReadonlyMap<string, Range>,
    index: number,
  ): Promise<Changed> {
    const { kind, epsilon, steps, seed } = this.#o.options;
    const session = b.sessions[this.#next++ % b.sessions.length]!;
    const r = new Random(Math.imul(seed + 1, 0x9e3779b1) ^ index);
    const inputs = [...b.gradients].map(([name, gradient]) => {
      const { low, high } = ranges.get(name)!;
      return { name, gradient, low, high, most: epsilon * (high - low), x: sample.feeds[name]!.data as Float32Array };
    });
    type Input = (typeof inputs)[number];
    const clip = ({ x, low, high, most }: Input, v: number, at: number) => {
      const was = x[at]!;
      const near = Math.min(was + most, Math.max(was - most, v));
      return Math.min(Math.max(high, was), Math.max(Math.min(low, was), near));
    };
    /** α·sign of the gradient, from `from`. */
    const stepped = (from: readonly Float32Array[], g: Outputs, share: number) =>
      inputs.map((input, i) => {
        const d = g[input.gradient]!.data as Float32Array;
        return from[i]!.map((v, at) => clip(input, v + Math.sign(d[at]!) * share * input.most, at));
      });
    const feedsOf = (now: readonly Float32Array[]): Feeds => ({
      ...sample.feeds,
      ...Object.fromEntries(inputs.map(({ name }, i) => [name, { ...sample.feeds[name]!, data: now[i]! }])),
    });
    const still = inputs.map(({ x }) => x);
    const beside = () => inputs.map((input) => input.x.map((v, at) => clip(input, v + (2 * r.float() - 1) * input.most, at)));
    const targets = await targetsOf(b, session, sample, classes);
    const gradientAt = (now: readonly Float32Array[]) =>
      session.run(
        { ...feedsOf(now), ...targets },
        inputs.map((i) => i.gradient),
      );
    let now = kind === "pgd" || classes === undefined ? beside() : still;
    // One step goes from the sample itself, also when the gradient was taken beside it.
    if (kind === "fgsm") now = stepped(still, await gradientAt(now), 1);
    else for (let t = 0; t < steps; t++) now = stepped(now, await gradientAt(now), REACH / steps);
    return { feeds: feedsOf(now), loss: classes === undefined ? "own outputs" : classes.own ? "own classes" : "labels" };
  }

  async release(): Promise<void> {
    await retire(this.#made);
    this.#made = undefined;
  }
}

/** Releases the sessions once nobody uses them. */
async function retire(made: Made | undefined): Promise<void> {
  if (made === undefined) return;
  await Promise.allSettled([...made.busy]);
  const b = await made.backward.catch(() => undefined);
  await Promise.allSettled((b?.sessions ?? []).map((s) => s.release()));
}

interface Classes {
  readonly rows: number;
  readonly columns: number;
  readonly of: readonly number[];
  /** The model's own, for want of labels. */
  readonly own: boolean;
}

/** Classes of a sample when its first output [R, K] scores them: its label, else what the float model says of it. */
function classesOf(sample: Sample, first: Tensor, metric: string | undefined): Classes | undefined {
  const y = floatsOf(first);
  const [rows = 0, columns = 0] = first.dims;
  if (y === undefined || first.dims.length !== 2 || y.length === 0 || !scoresClasses(metric, columns)) return undefined;
  const { label } = sample;
  const fits = (v: unknown): v is number => typeof v === "number" && Number.isInteger(v) && v >= 0 && v < Math.max(2, columns);
  if (fits(label)) return { rows, columns, of: new Array<number>(rows).fill(label), own: false };
  if (Array.isArray(label) && label.length === rows && label.every(fits))
    return { rows, columns, of: label as readonly number[], own: false };
  // One number a row is a score of class 1 only where labels say so; otherwise it is a regression.
  if (columns === 1) return undefined;
  const best = (row: number) => {
    let at = 0;
    for (let j = 1; j < columns; j++) if (y[row * columns + j]! > y[row * columns + at]!) at = j;
    return at;
  };
  return { rows, columns, of: Array.from({ length: rows }, (_, row) => best(row)), own: true };
}

const OF_VALUES: ReadonlySet<string> = new Set(["psnr", "ssim", "mse", "sqnr", "map", "perplexity"]);
/** A metric over values or boxes says that the columns are no classes; AUC has one score, or one for each of two classes. */
function scoresClasses(metric: string | undefined, columns: number): boolean {
  if (metric === undefined) return true;
  return metric === "auc" ? columns <= 2 : !OF_VALUES.has(metric);
}

/** The widest spread of scores that a softmax in float32 takes without rounding any probability away. */
const SPREAD = 20;

/** What the heads compare with, for one sample. */
async function targetsOf(b: Backward, session: Session, sample: Sample, classes: Classes | undefined): Promise<Record<string, Tensor>> {
  const feeds: Record<string, Tensor> = {};
  const scalar = (v: number): Tensor => ({ dtype: "float32", dims: [1], data: Float32Array.of(v) });
  const names = b.heads.map((h) => h.value);
  // A saturating function keeps the shape, and a target of one element fits every shape.
  for (const h of b.heads) [feeds[h.target], feeds[h.scale]] = [scalar(0), scalar(1)];
  const z = await session.run({ ...sample.feeds, ...feeds }, names);
  for (const [i, h] of b.heads.entries()) {
    const t = z[names[i]!]!;
    const x = t.data as Float32Array;
    if (classes === undefined) {
      const energy = x.reduce((s, v) => s + v * v, 0);
      feeds[h.target] = t;
      feeds[h.scale] = scalar(energy > 0 ? 1 / energy : 1);
      continue;
    }
    const data = new Float32Array(classes.rows * classes.columns);
    classes.of.forEach((c, row) => {
      if (classes.columns === 1) data[row] = c === 0 ? 1 : -1;
      else data[row * classes.columns + c] = 1;
    });
    const spread = x.reduce((m, v) => Math.max(m, v), -Infinity) - x.reduce((m, v) => Math.min(m, v), classes.columns === 1 ? 0 : Infinity);
    feeds[h.target] = { dtype: "float32", dims: [classes.rows, classes.columns], data };
    feeds[h.scale] = scalar(spread > SPREAD ? SPREAD / spread : 1);
  }
  return feeds;
}
