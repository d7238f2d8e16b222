import { ROUND_MAGIC } from "../../quant/affine.ts";
import type { Form } from "./problem.ts";

/** Vectors rounded together: their loads of the factor are shared. */
export const LANES = 4;

/** Buffers of one batch of lanes, element i of lane v at `i * LANES + v`, in the order of the inputs (not of the factor). */
export interface Lanes {
  readonly w: Float64Array;
  /** Scale of each element. */
  readonly s: Float64Array;
  /** Lowest and highest c = q − zeroPoint of each element. */
  readonly lo: Float64Array;
  readonly hi: Float64Array;
  /** Result: c. */
  readonly c: Float64Array;
  /** Error ŵ − w, in the factor's order. */
  readonly e: Float64Array;
  /** Loss of each lane. */
  readonly loss: Float64Array;
}

export function lanesOf(k: number): Lanes {
  const a = () => new Float64Array(k * LANES);
  return { w: a(), s: a(), lo: a(), hi: a(), c: a(), e: a(), loss: new Float64Array(LANES) };
}

/**
 * GPTQ with error feedback and act order (Frantar et al. 2022, arXiv:2210.17323), written as Babai's nearest plane, which it equals: with
 * H = RᵀR the loss of a row is ‖R(ŵ − w)‖², and walking i downwards the part that later choices cannot change is
 *
 *   R_ii² (ŵ_i − v_i)²,   v_i = w_i − (1 / R_ii) Σ_{j > i} R_ij (ŵ_j − w_j)
 *
 * so ŵ_i is the grid point next to v_i. No inverse of H is needed, and the loss falls out of the walk. A diagonal H gives
 * round-to-nearest. All lanes are done; unused ones cost nothing extra.
 */
export function roundWithFeedback(form: Form, lanes: Lanes): void {
  const { k, order, r } = form;
  const { w, s, lo, hi, c, e, loss } = lanes;
  let l0 = 0;
  let l1 = 0;
  let l2 = 0;
  let l3 = 0;
  for (let p = k - 1; p >= 0; p--) {
    let a0 = 0;
    let a1 = 0;
    let a2 = 0;
    let a3 = 0;
    const row = p * k;
    for (let j = p + 1, x = j * LANES; j < k; j++, x += LANES) {
      const f = r[row + j]!;
      a0 += f * e[x]!;
      a1 += f * e[x + 1]!;
      a2 += f * e[x + 2]!;
      a3 += f * e[x + 3]!;
    }
    const rii = r[row + p]!;
    const i = order[p]! * LANES;
    const x = p * LANES;
    const d0 = step(w, s, lo, hi, c, i, a0 / rii);
    const d1 = step(w, s, lo, hi, c, i + 1, a1 / rii);
    const d2 = step(w, s, lo, hi, c, i + 2, a2 / rii);
    const d3 = step(w, s, lo, hi, c, i + 3, a3 / rii);
    e[x] = d0;
    e[x + 1] = d1;
    e[x + 2] = d2;
    e[x + 3] = d3;
    l0 += (rii * d0 + a0) ** 2;
    l1 += (rii * d1 + a1) ** 2;
    l2 += (rii * d2 + a2) ** 2;
    l3 += (rii * d3 + a3) ** 2;
  }
  loss[0] = l0;
  loss[1] = l1;
  loss[2] = l2;
  loss[3] = l3;
}

/** Rounds element x to the grid point next to w − shift; returns ŵ − w. */
function step(w: Float64Array, s: Float64Array, lo: Float64Array, hi: Float64Array, c: Float64Array, x: number, shift: number): number {
  const scale = s[x]!;
  const v = (w[x]! - shift) / scale;
  let q = v + ROUND_MAGIC - ROUND_MAGIC;
  if (q < lo[x]!) q = lo[x]!;
  else if (q > hi[x]!) q = hi[x]!;
  c[x] = q;
  return scale * q - w[x]!;
}
