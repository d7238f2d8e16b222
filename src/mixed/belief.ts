import type { Tensor } from "../runtime/types.ts";

/**
 * What accuracy a change of the network should cost, without labels: where the two networks decide alike nothing changes, and where they do
 * not, the float network's own probabilities p say how often each is right:
 *
 *   E[acc_float − acc_quant] = mean over rows of p(argmax float) − p(argmax quant) ≥ 0,   E[acc_float] = mean of p(argmax float).
 *
 * A network that believes too much in itself makes the first too large: the error is on the safe side. The mean is of some rows out of all
 * there are; `high` is what it is at most with 95 % confidence, from the spread of the rows.
 */
export class Belief {
  #rows = 0;
  #sure = 0;
  #lost = 0;
  #squares = 0;
  #flips = 0;

  add(float: Tensor, quant: Tensor): void {
    const x = float.data;
    const y = quant.data;
    const n = float.dims.at(-1) ?? 0;
    if (!(x instanceof Float32Array) || !(y instanceof Float32Array) || n < 2) return;
    for (let r = 0; r + n <= x.length; r += n) {
      const p = probabilities(x, r, n);
      const [a, b] = [argmax(x, r, n), argmax(y, r, n)];
      this.#sure += p[a]!;
      const lost = p[a]! - p[b]!;
      this.#lost += lost;
      this.#squares += lost * lost;
      if (a !== b) this.#flips++;
      this.#rows++;
    }
  }

  /** In percent. */
  get drop(): { readonly pt: number; readonly percent: number; readonly high: { readonly pt: number; readonly percent: number } } {
    const n = Math.max(1, this.#rows);
    const mean = this.#lost / n;
    const error = Math.sqrt(Math.max(0, this.#squares / n - mean * mean) / n);
    const of = (x: number) => ({ pt: 100 * x, percent: this.#sure > 0 ? (100 * x * n) / this.#sure : 0 });
    return { ...of(mean), high: of(mean + ONE_SIDED * error) };
  }

  /** By how many points a share of right decisions may be off by chance (one-sided, 95 %): only rows decided otherwise can differ. */
  get chance(): number {
    const n = Math.max(1, this.#rows);
    return (100 * ONE_SIDED * Math.sqrt(this.#flips / n)) / Math.sqrt(n);
  }
}

/** Standard errors of a one-sided bound of 95 %. */
const ONE_SIDED = 1.645;

/** The row as it is when it adds up to 1, else its softmax. */
function probabilities(x: Float32Array, from: number, n: number): Float64Array {
  const out = new Float64Array(n);
  let sum = 0;
  let most = -Infinity;
  let least = Infinity;
  for (let i = 0; i < n; i++) {
    const v = x[from + i]!;
    out[i] = v;
    sum += v;
    most = Math.max(most, v);
    least = Math.min(least, v);
  }
  if (least >= 0 && Math.abs(sum - 1) < 1e-3) return out;
  sum = 0;
  for (let i = 0; i < n; i++) {
    out[i] = Math.exp(out[i]! - most);
    sum += out[i]!;
  }
  for (let i = 0; i < n; i++) out[i]! /= sum;
  return out;
}

function argmax(x: Float32Array, from: number, n: number): number {
  let best = 0;
  for (let i = 1; i < n; i++) if (x[from + i]! > x[from + best]!) best = i;
  return best;
}
