import type { DataSet } from "../../data/types.ts";
import type { Model } from "../../graph/ir.ts";
import type { ValueType } from "../../graph/types.ts";
import type { Target } from "../../plan/target.ts";
import type { PlanBundle, StepRecord } from "../../plan/types.ts";
import type { Runtime, SessionOptions } from "../../runtime/types.ts";
import { withSolved } from "../amend.ts";
import { Judge } from "../judge.ts";
import { type Layer, layersOf } from "../layers.ts";
import { type Solved, solveSequentially } from "../sequential.ts";
import { Streams } from "../streams.ts";
import { clipBlocks } from "./clip.ts";
import { roundLayer } from "./round.ts";
import { tiedProducts, withTied } from "./tied.ts";

export interface WeightOnlyContext {
  /** The prepared model. */
  readonly model: Model;
  readonly types?: ReadonlyMap<string, ValueType>;
  /** Round-to-nearest weights in blocks or channels, and no quantized activation. */
  readonly bundle: PlanBundle;
  /** Samples that Gram statistics are taken from; without any, scales are chosen from the weights alone. */
  readonly data?: DataSet;
  readonly calibrate?: readonly number[];
  /** With both, every step is measured on these samples and kept only where it helps. */
  readonly select?: readonly number[];
  readonly target?: Target;
  readonly session?: SessionOptions;
  readonly runtime: Runtime;
  readonly seed?: number;
  readonly memoryBytes?: number;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Kept activations, when the caller sets no limit. */
const MEMORY = 128 * 2 ** 20;
/** Positions of a layer's Gram statistics: more moved perplexity by less than its noise. */
const POSITIONS = 16384;
/** Samples that decide about a step: a language model's windows hold hundreds of tokens each. */
const MOST_SELECT = 4;
const ROUNDED = "rounded by output error";

/**
 * Weights alone in few bits. Without data: the range of each block clipped where that lowers the error of its weights. With data: GPTQ,
 * layer after layer behind the already rounded ones; a weight that is a lookup table too comes first, by the float network's statistics.
 * Weights that no statistics reach (tables, weights in subgraphs) are clipped.
 */
export async function roundWeights(ctx: WeightOnlyContext): Promise<PlanBundle> {
  const clipped = clipBlocks(ctx.model, ctx.bundle);
  const { data, model } = ctx;
  const indices = standing(data, ctx.calibrate ?? data?.roles.calibrate ?? []);
  const tied = tiedProducts(model, clipped);
  const apart = new Set(tied.map((t) => t.node));
  const layers = layersOf(model, clipped).filter((l) => !apart.has(l.node));
  if (data === undefined || indices.length === 0 || layers.length + tied.length === 0) return clipped;
  const total = layers.length + tied.length;
  let done = 0;
  const solve = (bundle: PlanBundle, which: readonly Layer[]): Promise<Solved[]> =>
    solveSequentially({
      streams: new Streams(model, bundle, ctx.types, true),
      runtime: ctx.runtime,
      layers: which,
      indices,
      load: async (i) => (await data.sample(i)).feeds,
      memoryBytes: ctx.memoryBytes ?? MEMORY,
      seed: ctx.seed ?? 0,
      positions: () => POSITIONS,
      solve: (layer, grams) => roundLayer(layer, grams),
      progress: () => ctx.progress?.(++done, total),
      ...(ctx.signal && { signal: ctx.signal }),
    });
  const gate = new Gate(ctx);
  let best = await gate.start(clipped);
  if (tied.length > 0) {
    const alone: PlanBundle = { plan: { ...clipped.plan, sites: tied.map((t) => t.site) }, tensors: clipped.tensors };
    const solved = await solve(
      alone,
      layersOf(model, alone).filter((l) => apart.has(l.node)),
    );
    best = await gate.keep("gptq-tied", best, withTied(model, best, tied, solved, ROUNDED), solved.length);
  }
  if (layers.length > 0) {
    const solved = await solve(best, layers);
    best = await gate.keep("gptq", best, withSolved(best, solved, ROUNDED), solved.length);
  }
  return { ...best, plan: { ...best.plan, steps: [...best.plan.steps, ...gate.steps] } };
}

/** Samples that need nothing of another: of a sequence with state, its first (what a decoder is given at once). */
function standing(data: DataSet | undefined, indices: readonly number[]): readonly number[] {
  const s = data?.sequences;
  return s === undefined ? indices : indices.filter((i) => i === 0 || s[i] !== s[i - 1]);
}

/** Measures plans on select samples; without such samples every step is kept, as there is nothing to decide by. */
class Gate {
  readonly steps: StepRecord[] = [];
  readonly #judge: Judge | undefined;
  #db = Number.NaN;

  constructor(ctx: WeightOnlyContext) {
    const indices = standing(ctx.data, ctx.select ?? []).slice(0, MOST_SELECT);
    if (ctx.data === undefined || ctx.target === undefined || indices.length === 0) return;
    this.#judge = new Judge({
      model: ctx.model,
      target: ctx.target,
      runtime: ctx.runtime,
      data: ctx.data,
      indices,
      ...(ctx.session && { session: ctx.session }),
      ...(ctx.signal && { signal: ctx.signal }),
    });
  }

  async start(bundle: PlanBundle): Promise<PlanBundle> {
    if (this.#judge) this.#db = await this.#measure(bundle);
    return bundle;
  }

  async keep(step: string, before: PlanBundle, after: PlanBundle, layers: number): Promise<PlanBundle> {
    if (!this.#judge) return after;
    const db = await this.#measure(after);
    const kept = db > this.#db;
    this.steps.push({ step, before: this.#db, after: db, unit: "dB", kept, layers });
    if (!kept) return before;
    this.#db = db;
    return after;
  }

  /** The float network is not kept open between steps: rounding needs the memory. */
  async #measure(bundle: PlanBundle): Promise<number> {
    try {
      return (await this.#judge!.measure(bundle)).pooledDb;
    } finally {
      await this.#judge!.close();
    }
  }
}
