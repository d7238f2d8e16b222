import { expect, test } from "vitest";
import type { Choice } from "../../src/mixed/build.ts";
import { Surrogate } from "../../src/mixed/surrogate.ts";
import { parseScheme } from "../../src/plan/schemes.ts";

const SCHEMES = ["w4a8", "w8a8"].map((s) => parseScheme(s)!);
const UNITS = Array.from({ length: 12 }, (_, i) => `u${i}`);
/** Unit i at 4 bits adds (i + 1) / 100 alone; together each adds what `factor` makes of it. */
const alone = (i: number) => (i + 1) / 100;
const rows = UNITS.flatMap((unit, i) =>
  SCHEMES.map((s) => {
    const added = s.name === "w4a8" ? alone(i) : 0;
    return { unit, op: "Conv", scheme: s.name, bytes: 1, weights: 1, loss: 0.01 + added, added };
  }),
);
/** Bit i of the number: unit i at 4 bits. */
const choice = (bits: number): Choice => new Map(UNITS.map((u, i) => [u, SCHEMES[(bits >> i) & 1 ? 0 : 1]!]));
const truth = (bits: number, factor: (i: number) => number) =>
  UNITS.reduce((sum, _, i) => ((bits >> i) & 1 ? sum + alone(i) * factor(i) : sum), 0.01);

test("before anything is run the prediction is the sum of single changes", () => {
  const s = new Surrogate({ start: 0.01, rows });
  expect(s.predict(choice(0b101))).toBeCloseTo(0.01 + alone(0) + alone(2), 12);
  expect(s.bound(1)("u3", "w4a8")).toBeLessThan(s.added("u3", "w4a8"));
  expect(s.bound(1)("u3", "w8a8")).toBe(0);
});

test("what all changes have in common is learned from few runs", () => {
  const s = new Surrogate({ start: 0.01, rows });
  for (const bits of [0xfff, 0x0ff, 0xf0f])
    s.learn(
      choice(bits),
      truth(bits, () => 1.5),
    );
  const unseen = 0b101010101010;
  expect(s.predict(choice(unseen)) / truth(unseen, () => 1.5)).toBeCloseTo(1, 1);
  expect(s.predict(choice(0xfff)) / truth(0xfff, () => 1.5)).toBeCloseTo(1, 1);
});

test("a unit that is worse in company is found out, and a run is trusted where it was made", () => {
  const factor = (i: number) => (i === 5 ? 3 : 1);
  const s = new Surrogate({ start: 0.01, rows });
  for (const bits of [0xfff, 0xfdf, 0x0f0, 0x0d0, 0x333, 0x313]) s.learn(choice(bits), truth(bits, factor));
  expect(s.added("u5", "w4a8") / alone(5)).toBeGreaterThan(1.5);
  for (const i of [0, 1, 2, 9]) expect(s.added(`u${i}`, "w4a8") / alone(i)).toBeLessThan(1.5);
  expect(s.lossOf(choice(0x333))).toBe(truth(0x333, factor));
  expect(s.lossOf(choice(0x334))).toBeUndefined();
});

test("the order of runs does not matter, nor does a run made twice", () => {
  const runs = [0xfff, 0x00f, 0x3c3, 0x555].map((b) => [choice(b), truth(b, (i) => 1 + (i % 3) / 2)] as const);
  const [a, b] = [new Surrogate({ start: 0.01, rows }), new Surrogate({ start: 0.01, rows })];
  for (const [c, l] of runs) a.learn(c, l);
  for (const [c, l] of [...runs, runs[0]!].reverse()) b.learn(c, l);
  for (const u of UNITS) expect(b.added(u, "w4a8")).toBeCloseTo(a.added(u, "w4a8"), 9);
  expect(a.seen.length).toBe(4);
  expect(b.seen.length).toBe(4);
});
