import { expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { sqnrDb } from "../../src/quant/sqnr.ts";
import type { Tensor } from "../../src/runtime/types.ts";
import { judge } from "../../src/verify/index.ts";
import { OutputSums } from "../../src/verify/sums.ts";
import type { LevelReport, OutputError } from "../../src/verify/types.ts";

const f32 = (x: readonly number[], dims: readonly number[] = [1, x.length]): Tensor => ({
  dtype: "float32",
  dims,
  data: Float32Array.from(x),
});

test("SQNR is over all elements of all samples; the worst and the middle sample are named", () => {
  const s = new OutputSums("y", false);
  const x = [
    [1, 2, 3],
    [10, 20, 30],
    [1, 1, 1],
  ];
  const y = [
    [1, 2, 3.5],
    [10, 20, 30],
    [1, 1, 2],
  ];
  for (const [i, row] of x.entries()) s.add(f32(row), f32(y[i]!), `s${i}`);
  const r = s.result();
  expect(r.sqnrDb).toBeCloseTo(sqnrDb(x.flat(), y.flat()), 9);
  expect(r.worst).toEqual({ sample: "s2", sqnrDb: sqnrDb(x[2]!, y[2]!) });
  expect(r.medianSqnrDb).toBeCloseTo(sqnrDb(x[0]!, y[0]!), 6);
  expect(r).toMatchObject({ n: 3, maxAbsError: 1, nonFinite: 0 });
  const dot = x.flat().reduce((t, v, i) => t + v * y.flat()[i]!, 0);
  const norm = (a: number[]) => Math.hypot(...a);
  expect(r.cosine).toBeCloseTo(dot / norm(x.flat()) / norm(y.flat()), 12);
});

test("elements that are not finite are left out and counted, on the side that has them", () => {
  const s = new OutputSums("y", false);
  s.add(f32([1, Number.NaN, 2, 3]), f32([1, 5, Infinity, 3]), "a");
  expect(s.result()).toMatchObject({ sqnrDb: Infinity, nonFinite: 2 });
  expect(s.nonFinite).toEqual({ float: 1, quantized: 1, sample: "a" });
});

test("agreement counts rows whose largest element stays in place", () => {
  const s = new OutputSums("y", true);
  s.add(f32([1, 2, 3, 9, 0, 0], [2, 3]), f32([1, 3, 2, 9, 1, 1], [2, 3]), "a");
  expect(s.result().agreement).toEqual({ rate: 0.5, rows: 2 });
});

test("integers are equal or not; float16 is read as numbers", () => {
  const s = new OutputSums("n", false);
  const i64 = (x: readonly bigint[]): Tensor => ({ dtype: "int64", dims: [x.length], data: BigInt64Array.from(x) });
  s.add(i64([1n, 2n]), i64([1n, 2n]), "a");
  s.add(i64([1n, 2n]), i64([1n, 3n]), "b");
  expect(s.result()).toMatchObject({ agreement: { rate: 0.75, rows: 4 }, worst: { sample: "b" } });
  const h = new OutputSums("h", false);
  const f16 = (...bits: number[]): Tensor => ({ dtype: "float16", dims: [bits.length], data: Uint16Array.from(bits) });
  h.add(f16(0x3c00, 0xc000), f16(0x3c00, 0xc100), "a"); // 1, −2 against 1, −2.5
  expect(h.result().sqnrDb).toBeCloseTo(10 * Math.log10(5 / 0.25), 9);
});

test("another shape is an error that names the output and the sample", () => {
  const s = new OutputSums("y", false);
  expect(() => s.add(f32([1, 2], [2, 1]), f32([1, 2], [1, 2]), "img7")).toThrow(QcError);
  expect(() => s.add(f32([1, 2], [2, 1]), f32([1, 2], [1, 2]), "img7")).toThrow(/"y".*\[2,1\].*\[1,2\].*img7/);
});

const level = (name: LevelReport["level"], sqnr: number): LevelReport => ({
  level: name,
  outputs: [
    {
      name: "y",
      shape: [1],
      n: 4,
      sqnrDb: sqnr,
      medianSqnrDb: sqnr,
      worst: { sample: "a", sqnrDb: sqnr },
      cosine: 1,
      maxAbsError: 0,
      nonFinite: 0,
    } satisfies OutputError,
  ],
});

test.each([
  [32, 32.4, "ok", []],
  [32, 0.5, "suspect", ["check/optimizer-breaks"]],
  [60, 52, "ok", []], // 8 dB between two clean results is rounding
  [2, 2, "suspect", ["check/output-lost"]],
] as const)("%d dB at disabled, %d dB deployed: %s", (reference, deployed, verdict, codes) => {
  const said: string[] = [];
  const r = judge([level("disabled", reference), level("all", deployed)], (d) => said.push(d.code));
  expect(r.verdict).toBe(verdict);
  expect(said).toEqual(codes);
});
