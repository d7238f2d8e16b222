import { QcError } from "../diagnostics.ts";
import { sqnrDbOf } from "../quant/sqnr.ts";
import type { Tensor } from "../runtime/types.ts";
import { quantileOf } from "./statistics.ts";
import type { OutputError } from "./types.ts";

/** Float32 view of a float tensor; undefined for integers, strings and booleans. */
export function floatsOf(t: Tensor): Float32Array | Float64Array | undefined {
  if (t.data instanceof Float32Array || t.data instanceof Float64Array) return t.data;
  if (t.dtype === "float16" && t.data instanceof Uint16Array) return decodeHalf(t.data);
  return undefined;
}

function decodeHalf(bits: Uint16Array): Float32Array {
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i]!;
    const e = (b >> 10) & 31;
    const m = b & 1023;
    const x = e === 0 ? m * 2 ** -24 : e === 31 ? (m === 0 ? Infinity : Number.NaN) : (1 + m / 1024) * 2 ** (e - 15);
    out[i] = b & 0x8000 ? -x : x;
  }
  return out;
}

/**
 * Running sums of one output over samples: with x float and y quantized,
 * Σx², Σ(x−y)², Σxy, Σy², max |x−y|. Memory does not depend on the outputs' size, only 8 bytes a sample for the median.
 */
export class OutputSums {
  readonly #name: string;
  readonly #classes: boolean;
  #shape: readonly number[] = [];
  #signal = 0;
  #noise = 0;
  #dot = 0;
  #other = 0;
  #maxAbs = 0;
  #same = 0;
  #rows = 0;
  readonly #each: number[] = [];
  readonly #ids: string[] = [];
  nonFinite = { float: 0, quantized: 0, sample: "" };

  /** `classes`: the last axis holds scores of classes, so the place of the largest means something. */
  constructor(name: string, classes: boolean) {
    this.#name = name;
    this.#classes = classes;
  }

  add(x: Tensor, y: Tensor, sample: string): void {
    if (x.dims.join() !== y.dims.join())
      throw new QcError({ code: "check/shape-differs", output: this.#name, float: x.dims, quantized: y.dims, sample });
    const a = floatsOf(x);
    const b = floatsOf(y);
    if (a === undefined || b === undefined) {
      this.#addExact(x, y, sample);
      return;
    }
    this.#shape = x.dims;
    let signal = 0;
    let noise = 0;
    let dot = 0;
    let other = 0;
    let most = this.#maxAbs;
    let badA = 0;
    let badB = 0;
    for (let i = 0; i < a.length; i++) {
      const p = a[i]!;
      const q = b[i]!;
      const e = p - q;
      // NaN and infinities make the difference NaN or infinite.
      if (!(Math.abs(e) < Infinity)) {
        if (!(Math.abs(p) < Infinity)) badA++;
        if (!(Math.abs(q) < Infinity)) badB++;
        continue;
      }
      signal += p * p;
      noise += e * e;
      dot += p * q;
      other += q * q;
      const m = e < 0 ? -e : e;
      if (m > most) most = m;
    }
    this.#signal += signal;
    this.#noise += noise;
    this.#dot += dot;
    this.#other += other;
    this.#maxAbs = most;
    this.#each.push(sqnrDbOf(signal, noise));
    this.#ids.push(sample);
    if (badA + badB > 0 && this.nonFinite.sample === "") this.nonFinite.sample = sample;
    this.nonFinite.float += badA;
    this.nonFinite.quantized += badB;
    if (this.#classes) this.#compareRows(a, b, x.dims.at(-1) ?? 1);
  }

  /** Integers and booleans: the share of equal elements stands for everything. */
  #addExact(x: Tensor, y: Tensor, sample: string): void {
    this.#shape = x.dims;
    let different = 0;
    for (let i = 0; i < x.data.length; i++) if (x.data[i] !== y.data[i]) different++;
    this.#same += x.data.length - different;
    this.#rows += x.data.length;
    this.#each.push(different === 0 ? Infinity : -Infinity);
    this.#ids.push(sample);
  }

  #compareRows(a: ArrayLike<number>, b: ArrayLike<number>, width: number): void {
    for (let r = 0; r + width <= a.length; r += width) {
      let p = 0;
      let q = 0;
      for (let j = 1; j < width; j++) {
        if (a[r + j]! > a[r + p]!) p = j;
        if (b[r + j]! > b[r + q]!) q = j;
      }
      if (p === q) this.#same++;
      this.#rows++;
    }
  }

  get samples(): number {
    return this.#each.length;
  }

  result(): OutputError {
    let worst = 0;
    for (let i = 1; i < this.#each.length; i++) if (this.#each[i]! < this.#each[worst]!) worst = i;
    const sorted = Float64Array.from(this.#each).sort();
    const norm = Math.sqrt(this.#signal) * Math.sqrt(this.#other);
    const exact = this.#signal === 0 && this.#noise === 0;
    return {
      name: this.#name,
      shape: this.#shape,
      n: this.#each.length,
      sqnrDb: exact ? sorted[0]! : sqnrDbOf(this.#signal, this.#noise),
      medianSqnrDb: quantileOf(sorted, 0.5),
      worst: { sample: this.#ids[worst] ?? "", sqnrDb: this.#each[worst] ?? Infinity },
      cosine: norm === 0 ? (exact ? 1 : 0) : Math.min(1, this.#dot / norm),
      maxAbsError: this.#maxAbs,
      ...(this.#rows > 0 ? { agreement: { rate: this.#same / this.#rows, rows: this.#rows } } : {}),
      nonFinite: this.nonFinite.float + this.nonFinite.quantized,
    };
  }
}
