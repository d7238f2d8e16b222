import { expect, test } from "vitest";
import { Belief } from "../../src/mixed/belief.ts";
import { LossSum } from "../../src/mixed/loss.ts";
import { rankCorrelation } from "../../src/mixed/rank.ts";
import { parsePin, parseScheme } from "../../src/plan/schemes.ts";

const tensor = (data: number[], dims: number[]) => ({ dtype: "float32" as const, dims, data: Float32Array.from(data) });

test("rank correlation: order alone counts, ties share a rank", () => {
  expect(rankCorrelation([1, 2, 3, 4], [10, 100, 1000, 10000])).toBe(1);
  expect(rankCorrelation([1, 2, 3, 4], [4, 3, 2, 1])).toBe(-1);
  expect(rankCorrelation([1, 1, 2], [1, 2, 3])).toBeCloseTo(0.866, 3);
  expect(rankCorrelation([1, 1], [1, 2])).toBeUndefined();
});

test("losses: noise over signal over all samples, mean over outputs; divergence of the softmax", () => {
  const nmse = new LossSum("nmse", 2);
  nmse.add([tensor([3, 4], [1, 2]), tensor([1], [1])], [tensor([3, 3], [1, 2]), tensor([1], [1])]);
  nmse.add([tensor([0, 0], [1, 2]), tensor([1], [1])], [tensor([0, 1], [1, 2]), tensor([2], [1])]);
  expect(nmse.value).toBeCloseTo((2 / 25 + 1 / 2) / 2, 12);
  const kl = new LossSum("kl", 1);
  // A shift of all logits changes no softmax.
  kl.add([tensor([1, 2, 3], [1, 3])], [tensor([6, 7, 8], [1, 3])]);
  expect(kl.value).toBeCloseTo(0, 6);
  const two = new LossSum("kl", 1);
  two.add([tensor([0, 0], [1, 2])], [tensor([Math.log(3), 0], [1, 2])]);
  expect(two.value).toBeCloseTo(0.5 * Math.log(0.5 / 0.75) + 0.5 * Math.log(0.5 / 0.25), 6);
});

test("schemes as they are written", () => {
  expect(parseScheme("w8a8")).toMatchObject({
    name: "w8a8",
    weight: { dtype: "int8", per: "channel", symmetric: true },
    activations: "recipe",
    activationBits: 8,
  });
  expect(parseScheme("w4b64")).toMatchObject({
    name: "w4b64",
    weight: { dtype: "int4", per: "block", blockSize: 64, symmetric: false },
    activations: "none",
  });
  expect(parseScheme("float")?.weight).toBeUndefined();
  for (const bad of ["w5a8", "w4a5", "a8", "w4b0", ""]) expect(parseScheme(bad)).toBeUndefined();
  expect(parsePin("a=b.*=w8a8")).toMatchObject({ pattern: "a=b.*", scheme: { name: "w8a8" } });
  expect(() => parsePin("head.*")).toThrow(/--scheme|PATTERN=SCHEME/);
  expect(() => parsePin("head.*=w9")).toThrow(/w9/);
});

test("what a change of decisions should cost: errors of some samples, put on the decisions of all", () => {
  const ln = Math.log;
  const b = new Belief();
  // Logits ±1 of equal size; the first is sure of class 0 by p = 1 / (1 + e^-2).
  b.addFloat(tensor([1, -1], [1, 2]));
  b.addFloat(tensor([-1, 1], [1, 2]));
  b.addError(tensor([1, -1], [1, 2]), tensor([1, -1], [1, 2]));
  expect(b.drop).toMatchObject({ pt: 0, percent: 0, high: { pt: 0 } });
  // An error of (−1.5, +1.5) turns the first decision alone: one of two rows, for one of two errors.
  b.addError(tensor([1, -1], [1, 2]), tensor([-0.5, 0.5], [1, 2]));
  const p = 1 / (1 + Math.exp(-2));
  expect(b.drop!.pt).toBeCloseTo((100 * (2 * p - 1)) / 4, 6);
  expect(b.drop!.percent).toBeCloseTo((100 * (2 * p - 1)) / 4 / p, 6);
  expect(b.drop!.high.pt).toBeGreaterThan(b.drop!.pt);
  // Probabilities are logits after the logarithm: 3/4 and 1/4 are ± ln 3 / 2.
  const probable = new Belief();
  probable.addFloat(tensor([0.75, 0.25], [1, 2]));
  probable.addError(tensor([ln(3) / 2, -ln(3) / 2], [1, 2]), tensor([-1, 1], [1, 2]));
  expect(probable.drop!.pt).toBeCloseTo(50, 4);
  expect(new Belief().drop).toBeUndefined();
});

test("labels say how far the float network may be believed", () => {
  const sure = (labels: readonly number[]) => {
    const b = new Belief();
    for (const l of labels) b.addFloat(tensor([1, -1], [1, 2]), l);
    b.addError(tensor([1, -1], [1, 2]), tensor([-1, 1], [1, 2]));
    return b.drop!.pt;
  };
  // Right in 3 of 4: 0.75 − 0.25 of every decision is lost (temperatures are a grid); right in 1 of 2: next to nothing.
  expect(sure([0, 0, 0, 1])).toBeGreaterThan(45);
  expect(sure([0, 0, 0, 1])).toBeLessThan(55);
  expect(sure([0, 1])).toBeLessThan(30);
});
