import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { autoCandidates, chooseAuto, outputErrors, splitForAuto } from "../../src/calibrate/auto.ts";
import { parametricQdq, siteFeeds } from "../../src/calibrate/parametric.ts";
import { checkModel } from "../../src/graph/check.ts";
import { newModel } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { floats } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { chooseAsymmetric, chooseSymmetric, dequantize, quantize } from "../../src/quant/affine.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";

const range = (n: number, from = 0): number[] => Array.from({ length: n }, (_, i) => from + i);

describe("splitForAuto", () => {
  test("a large select role judges final ranges", () => {
    const s = splitForAuto(range(10), range(64, 100));
    expect(s).toEqual({ folds: [{ ranges: range(10), select: range(64, 100) }], confirm: [] });
  });
  test("else two halves judge each other; no sample judges a range it set", () => {
    for (const [n, extra] of [
      [128, 0],
      [120, 6],
      [1000, 3],
    ] as const) {
      const { folds, confirm } = splitForAuto(range(n), range(extra, 5000));
      expect(folds).toHaveLength(2);
      for (const f of folds) {
        expect(f.select.length).toBeGreaterThanOrEqual(64);
        expect(f.select.filter((i) => f.ranges.includes(i))).toEqual([]);
      }
      expect(folds.flatMap((f) => f.ranges).sort((a, b) => a - b)).toEqual(range(n));
      expect(confirm.length).toBeLessThanOrEqual(256);
    }
  });
  test("too few samples cannot choose", () => {
    expect(splitForAuto(range(15)).folds).toEqual([]);
    expect(splitForAuto([], range(20)).folds).toEqual([]);
    expect(splitForAuto(range(16)).folds.map((f) => f.select.length)).toEqual([8]);
  });
  test("sequences stay whole", () => {
    const sequences = range(600).map((i) => Math.floor(i / 7));
    const { folds } = splitForAuto(range(600), [], sequences);
    for (const f of folds) expect(new Set(f.ranges.map((i) => sequences[i]! % 2)).size).toBe(1);
  });
});

describe("chooseAuto with few samples", () => {
  const specs = autoCandidates().map((c) => c.spec);
  const fallback = specs.indexOf("percentile=99.999");
  const minmax = specs.indexOf("minmax");
  const choose = (db: (candidate: number, sample: number) => number, samples = 16) =>
    chooseAuto({
      samples,
      evaluate: async () => Promise.reject(new Error("means of few samples are not asked for")),
      each: async (c) => c.map((_, i) => range(samples).map((k) => 10 ** (-db(i, k) / 10))),
    });
  test("a method better sample by sample overrules the fallback", async () => {
    const choice = await choose((c, k) => 15 + 3 * Math.sin(7 * k) + (c === minmax ? 2 + 0.5 * Math.sin(k) : 0));
    expect(choice.chosen.spec).toBe("minmax");
    expect(choice.because).toMatch(/2\.\d ± 0\.\d dB better/);
  });
  test("a better mean that one sample makes does not", async () => {
    const choice = await choose((c, k) => 15 + (c === minmax && k === 0 ? 40 : 0));
    expect(choice.chosen.spec).toBe(specs[fallback]);
  });
  test("nor does a difference too small to matter, or too few pairs", async () => {
    expect((await choose((c) => 15 + (c === minmax ? 0.5 : 0))).chosen.spec).toBe(specs[fallback]);
    expect((await choose((c) => 15 + (c === minmax ? 5 : 0), 7)).chosen.spec).toBe(specs[fallback]);
  });
});

describe("chooseAuto", () => {
  const specs = autoCandidates().map((c) => c.spec);
  const choose = (db: readonly number[], final?: readonly number[], samples = 100) =>
    chooseAuto({
      samples,
      evaluate: async () => db.map((x) => 10 ** (-x / 10)),
      ...(final && { confirm: async (close) => close.map((c) => 10 ** (-final[specs.indexOf(c.spec)]! / 10)) }),
    });
  test("min-max is a candidate; the least error wins", async () => {
    expect(specs[0]).toBe("minmax");
    expect((await choose([20, 25, 22, 24, 24.9])).chosen.spec).toBe(specs[1]);
  });
  test("close ones are told apart by their final ranges, and only those", async () => {
    expect((await choose([20, 25, 22, 24, 24.9], [99, 24, 99, 99, 25])).chosen.spec).toBe(specs[4]);
    expect((await choose([20, 28, 22, 24, 24.9], [99, 24, 99, 99, 25])).chosen.spec).toBe(specs[1]);
  });
  test("NaN never wins, equal outputs do, too few samples take the fallback", async () => {
    expect((await choose([Number.NaN, 10, 9, 8, 7])).chosen.spec).toBe(specs[1]);
    expect((await choose([Infinity, 10, 9, 8, 7])).chosen.spec).toBe("minmax");
    expect((await choose([40, 10, 9, 8, 7], undefined, 63)).chosen.spec).toBe("percentile=99.999");
  });
});

describe("parametric Q/DQ", () => {
  let runtime: NodeRuntime;
  beforeAll(() => {
    runtime = createRuntime();
  });
  afterAll(() => runtime.close());

  const m = newModel(13, 7);
  const x = m.graph.addInput("x", tensorType("float32", [1, 4]));
  const r = m.graph.append({ op: "Relu", inputs: [x], outputs: ["r"], name: "relu" }).outputs[0]!;
  const w = m.graph.constant(floats([1, -2, 3, -4, 5, -6, 7, -8], [4, 2]), "w");
  const p = m.graph.append({ op: "MatMul", inputs: [r, w], outputs: ["p"], name: "mm" }).outputs[0]!;
  const y = m.graph.append({ op: "Add", inputs: [p, p], outputs: ["y"], name: "add" }).outputs[0]!;
  m.graph.addOutput(y);
  const sites = [
    { value: "x", dtype: "int8" },
    { value: "r", dtype: "uint8", uses: [{ node: "mm", input: 0 }] },
    { value: "p", dtype: "uint8", uses: [{ node: "add", input: 1 }] },
  ] as const;
  const feeds = { x: { dtype: "float32", dims: [1, 4], data: Float32Array.of(0.3, -1.2, 2.7, 0.9) } } as const;

  test("one session gives what each set of parameters gives by hand", async () => {
    const q = parametricQdq(m, sites);
    expect(checkModel(q)).toEqual([]);
    const session = await runtime.open(writeModel(q));
    for (const top of [3, 1.5]) {
      const params = [chooseSymmetric(top, "int8"), chooseAsymmetric(0, top, "uint8"), chooseAsymmetric(-30, 20, "uint8")] as const;
      const got = await session.run({ ...feeds, ...siteFeeds(sites, params) });
      const fake = (v: number, i: number) => dequantize(quantize(v, params[i]!), params[i]!);
      const rs = [...feeds.x.data].map((v) => fake(Math.max(0, fake(v, 0)), 1));
      const ps = [0, 1].map((c) => rs.reduce((s, v, k) => s + v * [1, -2, 3, -4, 5, -6, 7, -8][2 * k + c]!, 0));
      const want = ps.map((v) => v + fake(v, 2));
      for (const c of [0, 1]) expect((got["y"]!.data as Float32Array)[c]).toBeCloseTo(want[c]!, 4);
    }
    const float = await runtime.open(writeModel(m));
    const fine = siteFeeds(sites, [chooseSymmetric(3, "int8"), chooseAsymmetric(0, 3, "uint8"), chooseAsymmetric(-30, 20, "uint8")]);
    const coarse = siteFeeds(sites, [chooseSymmetric(1, "int8"), chooseAsymmetric(0, 1, "uint8"), chooseAsymmetric(-2, 2, "uint8")]);
    const [a, b] = await outputErrors(float, session, [feeds, feeds], [fine, coarse]);
    expect(a).toBeLessThan(0.001);
    expect(b).toBeGreaterThan(0.1);
  });
  test("a single site needs no Split, and the source is not changed", async () => {
    const before = m.graph.nodes.length;
    const q = parametricQdq(m, [sites[1]]);
    expect(m.graph.nodes).toHaveLength(before);
    const session = await runtime.open(writeModel(q));
    const got = await session.run({ ...feeds, ...siteFeeds([sites[1]], [chooseAsymmetric(0, 3, "uint8")]) });
    expect((got["y"]!.data as Float32Array)[0]).toBeCloseTo(2 * (0.3 + 2.7 * 5 + 0.9 * 7), 0);
  });
});
