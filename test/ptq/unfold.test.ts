import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { choosePositions, pickRows, placeWindow, settleRows, unfold } from "../../src/ptq/unfold.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { Builder, feedsOf, runModel } from "../prepare/build.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

describe("unfold", () => {
  test.each([
    { dims: [2, 4, 7, 6], w: [6, 4, 3, 3], attrs: { pads: [1, 0, 2, 1] }, groups: 1 },
    { dims: [1, 4, 9, 9], w: [4, 1, 3, 3], attrs: { strides: [2, 2], pads: [1, 1, 1, 1], group: 4 }, groups: 4 },
    { dims: [1, 6, 8, 8], w: [4, 3, 3, 2], attrs: { dilations: [2, 1], group: 2 }, groups: 2 },
    { dims: [1, 3, 7, 7], w: [2, 3, 3, 3], attrs: { auto_pad: "SAME_UPPER", strides: [2, 2] }, groups: 1 },
    { dims: [1, 3, 8, 7], w: [2, 3, 2, 4], attrs: { auto_pad: "SAME_LOWER" }, groups: 1 },
    { dims: [2, 3, 11], w: [4, 3, 3], attrs: { pads: [1, 1], strides: [2] }, groups: 1 },
  ])("rows times weights are the convolution: $dims $w $attrs", async ({ dims, w, attrs, groups }) => {
    const b = new Builder();
    const x = b.input("x", dims);
    const weight = b.weight("w", w);
    const model = b.output(b.node("Conv", [x, weight], attrs as Record<string, number | number[] | string>, "y"));
    const feeds = feedsOf(model, 3);
    const y = (await runModel(runtime, model, feeds))["y"]!;
    const rank = w.length - 2;
    const list = (name: string, otherwise: number) =>
      ((attrs as Record<string, unknown>)[name] as number[]) ?? new Array(rank).fill(otherwise);
    const placed = placeWindow(
      {
        channels: w[1]!,
        kernel: w.slice(2),
        strides: list("strides", 1),
        dilations: list("dilations", 1),
        pads: ((attrs as Record<string, unknown>)["pads"] as number[]) ?? new Array(2 * rank).fill(0),
        autoPad: ((attrs as Record<string, unknown>)["auto_pad"] as string) ?? "NOTSET",
      },
      dims,
      groups,
    );
    const k = w.slice(1).reduce((p, q) => p * q, 1);
    const n = placed.positions;
    expect(n).toBe((y.data.length / w[0]!) | 0);
    const into = Array.from({ length: groups }, () => new Float32Array(n * k));
    unfold(
      feeds["x"]!.data as Float32Array,
      placed,
      Int32Array.from({ length: n }, (_, i) => i),
      n,
      into,
      0,
    );
    const W = new Float32Array(weight.data!.bytes().buffer);
    const rows = w[0]! / groups;
    const per = n / dims[0]!;
    for (let p = 0; p < n; p++)
      for (let m = 0; m < w[0]!; m++) {
        let s = 0;
        const g = Math.floor(m / rows);
        for (let i = 0; i < k; i++) s += into[g]![p * k + i]! * W[m * k + i]!;
        const at = (Math.floor(p / per) * w[0]! + m) * per + (p % per);
        expect(s).toBeCloseTo(y.data[at] as number, 4);
      }
  });

  test("float16 patterns, Q/DQ and shift", () => {
    // 0x3c00 is 1, 0xbc00 is −1, 0x3800 is 0.5.
    const x = Float32Array.of(0x3c00, 0xbc00, 0, 0x3800);
    settleRows(x, 0, 2, 2, { half: 3 }, { scale: 1, lo: -2, hi: 2 }, Float32Array.of(1, -1));
    // 3 → 2 (saturated), −3 → −2, 0, 1.5 → 2 (ties to even); minus the shift.
    expect([...x]).toEqual([1, -1, -1, 3]);
    // Codes are quantized already.
    const codes = Float32Array.of(7, 3, 0, 5);
    settleRows(codes, 0, 2, 2, { codes: { scale: 0.5, zero: 3 } }, undefined, Float32Array.of(1, -1));
    expect([...codes]).toEqual([1, 1, -2.5, 2]);
  });

  test("rows of the last axis, and of the first", () => {
    const x = Float32Array.of(1, 2, 3, 4, 5, 6);
    const out = new Float32Array(4);
    pickRows(x, 2, false, Int32Array.of(2, 0), 2, out, 0);
    expect([...out]).toEqual([5, 6, 1, 2]);
    pickRows(x, 2, true, Int32Array.of(2, 0), 2, out, 0);
    expect([...out]).toEqual([3, 6, 1, 4]);
  });

  test("positions: one from each stretch, the same for the same seed and sample, others for others", () => {
    const draw = (seed: number, sample: number) => {
      const out = new Int32Array(100);
      const n = choosePositions(100, 7, seed, sample, out);
      return [...out.subarray(0, n)];
    };
    const a = draw(1, 2);
    expect(a).toEqual(draw(1, 2));
    expect(a).not.toEqual(draw(1, 3));
    expect(a).not.toEqual(draw(2, 2));
    a.forEach((p, i) => {
      expect(Math.floor((p * 7) / 100)).toBe(i);
    });
    const all = new Int32Array(5);
    expect(choosePositions(5, 9, 0, 0, all)).toBe(5);
    expect([...all]).toEqual([0, 1, 2, 3, 4]);
  });
});
