import { ROUND_MAGIC } from "../../quant/affine.ts";

/** One row being polished: codes, scales and the gradient g = H (ŵ − w), kept up to date by every move. */
export interface RowState {
  readonly k: number;
  readonly block: number;
  /** Lowest and highest c of each block. */
  readonly lo: Float64Array;
  readonly hi: Float64Array;
  readonly c: Float64Array;
  /** Scale of each block. */
  readonly s: Float64Array;
  readonly g: Float64Array;
  /** H w of the row being polished. */
  readonly hw: Float64Array;
  loss: number;
  /** Set by `descendPairs`. */
  moved: boolean;
  /** For the search over pairs: 2 s and s² H_ii of each element. */
  readonly twice: Float64Array;
  readonly square: Float64Array;
}

export function rowState(k: number, block: number): RowState {
  const nb = Math.ceil(k / block);
  const a = (n: number) => new Float64Array(n);
  return { k, block, lo: a(nb), hi: a(nb), c: a(k), s: a(nb), g: a(k), hw: a(k), loss: 0, moved: false, twice: a(k), square: a(k) };
}

export function copyState(from: RowState, to: RowState): void {
  to.c.set(from.c);
  to.s.set(from.s);
  to.lo.set(from.lo);
  to.hi.set(from.hi);
  to.g.set(from.g);
  to.hw.set(from.hw);
  to.loss = from.loss;
}

/** Sets H w, which the states of one row share. */
export function setRow(row: RowState, h: Float64Array, w: Float64Array, at: number): void {
  const { k, hw } = row;
  hw.fill(0);
  for (let i = 0; i < k; i++) if (w[at + i] !== 0) addScaled(hw, h, i * k, k, w[at + i]!);
}

/** Sets g = H (ŵ − w) and the loss from c, s and the row w. */
export function refresh(row: RowState, h: Float64Array, w: Float64Array, at: number): void {
  const { k, block, c, s, g } = row;
  g.fill(0);
  let loss = 0;
  for (let i = 0; i < k; i++) {
    const e = s[(i / block) | 0]! * c[i]! - w[at + i]!;
    if (e !== 0) addScaled(g, h, i * k, k, e);
  }
  for (let i = 0; i < k; i++) loss += (s[(i / block) | 0]! * c[i]! - w[at + i]!) * g[i]!;
  row.loss = loss;
}

function addScaled(g: Float64Array, h: Float64Array, at: number, k: number, f: number): void {
  for (let j = 0; j < k; j++) g[j]! += f * h[at + j]!;
}

/**
 * Cyclic coordinate descent over all codes (QuantEase, arXiv:2309.01885): with the others fixed, the best change of ŵ_i is −g_i / H_ii,
 * rounded to the grid. Each move lowers the loss by −(2Δ g_i + Δ² H_ii) > 0. Ends at a point that no single move improves, or after `sweeps`.
 */
export function descend(row: RowState, h: Float64Array, sweeps = 50): void {
  const { k, block, lo, hi, c, s, g } = row;
  for (let sweep = 0; sweep < sweeps; sweep++) {
    let moved = false;
    for (let i = 0; i < k; i++) {
      const b = (i / block) | 0;
      const scale = s[b]!;
      const hii = h[i * k + i]!;
      const v = c[i]! - g[i]! / (hii * scale);
      let q = v + ROUND_MAGIC - ROUND_MAGIC;
      if (q < lo[b]!) q = lo[b]!;
      else if (q > hi[b]!) q = hi[b]!;
      if (q === c[i]!) continue;
      const d = (q - c[i]!) * scale;
      const gain = -(2 * d * g[i]! + d * d * hii);
      // A tie at half a step can look like a gain in the last bits and go back and forth for ever.
      if (!(gain > 1e-12 * row.loss)) continue;
      c[i] = q;
      row.loss -= gain;
      addScaled(g, h, i * k, k, d);
      moved = true;
    }
    if (!moved) return;
  }
}

/**
 * Moves of two codes at once, each by one step, where no single move helps: changing i by δ (towards its gradient) costs
 * b = 2δ g_i + δ² H_ii ≥ 0, and then j gains 2 s_j |g_j + δ H_ij| − s_j² H_jj. Takes the best partner j of every i that pays. Several rows
 * go together, so that a row of H is read once for all of them. Returns how many moved; their `moved` says which.
 */
export function descendPairs(rows: readonly RowState[], h: Float64Array, diag: Float64Array): number {
  const first = rows[0];
  if (!first) return 0;
  for (const row of rows) {
    const { k, block, s, twice, square } = row;
    row.moved = false;
    for (let i = 0; i < k; i++) {
      const si = s[(i / block) | 0]!;
      twice[i] = 2 * si;
      square[i] = si * si * diag[i]!;
    }
  }
  for (let i = 0; i < first.k; i++) for (let n = 0; n < rows.length; n++) movePair(rows[n]!, h, diag, i);
  let count = 0;
  for (const row of rows) if (row.moved) count++;
  return count;
}

function movePair(row: RowState, h: Float64Array, diag: Float64Array, i: number): void {
  const { k, block, lo, hi, c, s, g, twice, square } = row;
  const bi = (i / block) | 0;
  const sign = g[i]! < 0 ? 1 : -1;
  const q = c[i]! + sign;
  if (q < lo[bi]! || q > hi[bi]!) return;
  const d = sign * s[bi]!;
  const at = i * k;
  const cost = 2 * d * g[i]! + d * d * diag[i]!;
  let best = cost + 1e-12 * row.loss;
  let partner = -1;
  for (let j = 0; j < k; j++) {
    const t = g[j]! + d * h[at + j]!;
    const gain = twice[j]! * Math.abs(t) - square[j]!;
    if (gain > best) {
      if (j === i) continue;
      const b = (j / block) | 0;
      const qj = t < 0 ? c[j]! + 1 : c[j]! - 1;
      if (qj < lo[b]! || qj > hi[b]!) continue;
      best = gain;
      partner = j;
    }
  }
  if (partner < 0) return;
  const t = g[partner]! + d * h[at + partner]!;
  const step = t < 0 ? 1 : -1;
  const dj = step * s[(partner / block) | 0]!;
  c[i] = q;
  c[partner]! += step;
  addScaled(g, h, at, k, d);
  addScaled(g, h, partner * k, k, dj);
  row.loss -= best - cost;
  row.moved = true;
}

/**
 * Least-squares scales for fixed codes, block by block: with c_b the codes of block b, the best scale is
 * s_b − (c_bᵀ g_b) / (c_bᵀ H_bb c_b). Rounded to float32; kept only where it lowers the loss. `hc` [k] is scratch.
 */
export function refitScales(row: RowState, h: Float64Array, hc: Float64Array): boolean {
  const { k, block, c, s, g, hw } = row;
  let any = false;
  for (let b = 0, from = 0; from < k; b++, from += block) {
    const to = Math.min(k, from + block);
    if (to - from === k) {
      // One block: H c = (g + H w) / s is at hand.
      for (let j = 0; j < k; j++) hc[j] = (g[j]! + hw[j]!) / s[0]!;
    } else {
      hc.fill(0);
      for (let i = from; i < to; i++) if (c[i] !== 0) addScaled(hc, h, i * k, k, c[i]!);
    }
    let cg = 0;
    let chc = 0;
    for (let i = from; i < to; i++) {
      cg += c[i]! * g[i]!;
      chc += c[i]! * hc[i]!;
    }
    if (!(chc > 0)) continue;
    const scale = Math.fround(s[b]! - cg / chc);
    const d = scale - s[b]!;
    const gain = -(2 * d * cg + d * d * chc);
    if (!(scale > 0) || !(gain > 1e-9 * row.loss)) continue;
    for (let j = 0; j < k; j++) g[j]! += d * hc[j]!;
    s[b] = scale;
    row.loss -= gain;
    any = true;
  }
  return any;
}
