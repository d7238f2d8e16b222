import { expect, test } from "vitest";
import { decode, encode } from "../../src/quant/encode.ts";
import { FLOAT8_MAX, fromFloat8, toFloat8 } from "../../src/quant/float8.ts";
import { numbers } from "../prepare/build.ts";

test("every code but NaN comes back as itself", () => {
  for (let code = 0; code < 256; code++) {
    const x = fromFloat8(code);
    if ((code & 0x7f) === 0x7f) expect(x).toBeNaN();
    else expect(toFloat8(x)).toBe(code);
  }
});

test("the values of the standard (ONNX float8.md): largest, smallest normal and subnormal, NaN, saturation", () => {
  expect(fromFloat8(0x7e)).toBe(FLOAT8_MAX);
  expect(fromFloat8(0x08)).toBe(2 ** -6);
  expect(fromFloat8(0x01)).toBe(2 ** -9);
  expect([1e9, 449, Number.POSITIVE_INFINITY].map(toFloat8)).toEqual([0x7e, 0x7e, 0x7e]);
  expect(toFloat8(-1e9)).toBe(0xfe);
  expect(toFloat8(Number.NaN)).toBe(0x7f);
});

test("the nearest value, ties to the even code", () => {
  const next = numbers(5);
  const values = Array.from({ length: 127 }, (_, c) => fromFloat8(c));
  for (let i = 0; i < 2000; i++) {
    const x = next() * 2 ** (next() * 10);
    const got = Math.abs(fromFloat8(toFloat8(x)) - x);
    const best = Math.min(...values.map((v) => Math.abs(v - Math.min(Math.abs(x), FLOAT8_MAX)))) + Math.max(0, Math.abs(x) - FLOAT8_MAX);
    expect(got).toBeCloseTo(best, 12);
  }
  for (let c = 0; c < 126; c++) {
    const middle = (values[c]! + values[c + 1]!) / 2;
    expect(toFloat8(middle)).toBe(c % 2 === 0 ? c : c + 1);
  }
});

test("tensors: codes of x / scale, per channel", () => {
  const p = { dtype: "float8e4m3fn", narrow: false, granularity: { kind: "channel", axis: 0 }, scale: [1, 0.5], zeroPoint: [0] } as const;
  const codes = encode(Float32Array.of(1, 2, 1, 2), [2, 2], p);
  expect([...codes]).toEqual([1, 2, 2, 4].map(toFloat8));
  expect([...decode(codes, [2, 2], p)]).toEqual([1, 2, 1, 2]);
});
