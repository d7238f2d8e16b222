import { crossOf, type Gram, meanOf } from "../gram.ts";
import { solveRows } from "./linalg.ts";
import type { Form } from "./problem.ts";

/**
 * The continuous target of a layer behind an already quantized prefix. x: the float stream's input, x̂: the quantized one's.
 *
 *   min over V of E‖W x − V x̂‖² + d‖V − W‖²   gives   W* = (W C + d W)(Ĥ + d I)⁻¹,   C = E[x x̂ᵀ], Ĥ = E[x̂ x̂ᵀ]  [k, k]
 *
 * With centred statistics (covariances) the means are the bias's business. The loss of a row is then, up to a constant,
 * (ŵ − w*)(Ĥ + d I)(ŵ − w*)ᵀ. `d` is the form's damping. W [rows, k].
 */
export function continuousTarget(w: Float64Array, gram: Gram, form: Form, rows: number): Float64Array {
  const { k, order, r, damping } = form;
  if (!Number.isFinite(damping)) return Float64Array.from(w);
  const wc = crossOf(w, gram, rows, k);
  // The factor is of the permuted matrix: permute, solve, permute back.
  const b = new Float64Array(rows * k);
  for (let m = 0; m < rows; m++)
    for (let p = 0; p < k; p++) {
      const i = m * k + order[p]!;
      b[m * k + p] = wc[i]! + damping * w[i]!;
    }
  solveRows(r, k, b, rows);
  const out = new Float64Array(rows * k);
  for (let m = 0; m < rows; m++) for (let p = 0; p < k; p++) out[m * k + order[p]!] = b[m * k + p]!;
  return out;
}

/**
 * The bias that makes the quantized layer's output mean equal the float layer's: b̂ = b + W μ − Ŵ μ̂ (μ = E[x], μ̂ = E[x̂]). With centred
 * statistics this is the full sequential bias correction of Nagel et al. 2019 (arXiv:1906.04721), in closed form, without a forward pass.
 */
export function correctedBias(bias: Float64Array, w: Float64Array, what: Float64Array, gram: Gram, rows: number, k: number): Float64Array {
  const wanted = meanOf(w, gram, rows, k);
  const out = Float64Array.from(bias);
  for (let m = 0; m < rows; m++) {
    let d = wanted[m]!;
    for (let i = 0; i < k; i++) d -= what[m * k + i]! * gram.meanHat[i]!;
    out[m]! += d;
  }
  return out;
}
