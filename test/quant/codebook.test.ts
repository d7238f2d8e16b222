import { expect, test } from "vitest";
import { CODEBOOKS, toCodebook } from "../../src/quant/codebook.ts";
import { decode, encode } from "../../src/quant/encode.ts";
import { numbers } from "../prepare/build.ts";

test.each(["nf4", "fp4"] as const)("%s: a code is the nearest of the 16 values; each value is its own code, but for -0", (dtype) => {
  const table = CODEBOOKS[dtype];
  const next = numbers(5);
  for (let i = 0; i < 2000; i++) {
    const x = next();
    const least = Math.min(...Array.from(table, (v) => Math.abs(v - x)));
    expect(Math.abs(table[toCodebook(x, dtype)]! - x)).toBeCloseTo(least, 12);
  }
  for (const [c, v] of table.entries()) expect(toCodebook(v, dtype)).toBe(Object.is(v, -0) ? 0 : c);
});

test("both reach -1 and 1 and hold 0, so that the largest magnitude of a block is exact", () => {
  for (const table of Object.values(CODEBOOKS)) for (const x of [-1, 0, 1]) expect(table.includes(x)).toBe(true);
});

test("blocks are coded by their own largest magnitude", () => {
  const x = Float32Array.from([0.5, -0.25, 0, 0.5, 8, -8, 4, 2]);
  const p = { dtype: "nf4", narrow: false, granularity: { kind: "block", axis: 0, size: 4 }, scale: [0.5, 8], zeroPoint: [0] } as const;
  const codes = encode(x, [8], p);
  expect([...codes.slice(0, 4), codes[4], codes[5]]).toEqual([15, 2, 7, 15, 15, 0]);
  expect([...decode(codes, [8], p)].map((v) => Math.fround(v))).toEqual(
    Array.from(codes, (c, i) => Math.fround(CODEBOOKS.nf4[c]! * (i < 4 ? 0.5 : 8))),
  );
});
