import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { MetricConfig } from "../../src/data/metrics/index.ts";
import { metricOf } from "../../src/data/metrics/index.ts";
import { bootstrapInterval, wilsonInterval } from "../../src/data/metrics/statistics.ts";
import { Random } from "../../src/data/random.ts";
import type { BoxLabel, Label, MetricResult } from "../../src/data/types.ts";
import type { Tensor } from "../../src/runtime/types.ts";
import { refused, scratch } from "./helpers.ts";

const at = scratch();
const t = (dims: readonly number[], ...data: number[]): Tensor => ({ dtype: "float32", dims, data: Float32Array.from(data) });
const row = (...data: number[]) => t([1, data.length], ...data);

interface Case {
  readonly y?: Tensor;
  readonly outputs?: Readonly<Record<string, Tensor>>;
  readonly label?: Label;
  readonly x?: Tensor;
  readonly reference?: Tensor;
}
async function score(config: MetricConfig, cases: readonly Case[]): Promise<MetricResult> {
  const s = (await metricOf(config, { folder: at.path })).start();
  cases.forEach((c, i) => {
    const sample = { id: String(i), feeds: c.x ? { x: c.x } : {}, ...(c.label === undefined ? {} : { label: c.label }) };
    s.add(c.outputs ?? { y: c.y! }, sample, c.reference && { y: c.reference });
  });
  return s.result();
}

describe("classes", () => {
  test("top1 and top5 with Wilson's interval; ties go to the lower index", async () => {
    const cases = [
      { y: row(0.1, 0.9, 0), label: 1 },
      { y: row(0.5, 0.5, 0), label: 0 },
      { y: row(0.5, 0.5, 0), label: 1 },
      { y: row(Number.NaN, 1, 0), label: 0 },
    ];
    const r = await score("top1", cases);
    expect([r.value, r.n, r.perSample]).toEqual([50, 4, [1, 1, 0, 0]]);
    expect(r.interval).toEqual(wilsonInterval(2, 4).map((v) => 100 * v));
    expect(
      (
        await score("top5", [
          { y: row(9, 8, 7, 6, 5, 4), label: 4 },
          { y: row(9, 8, 7, 6, 5, 4), label: 5 },
        ])
      ).perSample,
    ).toEqual([1, 0]);
  });
  test("one column is a threshold; several rows count as their mean", async () => {
    expect(
      (
        await score({ top1: { threshold: 0 } }, [
          { y: row(0.2), label: 1 },
          { y: row(-0.2), label: 0 },
          { y: row(-1), label: 1 },
        ])
      ).perSample,
    ).toEqual([1, 1, 0]);
    const rows = { y: t([2, 2], 1, 0, 1, 0), label: { dtype: "int64", dims: [2], data: BigInt64Array.of(0n, 1n) } as const };
    expect((await score("top1", [rows])).value).toBe(50);
  });
  test("labels that are none", async () => {
    expect((await refused(score("top1", [{ y: row(1, 0) }]))).message).toContain("no class index");
    expect((await refused(score("top1", [{ y: row(1, 0), label: "cat" }]))).message).toContain("classes:");
    expect((await refused(score({ top1: { output: "z" } }, [{ y: row(1, 0), label: 0 }]))).message).toContain('no output "z"');
  });
  test("Wilson's interval: 8 of 10 as in the literature", () => {
    expect(wilsonInterval(8, 10).map((v) => v.toFixed(4))).toEqual(["0.4902", "0.9433"]);
    expect(wilsonInterval(0, 10)[0]).toBe(0);
  });

  test("auc is the share of pairs in order, ties half", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.integer({ min: 0, max: 6 }), fc.boolean()), { minLength: 2, maxLength: 30 }), async (pairs) => {
        const ones = pairs.filter(([, y]) => y);
        const zeros = pairs.filter(([, y]) => !y);
        fc.pre(ones.length > 0 && zeros.length > 0);
        let wins = 0;
        for (const [a] of ones) for (const [b] of zeros) wins += a > b ? 1 : a === b ? 0.5 : 0;
        const r = await score(
          "auc",
          pairs.map(([s, y]) => ({ y: row(-s, s), label: y ? 1 : 0 })),
        );
        expect(r.value).toBeCloseTo((100 * wins) / (ones.length * zeros.length), 9);
      }),
      { seed: 6, numRuns: 60 },
    );
  });
  test("auc of reconstruction errors", async () => {
    const cases = [
      { x: row(0, 0), y: row(0.1, 0), label: 0 },
      { x: row(1, 1), y: row(0, 0), label: 1 },
      { x: row(1, 1), y: row(1, 1), label: 0 },
    ];
    expect((await score({ auc: { score: "reconstruction" } }, cases)).value).toBe(100);
    expect((await refused(score("auc", [{ y: row(1), label: 3 }]))).message).toContain("0 and 1 are expected");
  });
  test("f1 by hand", async () => {
    // guesses 1 1 0 1, labels 1 0 0 0: class 1: tp 1 fp 2 fn 0 → 0.5; class 0: tp 1 fp 0 fn 2 → 0.5
    const cases = [
      [0, 1, 1],
      [0, 1, 0],
      [1, 0, 0],
      [0, 1, 0],
    ].map(([a, b, label]) => ({ y: row(a!, b!), label: label! }));
    expect((await score("f1", cases)).value).toBeCloseTo(50, 12);
    expect((await score({ f1: { average: "binary" } }, cases)).value).toBeCloseTo(50, 12);
  });
  test("the bootstrap covers the mean of a normal sample about as often as it says", () => {
    const random = new Random(3);
    let covered = 0;
    for (let k = 0; k < 100; k++) {
      const x = Array.from({ length: 40 }, () => random.float() + random.float() + random.float() - 1.5);
      const [lo, hi] = bootstrapInterval(40, (w) => x.reduce((s, v, i) => s + v * w[i]!, 0) / 40)!;
      if (lo <= 0 && hi >= 0) covered++;
    }
    // 95 % nominal, a little less at n = 40; below 85 of 100 happens by chance in less than 1 of 10 000.
    expect(covered).toBeGreaterThanOrEqual(85);
    expect(covered).toBeLessThan(100);
  });
});

describe("text", () => {
  const logits = t([1, 3, 2], 0, Math.log(3), 0, 0, 5, 0);
  test("perplexity of given targets, negative ones left out", async () => {
    const r = await score("perplexity", [{ y: logits, label: { dtype: "int64", dims: [3], data: BigInt64Array.of(1n, 0n, -1n) } }]);
    // p = 3/4 and 1/2
    expect(r.value).toBeCloseTo(Math.exp(-(Math.log(0.75) + Math.log(0.5)) / 2), 6);
    expect(r.more).toMatchObject({ nextToken: 100, tokens: 2 });
  });
  test("without labels the next token of the input", async () => {
    const x: Tensor = { dtype: "int64", dims: [1, 3], data: BigInt64Array.of(0n, 0n, 1n) };
    const r = await score("perplexity", [{ y: logits, x }]);
    expect(r.value).toBeCloseTo(Math.exp(-(Math.log(0.25) + Math.log(0.5)) / 2), 6);
    expect(r.more!["nextToken"]).toBe(0);
  });
  test("tokens count alike, not samples", async () => {
    const long = { y: t([1, 4, 2], 0, 0, 0, 0, 0, 0, 0, 0), label: { dtype: "int64", dims: [4], data: new BigInt64Array(4) } as const };
    const sure = { y: t([1, 1, 2], 100, 0), label: { dtype: "int64", dims: [1], data: new BigInt64Array(1) } as const };
    expect((await score("perplexity", [long, sure])).value).toBeCloseTo(Math.exp((4 * Math.LN2) / 5), 9);
  });
  test("what does not fit", async () => {
    expect((await refused(score("perplexity", [{ y: logits }]))).message).toContain("neither targets");
    expect((await refused(score("perplexity", [{ y: logits, label: t([3], 0, 9, 0) }]))).message).toContain("token 9 is beyond");
  });
});

describe("images", () => {
  const label = (dims: readonly number[], data: readonly number[]): Tensor => ({ dtype: "uint8", dims, data: Uint8Array.from(data) });
  test("psnr: of stored pixels, of floats, of equal images", async () => {
    const one = { y: t([1, 1, 2, 1], 0.5, 2), label: label([1, 2, 1], [118, 255]) };
    // 0.5 · 255 rounds to 128, 2 is limited to 255: errors 10 and 0
    expect((await score({ psnr: { peak: 255, scale: 255, round: true } }, [one])).value).toBeCloseTo(10 * Math.log10(255 ** 2 / 50), 9);
    expect((await score("psnr", [{ y: t([1, 1, 2, 1], 1, 0), label: t([1, 2, 1], 1, 0) }])).value).toBe(100);
  });
  test("channels first or last is the same picture; other sizes are refused", async () => {
    const hwc = Array.from({ length: 75 }, (_, i) => (i * 7) % 11);
    const chw = Array.from({ length: 75 }, (_, i) => hwc[(i % 25) * 3 + Math.floor(i / 25)]!);
    const config = { psnr: { peak: 11, shave: 1 } };
    const a = await score(config, [{ y: t([1, 5, 5, 3], ...hwc), label: t([5, 5, 3], ...hwc.map((v) => v + 1)) }]);
    const b = await score(config, [{ y: t([1, 3, 5, 5], ...chw), label: t([5, 5, 3], ...hwc.map((v) => v + 1)) }]);
    expect([a.value, b.value]).toEqual([10 * Math.log10(121), 10 * Math.log10(121)]);
    expect((await refused(score("psnr", [{ y: t([1, 2, 2, 1], 1, 1, 1, 1), label: t([1, 2, 1], 1, 1) }]))).message).toContain("differ");
  });
  test("ssim: 1 for equal images; the closed form for constants", async () => {
    const flat = (v: number) => t([12, 12, 1], ...new Array<number>(144).fill(v));
    expect((await score("ssim", [{ y: flat(0.3), label: flat(0.3) }])).value).toBeCloseTo(1, 12);
    const c1 = 0.01 ** 2;
    const [p, q] = [Math.fround(0.2), Math.fround(0.6)];
    expect((await score("ssim", [{ y: flat(0.2), label: flat(0.6) }])).value).toBeCloseTo((2 * p * q + c1) / (p * p + q * q + c1), 9);
    expect(
      (
        await refused(
          score("ssim", [{ y: t([3, 3, 1], ...new Array<number>(9).fill(1)), label: t([3, 3, 1], ...new Array<number>(9).fill(1)) }]),
        )
      ).message,
    ).toContain("11×11");
  });
  test("mse against labels and inputs", async () => {
    expect((await score("mse", [{ y: row(1, 3), label: [1, 1] }])).value).toBe(2);
    expect((await score({ mse: { input: "x" } }, [{ y: row(1, 3), x: row(0, 3) }])).value).toBe(0.5);
  });
});

describe("against the float model", () => {
  test("sqnr and agreement", async () => {
    const cases = [
      { y: row(1, 2), reference: row(1, 2) },
      { y: row(2, 1), reference: row(1, 2) },
    ];
    expect((await score("sqnr", cases)).value).toBeCloseTo(10 * Math.log10(10 / 2), 9);
    expect((await score("agreement", cases)).perSample).toEqual([1, 0]);
    expect((await refused(score("sqnr", [{ y: row(1) }]))).message).toContain("not at hand");
  });
});

describe("boxes", () => {
  const box = (c: number, x: number, y = 0.5): BoxLabel => ({ class: c, cx: x, cy: y, w: 0.2, h: 0.2 });
  const found = (...list: readonly (readonly [number, number, number])[]) => ({
    b: t([1, list.length, 4], ...list.flatMap(([, , x]) => [x - 0.1, 0.4, x + 0.1, 0.6])),
    s: t([1, list.length, 2], ...list.flatMap(([c, s]) => (c === 0 ? [s, 0] : [0, s]))),
  });
  const config = { map: { boxes: "b", scores: "s" } };
  test("all found, none found, one of two", async () => {
    expect((await score(config, [{ outputs: found([0, 0.9, 0.3]), label: [box(0, 0.3)] }])).value).toBeCloseTo(100, 9);
    expect((await score(config, [{ outputs: found([1, 0.9, 0.3]), label: [box(0, 0.3)] }])).value).toBe(0);
    // recall up to 0.5 at precision 1: 51 of 101 levels
    expect((await score(config, [{ outputs: found([0, 0.9, 0.3]), label: [box(0, 0.3), box(0, 0.7)] }])).value).toBeCloseTo(
      (100 * 51) / 101,
      9,
    );
  });
  test("a better-scored mistake lowers the precision; a repeat does not when it is suppressed", async () => {
    const r = await score(config, [{ outputs: found([0, 0.9, 0.8], [0, 0.5, 0.3], [0, 0.4, 0.31]), label: [box(0, 0.3)] }]);
    expect(r.value).toBeCloseTo(50, 9);
    const repeat = found([0, 0.9, 0.3], [0, 0.8, 0.305]);
    expect((await score(config, [{ outputs: repeat, label: [box(0, 0.3), box(0, 0.7)] }])).value).toBeCloseTo((100 * 51) / 101, 9);
    const all = await score({ map: { boxes: "b", scores: "s", nms: 1 } }, [{ outputs: repeat, label: [box(0, 0.3)] }]);
    expect(all.value).toBeCloseTo(100, 9);
  });
  test("the overlap that counts: 0.6 is found up to level 0.60", async () => {
    // Boxes 0.2 wide, shifted by 0.05: overlap 0.15 / 0.25 = 0.6 (the corners are float32, so a hair is left).
    const r = await score({ map: { boxes: "b", scores: "s", iou: "50-95" } }, [{ outputs: found([0, 0.9, 0.3499]), label: [box(0, 0.3)] }]);
    expect(r.more!["map50"]).toBeCloseTo(100, 9);
    expect(r.value).toBeCloseTo(30, 9);
  });
  test("mean over the classes that occur", async () => {
    const r = await score(config, [
      { outputs: found([0, 0.9, 0.3]), label: [box(0, 0.3)] },
      { outputs: found([0, 0.9, 0.3]), label: [box(1, 0.7)] },
    ]);
    // class 0: one right, one wrong of equal score: precision 1 at the top; class 1: none
    expect(r.value).toBeCloseTo(50, 9);
  });
  test("a decoder module; samples without boxes", async () => {
    at.write("decode.mjs", "export const decode = (outputs) => [{ class: 0, score: outputs.y.data[0], box: [0.2, 0.4, 0.4, 0.6] }];\n");
    expect((await score({ map: { decoder: "decode.mjs" } }, [{ y: row(0.9), label: [box(0, 0.3)] }])).value).toBeCloseTo(100, 9);
    expect((await refused(score(config, [{ outputs: found([0, 0.9, 0.3]), label: 3 }]))).message).toContain("no boxes as labels");
    expect((await refused(score("map", []))).message).toContain("decoder");
  });
});
