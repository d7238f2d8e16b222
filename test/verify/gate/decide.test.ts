import { expect, test } from "vitest";
import { Random } from "../../../src/data/random.ts";
import { decide, metricChange, normalQuantile, pairedRatio, rateUpper, unpairedRatio, worseTail } from "../../../src/verify/gate/decide.ts";
import { compareRuns } from "../../../src/verify/statistics.ts";

const LIMITS = { most: 0.03, harmless: 0, harmful: 0.06, alpha: 0.05 };
const top1 = { name: "top1", unit: "%", better: "higher" } as const;

/** A candidate that loses `lose` of what was right and gains `win` of what was wrong, on n samples of a model that is right in 90 %. */
function outcome(r: Random, n: number, lose: number, win: number) {
  const x = Array.from({ length: n }, () => (r.float() < 0.9 ? 1 : 0));
  const y = x.map((v) => (v === 1 ? (r.float() < lose ? 0 : 1) : r.float() < win ? 1 : 0));
  const run = (v: number[]) => ({ value: (100 * v.reduce((s, t) => s + t, 0)) / n, n, perSample: v });
  const m = compareRuns(top1, run(x), run(y));
  const p = metricChange(m, 0.05);
  const s = m.float.value;
  return decide({ change: p.change / s, low: p.low / s, high: p.high / s }, LIMITS, n);
}
function share(times: number, one: () => boolean): number {
  let hits = 0;
  for (let i = 0; i < times; i++) if (one()) hits++;
  return hits / times;
}

// 2000 draws: a rate of 5 % has a standard error of 0.5 points, so 6.5 % is three of them away.
test.each([50, 200, 1000])("noise of %i samples fails no candidate more often than alpha", (n) => {
  const r = new Random(n);
  // As many won as lost: 0.9 · 0.01 = 0.1 · 0.09.
  expect(share(2000, () => outcome(r, n, 0.01, 0.09).outcome === "fail")).toBeLessThan(0.065);
});
test.each([40, 50, 200, 1000])("twice the limit passes %i samples no more often than alpha", (n) => {
  const r = new Random(n + 1);
  expect(share(2000, () => outcome(r, n, 0.06, 0).outcome === "pass")).toBeLessThan(0.065);
});
test("with enough samples twice the limit fails, and no change passes", () => {
  const r = new Random(3);
  expect(share(500, () => outcome(r, 1500, 0.065, 0.04).outcome === "fail")).toBeGreaterThan(0.95);
  expect(share(500, () => outcome(r, 1500, 0.005, 0.045).outcome === "pass")).toBeGreaterThan(0.95);
});
test("too few samples are undecided, and the number that is asked for decides", () => {
  const r = new Random(4);
  const d = outcome(r, 40, 0, 0);
  expect(d.outcome).toBe("undecided");
  const there = share(300, () => outcome(r, d.need!, 0.06, 0).outcome === "fail");
  expect(there).toBeGreaterThan(0.85);
});

test("the exact bound of no event in 50 is 1 - 0.05^(1/50), of 2 in 20 it is 0.2826 (Clopper & Pearson 1934)", () => {
  expect(rateUpper(0, 50, 0.05)).toBeCloseTo(1 - 0.05 ** (1 / 50), 10);
  expect(rateUpper(2, 20, 0.05)).toBeCloseTo(0.2826, 4);
});
test("worseTail is the binomial tail, and the quantile is the normal distribution's", () => {
  // P(X >= 10), X ~ B(12, 1/2) = (66 + 12 + 1) / 4096
  expect(worseTail(10, 2)).toBeCloseTo(79 / 4096, 12);
  expect(worseTail(0, 0)).toBe(1);
  expect(normalQuantile(0.975)).toBeCloseTo(1.959963984540054, 8);
  expect(normalQuantile(0.001)).toBeCloseTo(-3.090232306167813, 8);
});

/** Times with heavy tails that both sides of a round share. */
function rounds(r: Random, n: number, slower: number): [number[], number[]] {
  const a: number[] = [];
  const b: number[] = [];
  for (let i = 0; i < n; i++) {
    const load = 1 + (r.float() < 0.2 ? 3 * r.float() : 0);
    const jitter = () => 1 + 0.1 * (r.float() + r.float() + r.float() - 1.5) + (r.float() < 0.05 ? 2 : 0);
    a.push(load * jitter());
    b.push(slower * load * jitter());
  }
  return [a, b];
}
test("equal models: the lower bound of the ratio is above 1 in alpha of the cases at most; the gate fails fewer", () => {
  const r = new Random(5);
  expect(share(1000, () => pairedRatio(...rounds(r, 60, 1), 0.05).low > 1)).toBeLessThan(0.075);
  expect(share(1000, () => unpairedRatio(...rounds(r, 60, 1), 0.05).low > 1)).toBeLessThan(0.075);
});
test("a model that is a tenth slower is seen in 60 rounds, whatever else the machine does", () => {
  const r = new Random(6);
  const limits = { most: 0.05, harmless: 0, harmful: 0.1, alpha: 0.05 };
  const seen = share(300, () => {
    const x = pairedRatio(...rounds(r, 60, 1.12), 0.05);
    return decide({ change: x.ratio - 1, low: x.low - 1, high: x.high - 1 }, limits, 60).outcome === "fail";
  });
  expect(seen).toBeGreaterThan(0.95);
});
test("three rounds know no bounds", () => {
  const x = pairedRatio([1, 1, 1], [2, 2, 2], 0.05);
  expect(x).toMatchObject({ low: 0, high: Infinity });
  expect(x.ratio).toBeCloseTo(2, 12);
});
