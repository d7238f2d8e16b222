import type { StepGain } from "../plan/types.ts";
import type { Gram } from "./gram.ts";
import { type Layer, rowsOf } from "./layers.ts";
import { LAMBDA, type Solved } from "./sequential.ts";
import { formOf, quadratic } from "./solve/problem.ts";
import { continuousTarget, correctedBias } from "./solve/target.ts";

/** A solved layer, and what its codes and bias before were worth on the same statistics. */
export interface Walked extends Solved {
  /** Noise of the layer as the plan had it ÷ noise now, in dB: see `gainOf`. */
  readonly gainDb: number;
}

/** Noise below this share of the signal is as good as none. */
const LEAST = 1e-12;

/**
 * What solving a layer did for its own output, behind the same quantized prefix: the plan's codes V₀, b₀ and the solved V, b, both against
 * the best float layer there, W* and b* (rows m, covariance Ĥ and mean μ̂ of the inputs), whatever the step itself rounded towards:
 *
 *   noise(V, b) = Σ_m (V − W*) Ĥ (V − W*)ᵀ + (V μ̂ + b − W* μ̂ − b*)²       gain = 10 log₁₀ noise(V₀, b₀) / noise(V, b)
 *
 * Without a bias of its own a layer has no second term.
 */
export function gainOf(
  layer: Layer,
  before: { readonly weight: Float32Array; readonly bias: Float32Array | undefined },
  solved: Solved,
  grams: readonly Gram[],
): number {
  const { rows, k, groups } = layer;
  const float = rowsOf(layer, layer.weight.constant.float32());
  const parts = [before.weight, solved.weight].map((w) => rowsOf(layer, w));
  const biases = [before.bias, solved.bias ?? before.bias];
  const noise = [0, 0];
  let signal = 0;
  const e = new Float64Array(k);
  for (let g = 0; g < groups; g++) {
    const gram = grams[g]!;
    const { h, meanHat } = gram;
    const best = continuousTarget(float[g]!, gram, formOf(h, k, LAMBDA), rows);
    const own = layer.bias && Float64Array.from(layer.bias.data.subarray(g * rows, (g + 1) * rows));
    const wanted = own && correctedBias(own, float[g]!, best, gram, rows, k);
    for (let m = 0; m < rows; m++) {
      const at = m * k;
      for (let i = 0; i < k; i++) e[i] = best[at + i]!;
      signal += quadratic(h, k, e);
      for (const n of [0, 1] as const) {
        const v = parts[n]![g]!;
        for (let i = 0; i < k; i++) e[i] = v[at + i]! - best[at + i]!;
        noise[n]! += quadratic(h, k, e);
        const bias = biases[n];
        if (!wanted || !bias) continue;
        let shift = bias[g * rows + m]! - wanted[m]!;
        for (let i = 0; i < k; i++) shift += e[i]! * meanHat[i]!;
        noise[n]! += shift * shift;
      }
    }
  }
  const floor = LEAST * Math.max(signal, Number.MIN_VALUE);
  return 10 * Math.log10(Math.max(noise[0]!, floor) / Math.max(noise[1]!, floor));
}

export const gainsOf = (solved: readonly Walked[]): StepGain[] => solved.map((x) => ({ at: x.layer.key, gainDb: x.gainDb }));
