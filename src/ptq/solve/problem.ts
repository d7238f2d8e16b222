import { argsort, choleskyUpper } from "./linalg.ts";

/**
 * Rounding one layer, as data. Rows are output channels, `k` the inputs of one. A row's loss is (ŵ − w)ᵀ H (ŵ − w), ŵ = s · c with
 * c = q − zeroPoint an integer. With H = E[x̂ x̂ᵀ] that is the mean squared error of the layer's output.
 */
export interface Grid {
  /** Bounds of the stored code q, inclusive. */
  readonly lo: number;
  readonly hi: number;
  /** The zero point of every block; "free": chosen per block from the two ends of its range. */
  readonly zero: number | "free";
  /** Inputs that share a scale within a row; `k` when the whole row does. */
  readonly block: number;
  /** One scale for all rows (per-tensor). */
  readonly shared: boolean;
}

/** The quadratic form of one group of rows, with what the solvers derive from it once. */
export interface Form {
  readonly k: number;
  /** Damped Gram matrix, symmetric [k, k]. */
  readonly h: Float64Array;
  /** Its diagonal [k]. */
  readonly diag: Float64Array;
  /** Position p of the factor is input `order[p]`; ascending diagonal, so that walking p downwards meets the largest first. */
  readonly order: Int32Array;
  /** Upper factor of the permuted matrix: P H Pᵀ = RᵀR [k, k]. */
  readonly r: Float64Array;
  /** What was added to the diagonal in the end. */
  readonly damping: number;
}

/**
 * Codes and scales of some rows. `codes` are c = q − zeroPoint [rows, k]; `scales` [rows, blocks], float32 values, and `zeros` the same
 * shape; `loss` [rows].
 */
export interface Solution {
  readonly codes: Int32Array;
  readonly scales: Float64Array;
  readonly zeros: Int32Array;
  readonly loss: Float64Array;
}

export function newSolution(rows: number, k: number, block: number): Solution {
  const nb = blocksOf(k, block);
  return {
    codes: new Int32Array(rows * k),
    scales: new Float64Array(rows * nb).fill(1),
    zeros: new Int32Array(rows * nb),
    loss: new Float64Array(rows).fill(Infinity),
  };
}

export function blocksOf(k: number, block: number): number {
  return Math.ceil(k / block);
}

/**
 * Damps and factors a Gram matrix (GPTQ, Frantar et al. 2022): H = Ĥ + λ·mean(diag Ĥ)·I. Where the factorization fails the damping grows
 * tenfold; a matrix that never becomes positive definite (NaN, or no input at all) gives the identity, that is round-to-nearest.
 */
export function formOf(gram: Float64Array, k: number, lambda: number): Form {
  let mean = 0;
  for (let i = 0; i < k; i++) mean += gram[i * k + i]! / k;
  if (mean > 0 && Number.isFinite(mean)) {
    const diag = new Float64Array(k);
    for (let i = 0; i < k; i++) diag[i] = gram[i * k + i]!;
    const order = argsort(diag);
    const r = new Float64Array(k * k);
    for (let l = lambda; l <= 1e3; l = l === 0 ? 1e-6 : l * 10) {
      const damping = l * mean;
      for (let p = 0; p < k; p++) {
        const row = order[p]! * k;
        for (let q = p; q < k; q++) r[p * k + q] = gram[row + order[q]!]!;
        r[p * k + p]! += damping;
      }
      if (!choleskyUpper(r, k)) continue;
      const h = Float64Array.from(gram);
      for (let i = 0; i < k; i++) h[i * k + i]! += damping;
      return { k, h, diag: diag.map((d) => d + damping), order, r, damping };
    }
  }
  const eye = new Float64Array(k * k);
  for (let i = 0; i < k; i++) eye[i * k + i] = 1;
  return {
    k,
    h: eye,
    diag: new Float64Array(k).fill(1),
    order: Int32Array.from({ length: k }, (_, i) => i),
    r: Float64Array.from(eye),
    damping: Infinity,
  };
}

/** Loss of one row whose error ŵ − w is `e`. */
export function quadratic(h: Float64Array, k: number, e: Float64Array): number {
  let loss = 0;
  for (let i = 0; i < k; i++) {
    const a = e[i]!;
    if (a === 0) continue;
    let s = 0;
    const p = i * k;
    for (let j = 0; j < k; j++) s += h[p + j]! * e[j]!;
    loss += a * s;
  }
  return loss;
}
