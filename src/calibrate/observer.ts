import { BINS, type Grid, gridOf, regrid } from "./histogram.ts";
import type { Histogram, ValueStats } from "./types.ts";

/** Above this many counted elements, the 32-bit counters are emptied into the double ones. */
const FLUSH = 2 ** 31;
/** Bins kept free on each side of the range while observing, so that a slowly growing range does not move the counters each time. */
const SLACK = BINS / 2;

/**
 * Accumulates the statistics of one value. What it returns is a function of the multiset of elements alone: not of their order, nor of
 * how they came in pieces.
 *
 * The counters lie over [min, max] of what was seen (`gridOf`) with some slack and are laid anew when an element falls outside; the
 * result is cut to the exact grid. Two arrays of 32-bit counters take even and odd elements, so that equal neighbours do not wait for
 * each other's store; slot 0 takes exact zeros (masked there without a branch: after a Relu the branch would be a coin toss),
 * slot 1 + i bin i.
 */
export class Observer {
  readonly name: string;
  readonly #histogram: boolean;
  #min = Infinity;
  #max = -Infinity;
  #finite = 0;
  #nan = 0;
  #inf = 0;
  #runs = 0;
  #grid: Grid = { exp: 0, first: 0, length: 0 };
  #even: Uint32Array = new Uint32Array(0);
  #odd: Uint32Array = new Uint32Array(0);
  #pending = 0;
  #total: Float64Array = new Float64Array(0);

  constructor(name: string, histogram = true) {
    this.name = name;
    this.#histogram = histogram;
  }

  /** One run's tensor. */
  add(x: Float32Array | Float64Array): void {
    if (x.length > 0) this.#runs++;
    if (!this.#histogram) this.#range(x);
    else if (x instanceof Float32Array) this.#count32(x);
    else for (let i = 0; i < x.length; i++) this.#one(x[i]!);
  }

  /** Minimum and maximum known from elsewhere (a reduction inside the graph), for `count` finite elements; no histogram then. */
  addRange(min: number, max: number, count: number): void {
    if (this.#histogram) throw new RangeError("internal: a range alone cannot be added to a histogram");
    if (count > 0) this.#runs++;
    this.#finite += count;
    if (count > 0) this.#widen(Math.min(min, max), max);
  }

  result(): ValueStats {
    this.#flush();
    return {
      name: this.name,
      count: this.#finite,
      zeros: this.#total[0] ?? 0,
      nan: this.#nan,
      inf: this.#inf,
      min: this.#min,
      max: this.#max,
      hist: this.#histogram && this.#finite > 0 ? this.#cut() : undefined,
      runs: this.#runs,
    };
  }

  #cut(): Histogram {
    const to = gridOf(this.#min, this.#max);
    const counts = new Float64Array(to.length);
    regrid(this.#total.subarray(1), this.#grid, counts, to);
    return { exp: to.exp, first: to.first, counts };
  }

  #range(x: Float32Array | Float64Array): void {
    let lo = this.#min;
    let hi = this.#max;
    for (let i = 0; i < x.length; i++) {
      const v = x[i]!;
      if (v >= lo && v <= hi) continue;
      if (!Number.isFinite(v)) {
        if (Number.isNaN(v)) this.#nan++;
        else this.#inf++;
        this.#finite--;
        continue;
      }
      if (v < lo) lo = v;
      if (v > hi) hi = v;
    }
    this.#finite += x.length;
    if (lo <= hi) this.#widen(lo, hi);
  }

  /** The range of a first array, so that the counters are laid once for it and not element by element. */
  #widenTo(x: Float32Array): void {
    let lo = Infinity;
    let hi = -Infinity;
    for (let i = 0; i < x.length; i++) {
      const v = x[i]!;
      if (!Number.isFinite(v)) continue;
      if (v < lo) lo = v;
      if (v > hi) hi = v;
    }
    if (lo <= hi) this.#widen(lo, hi);
  }

  #count32(x: Float32Array): void {
    if (this.#grid.length === 0) this.#widenTo(x);
    const bits = new Int32Array(x.buffer, x.byteOffset, x.length);
    const whole = x.length - (x.length % 4);
    if (this.#pending + x.length > FLUSH) this.#flush();
    for (let i = 0; i < whole; ) {
      i = countFours(x, bits, i, whole, this.#even, this.#odd, 2 ** -this.#grid.exp, 1 - this.#grid.first, this.#min, this.#max);
      // Four elements of which one lies outside what was seen so far, or is not finite.
      for (const end = Math.min(i + 4, whole); i < end; i++) this.#one(x[i]!);
    }
    for (let i = whole; i < x.length; i++) this.#one(x[i]!);
    // Elements that went through the loop are counted when flushed; here only how many there may be.
    this.#pending += x.length;
  }

  #one(v: number): void {
    if (!Number.isFinite(v)) {
      if (Number.isNaN(v)) this.#nan++;
      else this.#inf++;
      return;
    }
    if (v < this.#min || v > this.#max) this.#widen(Math.min(v, this.#min), Math.max(v, this.#max));
    this.#even[v === 0 ? 0 : Math.floor(v * 2 ** -this.#grid.exp) - this.#grid.first + 1]!++;
    if (++this.#pending > FLUSH) this.#flush();
  }

  /** Takes a larger range; lays the counters anew when it leaves them. */
  #widen(lo: number, hi: number): void {
    this.#min = Math.min(this.#min, lo) + 0; // + 0: no -0
    this.#max = Math.max(this.#max, hi) + 0;
    if (!this.#histogram) return;
    const from = this.#grid;
    const inv = 2 ** -from.exp;
    if (Math.floor(this.#min * inv) >= from.first && Math.floor(this.#max * inv) < from.first + from.length) return;
    this.#flush();
    const exact = gridOf(this.#min, this.#max);
    const to = { exp: exact.exp, first: exact.first - SLACK, length: exact.length + 2 * SLACK };
    const total = new Float64Array(to.length + 1);
    total[0] = this.#total[0] ?? 0;
    regrid(this.#total.subarray(1), from, total.subarray(1), to);
    this.#total = total;
    this.#grid = to;
    this.#even = new Uint32Array(to.length + 1);
    this.#odd = new Uint32Array(to.length + 1);
  }

  #flush(): void {
    this.#pending = 0;
    if (!this.#histogram) return;
    const even = this.#even;
    const odd = this.#odd;
    const total = this.#total;
    let n = 0;
    for (let i = 0; i < total.length; i++) {
      const c = even[i]! + odd[i]!;
      total[i]! += c;
      n += c;
    }
    this.#finite += n;
    even.fill(0);
    odd.fill(0);
  }
}

/**
 * Counts groups of four from `i` on; returns the index of the first group that holds an element outside [lo, hi] (NaN is outside), or
 * `end`. `x * inv` is exact in double, so floor gives the true bin. (u | -u) >> 31 is 0 for a zero of either sign and all ones
 * otherwise, u being the bits without the sign.
 */
function countFours(
  x: Float32Array,
  bits: Int32Array,
  i: number,
  end: number,
  even: Uint32Array,
  odd: Uint32Array,
  inv: number,
  offset: number,
  lo: number,
  hi: number,
): number {
  for (; i < end; i += 4) {
    const a = x[i]!;
    const b = x[i + 1]!;
    const c = x[i + 2]!;
    const d = x[i + 3]!;
    if (!(a >= lo && a <= hi && b >= lo && b <= hi && c >= lo && c <= hi && d >= lo && d <= hi)) return i;
    const p = bits[i]! << 1;
    const q = bits[i + 1]! << 1;
    const r = bits[i + 2]! << 1;
    const s = bits[i + 3]! << 1;
    even[((Math.floor(a * inv) | 0) + offset) & ((p | -p) >> 31)]!++;
    odd[((Math.floor(b * inv) | 0) + offset) & ((q | -q) >> 31)]!++;
    even[((Math.floor(c * inv) | 0) + offset) & ((r | -r) >> 31)]!++;
    odd[((Math.floor(d * inv) | 0) + offset) & ((s | -s) >> 31)]!++;
  }
  return end;
}
