import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { mxfp8Exponent, nvfp4BlockScale, nvfp4TensorScale } from "../../src/quant/blockfloat.ts";
import { decode, encode } from "../../src/quant/encode.ts";
import { fromFloat4, toFloat4 } from "../../src/quant/float4.ts";
import { fromFloat8 } from "../../src/quant/float8.ts";

/** From the format's definition: sign, two exponent bits with bias 1, one fraction bit. */
function realOf(code: number): number {
  const [sign, e, m] = [code >> 3 ? -1 : 1, (code >> 1) & 3, code & 1];
  return sign * (e === 0 ? m / 2 : (1 + m / 2) * 2 ** (e - 1));
}
/** The nearest of all codes, the even one in the middle. */
function nearest(x: number): number {
  const codes = Array.from({ length: 8 }, (_, c) => c);
  const a = Math.min(Math.abs(x), 6);
  const best = codes.sort((p, q) => Math.abs(realOf(p) - a) - Math.abs(realOf(q) - a) || (p & 1) - (q & 1))[0]!;
  return (x < 0 || Object.is(x, -0) ? 8 : 0) + best;
}
const float = fc.float({ noNaN: true, min: -20, max: 20 });

describe("float4 e2m1", () => {
  test("all 16 codes have the value of their bits and come back", () => {
    for (let c = 0; c < 16; c++) {
      expect(fromFloat4(c)).toBe(realOf(c));
      expect(toFloat4(fromFloat4(c))).toBe(c);
    }
  });
  test("between neighbours the nearest wins, in the middle the even code, and beyond 6 the largest", () => {
    for (let c = 0; c < 7; c++) {
      const [lo, hi] = [realOf(c), realOf(c + 1)];
      const middle = (lo + hi) / 2;
      const step = 2 ** -40;
      for (const sign of [1, -1])
        expect([middle - step, middle, middle + step].map((x) => toFloat4(sign * x) & 7)).toEqual([c, c % 2 === 0 ? c : c + 1, c + 1]);
    }
    expect([7, 1e30, Number.POSITIVE_INFINITY, Number.NaN].map(toFloat4)).toEqual([7, 7, 7, 7]);
    expect(toFloat4(Number.NEGATIVE_INFINITY)).toBe(15);
  });
  test("any number goes where a search over all codes puts it", () => {
    fc.assert(
      fc.property(float, (x) => {
        expect(toFloat4(x)).toBe(nearest(x));
      }),
      { seed: 4, numRuns: 2000 },
    );
  });
});

describe("scales of blocks", () => {
  test("the e8m0 exponent is the least with 2^e >= max / 448, at powers of two and beside them", () => {
    const least = (v: number): number => {
      let e = -127;
      while (e < 127 && 2 ** e < v) e++;
      return e;
    };
    for (let e = -120; e <= 110; e++)
      for (const near of [1 - 2 ** -23, 1, 1 + 2 ** -23]) {
        const absmax = Math.fround(448 * 2 ** e * near);
        expect(mxfp8Exponent(absmax)).toBe(least(Math.fround(absmax / 448)));
      }
    expect([0, 2 ** -149, 3.4e38].map(mxfp8Exponent)).toEqual([-127, -127, 120]);
  });
  test("no element of a block saturates, and its largest uses the upper half of the range", () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, min: Math.fround(1e-20), max: Math.fround(1e20) }), (absmax) => {
        const q = absmax / 2 ** mxfp8Exponent(absmax);
        // 448 and what rounds to it in float32.
        expect(q).toBeLessThanOrEqual(448 * (1 + 2 ** -23));
        expect(q).toBeGreaterThan(224 * (1 - 2 ** -23));
      }),
      { seed: 5 },
    );
  });
  test("the two levels of NVFP4: the largest block has float8's 448, each scale is a float8 above 0", () => {
    const floats8 = new Set(Array.from({ length: 0x7f }, (_, c) => fromFloat8(c)));
    fc.assert(
      fc.property(fc.array(fc.float({ noNaN: true, min: 0, max: Math.fround(1e6) }), { minLength: 1, maxLength: 8 }), (blocks) => {
        const most = Math.max(...blocks);
        const t = nvfp4TensorScale(most);
        const scales = blocks.map((m) => nvfp4BlockScale(m, t));
        for (const s of scales) expect(s > 0 && floats8.has(s)).toBe(true);
        if (most > 1e-20) expect(Math.max(...blocks.map((m, i) => (m === most ? scales[i]! : 0)))).toBe(448);
      }),
      { seed: 6 },
    );
    expect(nvfp4TensorScale(0)).toBe(1);
    expect([0, 1e-9].map((m) => nvfp4BlockScale(m, 1))).toEqual([1, 2 ** -9]);
  });
  test("a weight coded in blocks comes back within half a step of its block", () => {
    fc.assert(
      fc.property(fc.array(fc.float({ noNaN: true, min: -3, max: 3 }), { minLength: 32, maxLength: 32 }), (list) => {
        const x = Float32Array.from(list);
        const blocks = [x.subarray(0, 16), x.subarray(16)].map((b) => Math.max(...b.map(Math.abs)));
        const t = nvfp4TensorScale(Math.max(...blocks));
        const scale = blocks.map((m) => Math.fround(nvfp4BlockScale(m, t) * t));
        const p = { dtype: "float4e2m1", narrow: false, granularity: { kind: "block", axis: 1, size: 16 }, scale, zeroPoint: [0] } as const;
        const y = decode(encode(x, [1, 32], p), [1, 32], p);
        // Steps are 2 at most; a block's scale in float8 is 2^-4 off at most, so that 6 scales may end that much below its largest.
        for (let i = 0; i < 32; i++) expect(Math.abs(y[i]! - x[i]!)).toBeLessThanOrEqual(scale[i >> 4]! * 1.001);
      }),
      { seed: 7 },
    );
  });
});
