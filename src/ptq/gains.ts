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
    const picked = pickRows(float[g]!, rows, k);
    const best = continuousTarget(picked.w, gram, formOf(h, k, LAMBDA), picked.rows.length);
    const data = layer.bias?.data;
    const own = data && Float64Array.from(picked.rows, (m) => data[g * rows + m]!);
    const wanted = own && correctedBias(own, picked.w, best, gram, picked.rows.length, k);
    for (const [p, m] of picked.rows.entries()) {
      const at = m * k;
      for (let i = 0; i < k; i++) e[i] = best[p * k + i]!;
      signal += quadratic(h, k, e);
      for (const n of [0, 1] as const) {
        const v = parts[n]![g]!;
        for (let i = 0; i < k; i++) e[i] = v[at + i]! - best[p * k + i]!;
        noise[n]! += quadratic(h, k, e);
        const bias = biases[n];
        if (!wanted || !bias) continue;
        let shift = bias[g * rows + m]! - wanted[p]!;
        for (let i = 0; i < k; i++) shift += e[i]! * meanHat[i]!;
        noise[n]! += shift * shift;
      }
    }
  }
  const floor = LEAST * Math.max(signal, Number.MIN_VALUE);
  return 10 * Math.log10(Math.max(noise[0]!, floor) / Math.max(noise[1]!, floor));
}

/** Multiplications of a group's quadratic forms at most: of a wide layer some rows, evenly spaced, speak for all. */
const MOST_PRODUCTS = 2 ** 24;
const LEAST_ROWS = 16;

function pickRows(w: Float64Array, rows: number, k: number): { readonly rows: readonly number[]; readonly w: Float64Array } {
  const n = Math.min(rows, Math.max(LEAST_ROWS, Math.floor(MOST_PRODUCTS / (k * k))));
  if (n === rows) return { rows: Array.from({ length: rows }, (_, m) => m), w };
  const picked = Array.from({ length: n }, (_, i) => Math.floor((i * rows) / n));
  const out = new Float64Array(n * k);
  for (const [p, m] of picked.entries()) out.set(w.subarray(m * k, (m + 1) * k), p * k);
  return { rows: picked, w: out };
}

export const gainsOf = (solved: readonly Walked[]): StepGain[] => solved.map((x) => ({ at: x.layer.key, gainDb: x.gainDb }));
