import { prepare, propose, type QuantizeOptions, settleWish, VERIFY } from "./compile.ts";
import { writeModel } from "./graph/onnx/index.ts";
import { traitOf } from "./graph/ops/index.ts";
import { allNodes, pathOfNode } from "./graph/walk.ts";
import { withJob } from "./job.ts";
import { DEFAULT_SAMPLES, type Effort } from "./options.ts";
import type { WeightSite } from "./ptq/propose.ts";
import { bitsOf } from "./quant/codebook.ts";
import { elementCount } from "./quant/dtype.ts";
import { qparamShape } from "./quant/granularity.ts";
import { recipeForGraph } from "./recurrent.ts";
import { drawSamples, openSet, sessionOf } from "./set.ts";
import { readSource, refuseQuantized } from "./source.ts";

/** What `--dry-run` says: counts are exact (ranges may still send a node back to float), bytes and seconds are estimates. */
export interface Forecast {
  readonly target: string;
  readonly recipe: string;
  readonly products: { readonly products: number; readonly both: number; readonly weightOnly: number; readonly float: number };
  readonly sites: { readonly weight: number; readonly activation: number };
  readonly skips: Readonly<Record<string, number>>;
  readonly bytes: { readonly before: number; readonly after: number };
  readonly seconds: { readonly total: number; readonly stages: readonly { readonly stage: string; readonly seconds: number }[] };
}

/** Runs of the float model that are timed for the forecast. */
const TRIALS = 5;
/** Against a plain float run: observing every value of a sample, and a quantized run at the reference level (weights are dequantized each time). */
const COST = { calibrate: 2, quantized: 3 } as const;

export async function forecast(source: string | Uint8Array, given: QuantizeOptions = {}): Promise<Forecast> {
  const asked = settleWish(given);
  const { options } = asked;
  return withJob({ ...given, threads: options.threads }, async (job) => {
    const start = performance.now();
    const read = readSource(source);
    refuseQuantized(read.model);
    const data = await openSet(job, read.model, options);
    const prepared = await prepare(job, read, data);
    const wish = recipeForGraph(asked, read.model, job.report);
    const proposal = propose(read, prepared, wish);
    const fixed = (performance.now() - start) / 1000;

    const stages = [{ stage: "read and prepare", seconds: fixed }];
    if (data !== undefined) {
      const session = await job.runtime.open(writeModel(prepared.model), sessionOf(data, options));
      const { feeds } = await data.sample(data.roles.calibrate[0]!);
      const ms = (await session.time(feeds, TRIALS)).slice(1);
      const each = ms.reduce((a, b) => a + b, 0) / ms.length / 1000;
      await session.release();
      const workers = job.runtime.workers;
      const calibrates = proposal.values.length === 0 ? 0 : drawSamples(data, "calibrate", options.samples ?? DEFAULT_SAMPLES).length;
      const verifies = drawSamples(data, "heldOut", options.verifySamples ?? VERIFY[options.effort as Effort].samples).length;
      stages.push({ stage: "calibrate", seconds: (calibrates * each * COST.calibrate) / workers });
      stages.push({ stage: "verify", seconds: (verifies * each * (2 + COST.quantized)) / Math.min(workers, 3) });
    }
    const both = new Set(proposal.quantized);
    const weighted = new Set(proposal.weights.flatMap((w) => w.nodes.map(pathOfNode)));
    const products = { products: 0, both: 0, weightOnly: 0, float: 0 };
    for (const n of allNodes(prepared.model)) {
      const trait = traitOf(n);
      if (trait !== "compute" && trait !== "recurrent") continue;
      const path = pathOfNode(n);
      products.products++;
      products[!weighted.has(path) ? "float" : both.has(path) ? "both" : "weightOnly"]++;
    }
    const skips: Record<string, number> = {};
    for (const s of proposal.skips) skips[s.code] = (skips[s.code] ?? 0) + 1;
    const saved = proposal.weights.reduce((sum, w) => sum + (w.value.data?.byteLength ?? 0) - storedBytes(w), 0);
    return {
      target: options.target,
      recipe: wish.recipe.name,
      products,
      sites: { weight: proposal.weights.length, activation: proposal.activations.length },
      skips,
      bytes: { before: read.sizeBytes, after: Math.max(0, read.sizeBytes - saved) },
      seconds: { total: stages.reduce((t, s) => t + s.seconds, 0), stages },
    };
  });
}

/** Codes, scales (float32) and zero points of a weight. */
function storedBytes(w: WeightSite): number {
  const bits = bitsOf(w.scheme.dtype);
  const scales = elementCount(qparamShape(w.shape, w.scheme.granularity));
  return Math.ceil((elementCount(w.shape) * bits) / 8) + scales * 4 + (w.scheme.symmetric ? 0 : Math.ceil((scales * bits) / 8));
}
