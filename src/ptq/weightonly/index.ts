import type { DataSet } from "../../data/types.ts";
import type { Model } from "../../graph/ir.ts";
import type { ValueType } from "../../graph/types.ts";
import type { PlanBundle } from "../../plan/types.ts";
import type { Runtime } from "../../runtime/types.ts";
import { withSolved } from "../amend.ts";
import { layersOf } from "../layers.ts";
import { solveSequentially } from "../sequential.ts";
import { Streams } from "../streams.ts";
import { clipBlocks } from "./clip.ts";
import { roundLayer } from "./round.ts";

export interface WeightOnlyContext {
  /** The prepared model. */
  readonly model: Model;
  readonly types?: ReadonlyMap<string, ValueType>;
  /** Round-to-nearest weights in blocks or channels, and no quantized activation. */
  readonly bundle: PlanBundle;
  /** Samples that Gram statistics are taken from; without any, scales are chosen from the weights alone. */
  readonly data?: DataSet;
  readonly calibrate?: readonly number[];
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

/**
 * Weights alone in few bits. Without data: the range of each block clipped where that lowers the error of its weights. With data: GPTQ,
 * layer after layer behind the already rounded ones. Weights that no statistics reach (tables, weights in subgraphs) are clipped too.
 */
export async function roundWeights(ctx: WeightOnlyContext): Promise<PlanBundle> {
  const clipped = clipBlocks(ctx.model, ctx.bundle);
  const { data } = ctx;
  const indices = ctx.calibrate ?? data?.roles.calibrate ?? [];
  const layers = layersOf(ctx.model, clipped);
  if (data === undefined || indices.length === 0 || layers.length === 0) return clipped;
  const solved = await solveSequentially({
    streams: new Streams(ctx.model, clipped, ctx.types, true),
    runtime: ctx.runtime,
    layers,
    indices,
    load: async (i) => (await data.sample(i)).feeds,
    memoryBytes: ctx.memoryBytes ?? MEMORY,
    seed: ctx.seed ?? 0,
    positions: () => POSITIONS,
    solve: (layer, grams) => roundLayer(layer, grams),
    ...(ctx.progress && { progress: ctx.progress }),
    ...(ctx.signal && { signal: ctx.signal }),
  });
  return withSolved(clipped, solved, "rounded by output error");
}
