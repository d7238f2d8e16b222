import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BINS, binOf, foldMagnitude, gridOf } from "../../src/calibrate/histogram.ts";
import { mergeValueStats } from "../../src/calibrate/merge.ts";
import { Observer } from "../../src/calibrate/observer.ts";
import type { ValueStats } from "../../src/calibrate/types.ts";

const f32 = (o: { nan?: boolean; wide?: boolean } = {}) =>
  fc.oneof(
    { weight: 4, arbitrary: fc.float({ min: -8, max: 8, noNaN: true }) },
    { weight: 2, arbitrary: fc.constantFrom(0, -0) },
    { weight: o.wide === false ? 0 : 1, arbitrary: fc.float({ noNaN: true, noDefaultInfinity: true }) },
    { weight: o.nan ? 1 : 0, arbitrary: fc.constantFrom(Number.NaN, Infinity, -Infinity) },
  );

function observe(pieces: readonly ArrayLike<number>[], histogram = true): ValueStats {
  const o = new Observer("v", histogram);
  for (const p of pieces) o.add(Float32Array.from(p));
  return o.result();
}

/** The definition, element by element. */
function naive(x: readonly number[]): Omit<ValueStats, "runs" | "name"> {
  const finite = x.map(Math.fround).filter(Number.isFinite);
  let min = Infinity;
  let max = -Infinity;
  for (const v of finite) {
    min = Math.min(min, v) + 0;
    max = Math.max(max, v) + 0;
  }
  const rest = {
    count: finite.length,
    zeros: finite.filter((v) => v === 0).length,
    nan: x.filter(Number.isNaN).length,
    inf: x.filter((v) => Math.abs(v) === Infinity).length,
    min,
    max,
  };
  if (finite.length === 0) return { ...rest, hist: undefined };
  let exp = -149;
  while (Math.max(Math.abs(min), Math.abs(max)) * 2 ** -exp >= 2 ** 30) exp++;
  while (Math.floor(max * 2 ** -exp) - Math.floor(min * 2 ** -exp) + 1 > 4096) exp++;
  const first = Math.floor(min * 2 ** -exp) + 0;
  const counts = new Float64Array(Math.floor(max * 2 ** -exp) - first + 1);
  for (const v of finite) if (v !== 0) counts[Math.floor(v * 2 ** -exp) - first]!++;
  return { ...rest, hist: { exp, first, counts } };
}

const without = ({ runs: _r, name: _n, ...rest }: ValueStats) => rest;

/** Splits x at random places and shuffles the pieces. */
const split = fc.array(f32({ nan: true }), { minLength: 1, maxLength: 60 }).chain((x) =>
  fc.record({
    x: fc.constant(x),
    order: fc.shuffledSubarray(
      x.map((_, i) => i),
      { minLength: x.length, maxLength: x.length },
    ),
    cuts: fc.array(fc.nat(x.length), { maxLength: 6 }),
  }),
);

describe("observer", () => {
  test("equals the definition, whatever the order and the pieces", () => {
    fc.assert(
      fc.property(split, ({ x, order, cuts }) => {
        const shuffled = order.map((i) => x[i]!);
        const at = [0, ...cuts.sort((a, b) => a - b), x.length];
        const pieces = at.slice(1).map((end, i) => shuffled.slice(at[i]!, end));
        expect(without(observe(pieces))).toEqual(naive(x));
      }),
      { seed: 1, numRuns: 80 },
    );
  });

  test("shards merged in any order equal one", () => {
    fc.assert(
      fc.property(split, fc.integer({ min: 1, max: 7 }), fc.boolean(), ({ x, order }, shards, backward) => {
        const parts = Array.from({ length: shards }, (_, s) => observe([order.filter((_, i) => i % shards === s).map((i) => x[i]!)]));
        if (backward) parts.reverse();
        const left = parts.reduce(mergeValueStats);
        const right = parts.reduceRight((b, a) => mergeValueStats(a, b));
        expect(without(left)).toEqual(naive(x));
        expect(right).toEqual(left);
      }),
      { seed: 2, numRuns: 80 },
    );
  });

  test("float64 elements give what float32 ones give", () => {
    const x = Float32Array.from({ length: 999 }, (_, i) => Math.sin(i) * i);
    const a = new Observer("v");
    a.add(x);
    const b = new Observer("v");
    b.add(Float64Array.from(x));
    expect(b.result()).toEqual(a.result());
  });

  test("range only", () => {
    fc.assert(
      fc.property(fc.array(f32({ nan: true }), { maxLength: 40 }), (x) => {
        const { zeros: _z, hist: _h, ...want } = naive(x);
        const { zeros, hist, ...got } = without(observe([x], false));
        expect(got).toEqual(want);
        expect([zeros, hist]).toEqual([0, undefined]);
      }),
      { seed: 3, numRuns: 200 },
    );
  });

  test("a slowly growing range, zeros of both signs, tail lengths 0 to 3", () => {
    for (let n = 9996; n < 10000; n++) {
      const x = Array.from({ length: n }, (_, i) => (i % 3 === 0 ? (i % 2 ? 0 : -0) : i * 0.37 - 100));
      expect(without(observe([x]))).toEqual(naive(x));
    }
  });
});

describe("grid", () => {
  test("2049 to 4096 bins over the range, or as many as there are floats", () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), fc.float({ noNaN: true, noDefaultInfinity: true }), (a, b) => {
        const [min, max] = [Math.min(a, b), Math.max(a, b)];
        const g = gridOf(min, max);
        expect(g.length).toBeLessThanOrEqual(BINS);
        const capped = g.exp === -149 || Math.max(Math.abs(min), Math.abs(max)) * 2 ** -(g.exp - 1) >= 2 ** 30;
        if (!capped) expect(g.length).toBeGreaterThan(BINS / 2);
        expect(g.first).toBe(binOf(min, g.exp));
      }),
      { seed: 4, numRuns: 2000 },
    );
  });
  test("largest and smallest floats", () => {
    const big = 3.4028234663852886e38;
    expect(gridOf(-big, big)).toEqual({ exp: 117, first: -2048, length: 4096 });
    expect(gridOf(0, 0)).toEqual({ exp: -149, first: 0, length: 1 });
    expect(gridOf(0, 2 ** -149)).toEqual({ exp: -149, first: 0, length: 2 });
  });
  test("magnitudes fold bin -1 - i onto bin i", () => {
    expect([...foldMagnitude({ exp: 0, first: -3, counts: Float64Array.of(1, 2, 4, 8, 16) })]).toEqual([12, 18, 1]);
    expect([...foldMagnitude({ exp: 0, first: 2, counts: Float64Array.of(5, 7) })]).toEqual([0, 0, 5, 7]);
    expect([...foldMagnitude({ exp: 0, first: -4, counts: Float64Array.of(5, 7) })]).toEqual([0, 0, 7, 5]);
  });
});
