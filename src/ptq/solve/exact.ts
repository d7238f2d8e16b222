/** Inputs for which every choice of rounding up or down is tried. */
export const EXACT_MOST = 10;

/**
 * The best of all 2^k ways to round a row's elements up or down at one scale (k ≤ EXACT_MOST: depthwise 3x3 has 512), by a Gray code: each
 * step flips one element, ΔL = 2Δ g_i + Δ² H_ii, g += Δ H_i. `c` [k] gets the codes; returns the loss.
 */
export function enumerateRow(
  h: Float64Array,
  k: number,
  w: Float64Array,
  at: number,
  scale: number,
  lo: number,
  hi: number,
  c: Float64Array,
  work: { readonly g: Float64Array; readonly down: Float64Array; readonly up: Float64Array },
): number {
  const { g, down, up } = work;
  g.fill(0, 0, k);
  for (let i = 0; i < k; i++) {
    const f = Math.floor(w[at + i]! / scale);
    down[i] = Math.min(hi, Math.max(lo, f));
    up[i] = Math.min(hi, Math.max(lo, f + 1));
    c[i] = down[i]!;
    const e = scale * c[i]! - w[at + i]!;
    for (let j = 0; j < k; j++) g[j]! += e * h[i * k + j]!;
  }
  let loss = 0;
  for (let i = 0; i < k; i++) loss += (scale * c[i]! - w[at + i]!) * g[i]!;
  let best = loss;
  let bestMask = 0;
  let mask = 0;
  for (let n = 1; n < 1 << k; n++) {
    const i = 31 - Math.clz32(n & -n);
    mask ^= 1 << i;
    const to = mask & (1 << i) ? up[i]! : down[i]!;
    const d = (to - c[i]!) * scale;
    c[i] = to;
    if (d !== 0) {
      loss += 2 * d * g[i]! + d * d * h[i * k + i]!;
      for (let j = 0; j < k; j++) g[j]! += d * h[i * k + j]!;
    }
    if (loss < best) {
      best = loss;
      bestMask = mask;
    }
  }
  for (let i = 0; i < k; i++) c[i] = bestMask & (1 << i) ? up[i]! : down[i]!;
  return best;
}
