import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lower } from "../../src/export/lower/index.ts";
import type { Model, Value } from "../../src/graph/ir.ts";
import { recipeOf } from "../../src/plan/recipes/index.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { improvePlan } from "../../src/ptq/improve.ts";
import { layersOf } from "../../src/ptq/layers.ts";
import { absorb, equalize, findRescales, findShifts, Rescaling, smooth } from "../../src/ptq/rescale.ts";
import { rankReverts } from "../../src/ptq/reverts.ts";
import { sqnrDb } from "../../src/quant/sqnr.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { planned, residualNet } from "../plan/nets.ts";
import { Builder, feedsOf, runModel } from "../prepare/build.ts";
import { seededSet } from "./data.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** Conv, depthwise Conv, Conv in a row, with channels of very different size. */
function unevenNet(): Model {
  const b = new Builder(17);
  const x = b.input("x", [1, 4, 8, 8]);
  const uneven = (name: string, shape: readonly number[]): Value => {
    const v = b.weight(name, shape);
    const per = v.data!.bytes().byteLength / 4 / shape[0]!;
    const data = new Float32Array(v.data!.bytes().slice().buffer);
    return b.floats(
      `${name}.u`,
      Array.from(data, (z, i) => z * 4 ** (Math.floor(i / per) % 5)),
      shape,
    );
  };
  const a = b.node("Relu", [b.node("Conv", [x, uneven("a.w", [8, 4, 3, 3]), b.weight("a.b", [8])], { pads: [1, 1, 1, 1] }, "a")], {}, "ra");
  const d = b.node("Relu", [b.node("Conv", [a, b.weight("d.w", [8, 1, 3, 3]), b.weight("d.b", [8])], { group: 8 }, "d")], {}, "rd");
  return b.output(b.node("Conv", [d, b.weight("e.w", [6, 8, 1, 1]), b.weight("e.b", [6])], {}, "e"));
}

/** A normalization whose output has one outlying channel, read by two products. */
function outlierNet(): Model {
  const b = new Builder(17);
  const x = b.input("x", [2, 5, 16]);
  const gamma = b.floats(
    "gamma",
    Array.from({ length: 16 }, (_, i) => (i === 3 ? 60 : 1)),
  );
  const n = b.node("LayerNormalization", [x, gamma, b.weight("beta", [16])], {}, "n");
  const q = b.node("MatMul", [n, b.weight("q.w", [16, 12])], {}, "q");
  const k = b.node("MatMul", [n, b.weight("k.w", [16, 12])], {}, "k");
  return b.output(b.node("Add", [b.node("Tanh", [q]), k], {}, "y"));
}

async function same(a: Model, b: Model, output: string): Promise<void> {
  const feeds = feedsOf(a, 3);
  const x = (await runModel(runtime, a, feeds))[output]!.data as Float32Array;
  const y = (await runModel(runtime, b, feeds))[output]!.data as Float32Array;
  const most = x.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  // Weights rounded to float32 once more on each side: 2^-23 each, summed over at most a hundred products.
  x.forEach((v, i) => {
    expect(Math.abs(v - y[i]!)).toBeLessThan(2e-5 * most);
  });
}

describe("equalization", () => {
  test("keeps the function, and makes ranges equal", async () => {
    const { model, bundle } = await planned(runtime, unevenNet(), "portable");
    const layers = layersOf(model, bundle);
    const pairs = findRescales(model, layers);
    expect(pairs.map((r) => [r.value.name, r.from.kind, r.channels])).toEqual([
      ["ra", "layer", 8],
      ["rd", "layer", 8],
    ]);
    const out = equalize(model, pairs).finish();
    await same(model, out.model, "e");
    const spread = (m: Model) => {
      const w = new Float32Array(m.graph.values.get("a.w.u")!.data!.bytes().slice().buffer);
      const rows = Array.from({ length: 8 }, (_, i) => Math.max(...w.subarray(36 * i, 36 * i + 36).map(Math.abs)));
      return Math.max(...rows) / Math.min(...rows);
    };
    expect(spread(model)).toBeGreaterThan(50);
    expect(spread(out.model)).toBeLessThan(spread(model) / 4);
  });

  test("a value that somebody else reads too, or that is an output, is left alone", async () => {
    const { model, bundle } = await planned(runtime, residualNet(), "portable");
    // ra feeds the sum as well; flat is behind a Flatten, which mixes axes.
    expect(findRescales(model, layersOf(model, bundle))).toEqual([]);
  });

  test("helps where weights have one scale a tensor, and the plan says so", async () => {
    const base = recipeOf("int8");
    const recipe = { ...base, weight: { ...base.weight!, per: "tensor" as const } };
    const { model, bundle, stats } = await planned(runtime, unevenNet(), "portable", "int8", { recipe });
    expect(bundle.plan.sites.filter((s) => s.kind === "weight").every((s) => s.scheme.granularity.kind === "tensor")).toBe(true);
    const data = seededSet(model, 32);
    const out = await improvePlan({
      model,
      bundle,
      data,
      runtime,
      target: targetOf("portable"),
      effort: "best",
      steps: ["equalize"],
      ...(stats && { stats }),
    });
    const step = out.plan.steps[0]!;
    expect(step.step).toBe("equalize");
    expect(step.kept).toBe(true);
    expect(step.after).toBeGreaterThan(step.before + 3);
  });
});

/** A Conv whose channels 0 to 3 stay high above 0, a ReLU, and readers: without padding, or with. */
function highNet(pads: number): Model {
  const b = new Builder(17);
  const x = b.input("x", [1, 4, 8, 8]);
  const bias = b.floats(
    "a.b",
    Array.from({ length: 8 }, (_, i) => (i < 4 ? 30 + i : 0)),
  );
  const a = b.node("Relu", [b.node("Conv", [x, b.weight("a.w", [8, 4, 1, 1]), bias], {}, "a")], {}, "ra");
  const p = b.node("AveragePool", [a], { kernel_shape: [2, 2], strides: [2, 2] }, "p");
  const reader = { group: 2, pads: [pads, pads, pads, pads] };
  return b.output(b.node("Conv", [p, b.weight("e.w", [6, 4, 3, 3]), b.weight("e.b", [6])], reader, "e"));
}

describe("absorbing high biases", () => {
  test("keeps the function where channels stay above the shift, and only there", async () => {
    const { model, bundle } = await planned(runtime, highNet(0), "portable");
    const places = findShifts(findRescales(model, layersOf(model, bundle)));
    expect(places.map((r) => r.value.name)).toEqual(["p"]);
    const shifted = (c: readonly number[]) => {
      const out = new Rescaling(model);
      return { channels: absorb(out, places, new Map([[places[0]!, Float64Array.from(c)]])), model: out.finish().model };
    };
    const out = shifted([20, 21, 22, 23, 0, 0, 0, 0]);
    expect(out.channels).toBe(4);
    await same(model, out.model, "e");
    const bias = new Float32Array(out.model.graph.values.get("a.b")!.data!.bytes().slice().buffer);
    expect([...bias]).toEqual([10, 10, 10, 10, 0, 0, 0, 0]);
    // Channel 4 is around 0: a shift is cut off by the ReLU, and the function is another.
    await expect(same(model, shifted([0, 0, 0, 0, 20, 0, 0, 0]).model, "e")).rejects.toThrow();
  });

  test("a reader that pads its input, or has no bias, is left alone", async () => {
    const { model, bundle } = await planned(runtime, highNet(1), "portable");
    const pairs = findRescales(model, layersOf(model, bundle));
    expect(pairs.length).toBe(1);
    expect(findShifts(pairs)).toEqual([]);
  });

  test("helps where one scale a tensor must reach over the offset, and the plan says so", async () => {
    const base = recipeOf("int8");
    const recipe = { ...base, weight: { ...base.weight!, per: "tensor" as const } };
    const { model, bundle, stats } = await planned(runtime, highNet(0), "portable", "int8", { recipe });
    const out = await improvePlan({
      model,
      bundle,
      data: seededSet(model, 32),
      runtime,
      target: targetOf("portable"),
      effort: "best",
      steps: ["equalize"],
      ...(stats && { stats }),
    });
    const step = out.plan.steps.find((x) => x.step === "absorb")!;
    expect(step).toMatchObject({ kept: true, detail: "1 pairs equalized, 4 channels shifted" });
    expect(step.after).toBeGreaterThan(step.before + 3);
    // What was measured is what is shipped.
    const feeds = feedsOf(model, 3);
    const y = (await runModel(runtime, model, feeds))["e"]!.data as Float32Array;
    const z = (await runModel(runtime, lower(model, out, targetOf("portable")), feeds))["e"]!.data as Float32Array;
    expect(sqnrDb(y, z)).toBeGreaterThan(step.before + 3);
  });
});

describe("smoothing", () => {
  test("keeps the function, moves the outlier into the weights, and helps", async () => {
    const { model, bundle, stats } = await planned(runtime, outlierNet(), "portable");
    const layers = layersOf(model, bundle);
    const places = findRescales(model, layers);
    expect(places.map((r) => [r.value.name, r.from.kind, r.to.length])).toEqual([["n", "factors", 2]]);
    const ranges = new Map([[places[0]!.value, Float64Array.from({ length: 16 }, (_, i) => (i === 3 ? 120 : 2))]]);
    const out = smooth(model, places, ranges, 0.5).finish();
    await same(model, out.model, "y");
    const gamma = new Float32Array(out.model.graph.values.get("gamma")!.data!.bytes().slice().buffer);
    expect(gamma[3]! / gamma[2]!).toBeLessThan(15);
    const data = seededSet(model, 32);
    const better = await improvePlan({
      model,
      bundle,
      data,
      runtime,
      target: targetOf("portable"),
      effort: "best",
      steps: ["smooth"],
      ...(stats && { stats }),
    });
    expect(better.plan.steps.some((s) => s.kept)).toBe(true);
    expect(better.plan.replacements.map((r) => r.value)).toContain("gamma");
    expect(better.plan.steps.filter((s) => s.kept).at(-1)!.after).toBeGreaterThan(better.plan.steps[0]!.before + 1);
  });
});

describe("reverts", () => {
  test("each layer's are measured and ranked by gain for a byte", async () => {
    const { model, bundle } = await planned(runtime, residualNet(), "portable", "w4a8");
    const layers = layersOf(model, bundle);
    const data = seededSet(model, 8);
    const list = await rankReverts({
      model,
      bundle,
      layers,
      runtime,
      indices: [0, 1, 2],
      load: async (i) => (await data.sample(i)).feeds,
    });
    expect(list.length).toBe(3 * layers.length);
    expect(new Set(list.map((r) => `${r.node} ${r.to}`)).size).toBe(list.length);
    const of = (node: string, to: string) => list.find((r) => r.node === node && r.to === to)!;
    // c: 16 · 16 · 9 weights, 4 bits each.
    expect(of("c", "w8").costBytes).toBe(1152);
    expect(of("c", "float").costBytes).toBe(2304 * 3.5);
    expect(of("c", "a16").costBytes).toBe(0);
    // Round-to-nearest at 4 bits: the weights make the error, and float gives at least what 8 bits give.
    expect(Math.max(...list.filter((r) => r.to === "w8").map((r) => r.gainDb))).toBeGreaterThan(1);
    const worth = list.filter((r) => r.gainDb > 0).map((r) => r.gainDb / (r.costBytes + 1));
    expect([...worth].sort((a, b) => b - a)).toEqual(worth);
  });
});
