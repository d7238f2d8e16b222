import type { Tensor } from "../runtime/types.ts";

/** nmse: noise ÷ signal, mean over the outputs. kl: Kullback-Leibler divergence of the softmax over the last axis, mean over rows and outputs. */
export const LOSSES = ["nmse", "kl"] as const;
export type LossName = (typeof LOSSES)[number];

/** Outputs against those of the float network, summed over samples in the order given. */
export class LossSum {
  readonly #name: LossName;
  readonly #a: Float64Array;
  readonly #b: Float64Array;

  constructor(name: LossName, outputs: number) {
    this.#name = name;
    this.#a = new Float64Array(outputs);
    this.#b = new Float64Array(outputs);
  }

  add(float: readonly Tensor[], quant: readonly Tensor[]): void {
    for (const [o, t] of float.entries()) {
      const x = t.data;
      const y = quant[o]!.data;
      if (!(x instanceof Float32Array) || !(y instanceof Float32Array)) continue;
      if (this.#name === "kl") {
        const columns = t.dims.at(-1) ?? 1;
        for (let r = 0; r + columns <= x.length; r += columns) this.#a[o]! += divergence(x, y, r, columns);
        this.#b[o]! += x.length / columns;
        continue;
      }
      let noise = 0;
      let signal = 0;
      for (let i = 0; i < x.length; i++) {
        const e = x[i]! - y[i]!;
        noise += e * e;
        signal += x[i]! * x[i]!;
      }
      this.#a[o]! += noise;
      this.#b[o]! += signal;
    }
  }

  get value(): number {
    let sum = 0;
    let n = 0;
    for (let o = 0; o < this.#a.length; o++) {
      if (!(this.#b[o]! > 0)) continue;
      sum += this.#a[o]! / this.#b[o]!;
      n++;
    }
    return n === 0 ? 0 : sum / n;
  }
}

/** Σ p (log p − log q) of p = softmax(x), q = softmax(y). */
function divergence(x: Float32Array, y: Float32Array, from: number, n: number): number {
  const logSum = (z: Float32Array): number => {
    let most = -Infinity;
    for (let i = from; i < from + n; i++) most = Math.max(most, z[i]!);
    let sum = 0;
    for (let i = from; i < from + n; i++) sum += Math.exp(z[i]! - most);
    return most + Math.log(sum);
  };
  const [a, b] = [logSum(x), logSum(y)];
  let kl = 0;
  for (let i = from; i < from + n; i++) kl += Math.exp(x[i]! - a) * (x[i]! - a - (y[i]! - b));
  return Math.max(0, kl);
}
