import fc from "fast-check";
import { expect, test } from "vitest";
import type { Metric, Sample } from "../../src/data/types.ts";
import type { Tensor } from "../../src/runtime/types.ts";
import { flipInterval, mcnemar, meanOf, PairedMetric, quantileOf, wilson } from "../../src/verify/statistics.ts";

const tensor = (...x: number[]): Tensor => ({ dtype: "float32", dims: [1, x.length], data: Float32Array.from(x) });
const sample = (id: number, label: number): Sample => ({ id: String(id), feeds: {}, label });

/** Right or wrong per sample, as a rate in percent. */
const top1: Metric = {
  name: "top1",
  unit: "%",
  better: "higher",
  start() {
    const hits: number[] = [];
    return {
      add(o, s) {
        const d = o["y"]!.data as Float32Array;
        hits.push(d.indexOf(Math.max(...d)) === s.label ? 1 : 0);
      },
      result: () => ({ value: 100 * meanOf(hits).mean, n: hits.length, perSample: hits }),
    };
  },
};

/** A ratio of sums: no mean of per-sample values. */
const ratio: Metric = {
  name: "ratio",
  unit: "",
  better: "lower",
  start() {
    let a = 0;
    let b = 0;
    let n = 0;
    return {
      add(o) {
        a += (o["y"]!.data as Float32Array)[0]!;
        b += (o["y"]!.data as Float32Array)[1]!;
        n++;
      },
      result: () => ({ value: a / b, n, perSample: undefined }),
    };
  },
};

test("wilson: 8 of 10 is 0.4902 to 0.9433 (Brown, Cai, DasGupta 2001), and never leaves [0, 1]", () => {
  const [lo, hi] = wilson(8, 10);
  expect(lo).toBeCloseTo(0.4902, 4);
  expect(hi).toBeCloseTo(0.9433, 4);
  expect(wilson(0, 5)[0]).toBe(0);
  expect(wilson(5, 5)[1]).toBe(1);
});

test("mcnemar: 2 lost against 10 won has exact p 0.0386", () => {
  // 2 · (1 + 12 + 66) / 4096
  expect(mcnemar(2, 10)).toBeCloseTo((2 * 79) / 4096, 12);
  expect(mcnemar(0, 0)).toBe(1);
  expect(mcnemar(3, 3)).toBe(1);
});

test("no flip among few samples leaves a wide interval; many samples narrow it", () => {
  const [lo, hi] = flipInterval(0, 0, 64);
  expect(lo).toBeCloseTo(-1.96 / 66, 4);
  expect(hi).toBe(-lo);
  // 20 lost and 5 won of 1000: −1.5 points, ± 1.96·sqrt(26 − 225/1002)/1002
  const [a, b] = flipInterval(20, 5, 1000);
  expect((a + b) / 2).toBeCloseTo(-15 / 1002, 9);
  expect(b - a).toBeCloseTo((2 * 1.959964 * Math.sqrt(26 - 225 / 1002)) / 1002, 6);
});

test("mcnemar is symmetric and stays a probability, for thousands of flips too", () => {
  fc.assert(
    fc.property(fc.nat(3000), fc.nat(3000), (a, b) => {
      const p = mcnemar(a, b);
      expect(p).toBe(mcnemar(b, a));
      expect(p).toBeGreaterThanOrEqual(0);
      expect(p).toBeLessThanOrEqual(1);
    }),
    { seed: 1, numRuns: 100 },
  );
});

test("quantiles of infinities are no NaN", () => {
  expect(quantileOf([1, 2, 3, 4], 0.5)).toBe(2.5);
  expect(quantileOf([5, Infinity, Infinity], 0.75)).toBe(Infinity);
  expect(quantileOf([7], 0.9)).toBe(7);
});

test("a rate is compared sample by sample: flips both ways, error of the difference, interval of each side", () => {
  const m = new PairedMetric(top1, 6);
  // label 0: right is [1, 0]
  const pairs = [
    [1, 1],
    [1, 0],
    [0, 1],
    [1, 0],
    [0, 0],
    [1, 1],
  ] as const;
  for (const [i, [f, q]] of pairs.entries()) m.add({ y: tensor(f, 0.5) }, { y: tensor(q, 0.5) }, sample(i, 0));
  const r = m.result();
  expect(r).toMatchObject({ n: 6, flips: { lost: 2, won: 1, p: 1 } });
  expect(r.difference.from).toBe("paired");
  expect(r.difference.value).toBeCloseTo(-100 / 6, 9);
  // differences 0 −1 1 −1 0 0 in points of 100: sd = 75.28
  expect(r.difference.se).toBeCloseTo((100 * Math.sqrt((3 - 1 / 6) / 5)) / Math.sqrt(6), 6);
  const [lo, hi] = wilson(4, 6);
  expect(r.float.interval![0]).toBeCloseTo(100 * lo, 9);
  expect(r.float.interval![1]).toBeCloseTo(100 * hi, 9);
});

test("a metric that is no mean gets a jackknife error near the true one", () => {
  // value = Σa/Σb with b constant: the mean of a, whose error is known.
  const n = 400;
  const m = new PairedMetric(ratio, n);
  const d: number[] = [];
  let state = 12345;
  for (let i = 0; i < n; i++) {
    state = (state * 1103515245 + 12345) % 2147483648;
    const e = state / 2147483648;
    d.push(e);
    m.add({ y: tensor(1, 1) }, { y: tensor(1 + e, 1) }, sample(i, 0));
  }
  const r = m.result();
  const { mean, se } = meanOf(d);
  expect(r.difference.from).toBe("jackknife");
  expect(r.difference.value).toBeCloseTo(mean, 5);
  // 20 groups know their spread to 1/sqrt(2·19) = 16 %; three of those.
  expect(Math.abs(r.difference.se / se - 1)).toBeLessThan(0.5);
  expect(r.flips).toBeUndefined();
});

test("one sample has a value and no finite error", () => {
  const m = new PairedMetric(top1, 1);
  m.add({ y: tensor(1, 0) }, { y: tensor(1, 0) }, sample(0, 0));
  expect(m.result()).toMatchObject({ n: 1, difference: { value: 0, se: Infinity } });
});
