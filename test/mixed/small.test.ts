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

test("what a change of decisions should cost, without labels", () => {
  const b = new Belief();
  // Alike: nothing. Unlike: what the float network believed more.
  b.add(tensor([0.9, 0.1], [1, 2]), tensor([0.6, 0.4], [1, 2]));
  b.add(tensor([0.6, 0.4], [1, 2]), tensor([0.4, 0.6], [1, 2]));
  expect(b.drop.pt).toBeCloseTo(10, 4);
  expect(b.drop.percent).toBeCloseTo((100 * 0.2) / 1.5, 4);
  // Losses 0 and 0.2: deviation 0.1, error 0.1 / √2, 1.645 of them on top.
  expect(b.drop.high.pt).toBeCloseTo(10 + (164.5 * 0.1) / Math.SQRT2, 4);
  expect(b.drop.high.percent / b.drop.percent).toBeCloseTo(b.drop.high.pt / b.drop.pt, 6);
  // One of two rows is decided otherwise.
  expect(b.chance).toBeCloseTo((164.5 * Math.sqrt(0.5)) / Math.SQRT2, 4);
  const logits = new Belief();
  logits.add(tensor([Math.log(3), 0], [1, 2]), tensor([0, 1], [1, 2]));
  expect(logits.drop.pt).toBeCloseTo(50, 4);
});
