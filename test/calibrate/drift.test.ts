import { expect, test } from "vitest";
import { driftOf } from "../../src/calibrate/drift.ts";
import type { Stats, ValueStats } from "../../src/calibrate/types.ts";

/** `counts` in bins of width 2^exp from `first` on. */
const value = (name: string, exp: number, first: number, counts: readonly number[], zeros = 0): ValueStats => ({
  name,
  count: counts.reduce((a, b) => a + b, 0) + zeros,
  zeros,
  nan: 0,
  inf: 0,
  min: first * 2 ** exp,
  max: (first + counts.length) * 2 ** exp,
  hist: { exp, first, counts: Float64Array.from(counts) },
  runs: 1,
});
const stats = (...v: ValueStats[]): Stats => ({
  schema: "qc.stats/1",
  model: { structure: "", weights: "" },
  prepare: "",
  samples: 1,
  sampleKeys: [],
  values: new Map(v.map((x) => [x.name, x])),
});

test("the same numbers in finer bins have not moved", () => {
  const d = driftOf(stats(value("a", 0, 0, [10, 30])), stats(value("a", -1, 0, [5, 5, 10, 20])));
  expect(d[0]).toMatchObject({ value: "a", distance: 0, outside: 0, covered: 1 });
});
test("half of the elements one bin further is a distance of one half, and they lie outside", () => {
  const d = driftOf(stats(value("a", 0, 0, [100])), stats(value("a", 0, 0, [50, 50])));
  expect(d[0]).toMatchObject({ distance: 0.5, outside: 0.5, covered: 1 });
});
test("zeros count where they are, and a subset that reaches half of the range covers half", () => {
  expect(driftOf(stats(value("a", 0, 0, [50], 50)), stats(value("a", 0, 0, [100])))[0]!.distance).toBeCloseTo(0.5, 12);
  expect(driftOf(stats(value("a", 0, -2, [1, 1, 1, 1])), stats(value("a", 0, -1, [1, 1])))[0]!.covered).toBe(0.5);
});
test("the value that moved most comes first", () => {
  const a = stats(value("x", 0, 0, [10, 10]), value("y", 0, 0, [10, 10]));
  const b = stats(value("x", 0, 0, [11, 9]), value("y", 0, 0, [20, 0]));
  expect(driftOf(a, b).map((d) => d.value)).toEqual(["y", "x"]);
});
