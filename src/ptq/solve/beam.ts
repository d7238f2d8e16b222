import { ROUND_MAGIC } from "../../quant/affine.ts";
import type { Form } from "./problem.ts";

/** Buffers for `roundWithBeam`, reusable over rows. */
export interface Beam {
  readonly width: number;
  /** Σ_{j > p} R_pj (ŵ_j − w_j) for every open position p, one row per survivor; two sets, read and written in turn. */
  readonly open: readonly [Float64Array, Float64Array];
  /** Columns of R as rows [k, k]. */
  readonly rt: Float64Array;
  readonly parent: Uint8Array;
  readonly chosen: Float64Array;
}

export function beamOf(form: Form, width: number): Beam {
  const { k, r } = form;
  const rt = new Float64Array(k * k);
  for (let p = 0; p < k; p++) for (let q = p; q < k; q++) rt[q * k + p] = r[p * k + q]!;
  return {
    width,
    open: [new Float64Array(width * k), new Float64Array(width * k)],
    rt,
    parent: new Uint8Array(width * k),
    chosen: new Float64Array(width * k),
  };
}

/**
 * Nearest plane with a beam (the K-best sphere decoder of Guo & Nilsson 2006): like `roundWithFeedback`, but each of the `width` best
 * partial roundings branches into the two grid points next to v_i, and the best `width` by partial loss go on. Never worse at the end than
 * its own best branch; usually well below plain feedback. `c` [k] gets the codes; returns the loss.
 */
export function roundWithBeam(
  form: Form,
  beam: Beam,
  w: Float64Array,
  at: number,
  s: Float64Array,
  lo: Float64Array,
  hi: Float64Array,
  block: number,
  c: Float64Array,
): number {
  const { k, order, r } = form;
  const { width, open, rt, parent, chosen } = beam;
  let [from, to] = open;
  from.fill(0, 0, k);
  let loss = new Float64Array(width);
  let next = new Float64Array(width);
  const value = new Float64Array(2 * width);
  const cost = new Float64Array(2 * width);
  let alive = 1;
  for (let p = k - 1; p >= 0; p--) {
    const i = order[p]!;
    const b = (i / block) | 0;
    const scale = s[b]!;
    const low = lo[b]!;
    const high = hi[b]!;
    const rii = r[p * k + p]!;
    const wi = w[at + i]!;
    for (let n = 0; n < alive; n++) {
      const v = (wi - from[n * k + p]! / rii) / scale;
      let near = v + ROUND_MAGIC - ROUND_MAGIC;
      let other = near <= v ? near + 1 : near - 1;
      if (near < low) near = other = low;
      else if (near > high) near = other = high;
      else if (other < low || other > high) other = near;
      value[2 * n] = near;
      cost[2 * n] = loss[n]! + (rii * scale * (near - v)) ** 2;
      value[2 * n + 1] = other;
      cost[2 * n + 1] = other === near ? Infinity : loss[n]! + (rii * scale * (other - v)) ** 2;
    }
    let taken = 0;
    for (; taken < width; taken++) {
      let best = -1;
      let least = Infinity;
      for (let n = 0; n < 2 * alive; n++)
        if (cost[n]! < least) {
          least = cost[n]!;
          best = n;
        }
      if (best < 0) break;
      cost[best] = Infinity;
      next[taken] = least;
      parent[p * width + taken] = best >> 1;
      chosen[p * width + taken] = value[best]!;
      const e = scale * value[best]! - wi;
      const src = (best >> 1) * k;
      const dst = taken * k;
      const col = p * k;
      for (let q = 0; q < p; q++) to[dst + q] = from[src + q]! + e * rt[col + q]!;
    }
    alive = taken;
    [from, to] = [to, from];
    [loss, next] = [next, loss];
  }
  let n = 0;
  for (let p = 0; p < k; p++) {
    c[order[p]!] = chosen[p * width + n]!;
    n = parent[p * width + n]!;
  }
  return loss[0]!;
}
