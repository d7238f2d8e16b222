import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lower } from "../../src/export/lower/index.ts";
import type { Model } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { readTensorNumbers } from "../../src/plan/tensors.ts";
import { withSolved } from "../../src/ptq/amend.ts";
import { crossOf, meanOf } from "../../src/ptq/gram.ts";
import { improvePlan, STEPS } from "../../src/ptq/improve.ts";
import { layersOf, rowsOf } from "../../src/ptq/layers.ts";
import { LAMBDA, solveLayer, solveSequentially } from "../../src/ptq/sequential.ts";
import { multiply } from "../../src/ptq/solve/linalg.ts";
import { SOLVE_DEFAULT } from "../../src/ptq/solve/rows.ts";
import { affordable } from "../../src/ptq/steps/rounding.ts";
import { Streams } from "../../src/ptq/streams.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { type Planned, planned, residualNet } from "../plan/nets.ts";
import { Builder, feedsOf, runModel } from "../prepare/build.ts";
import { seededSet } from "./data.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** Products in a row, and side by side, as in a transformer's block: [2, 6, 32]. */
function mixNet(): Model {
  const b = new Builder(21, 10);
  const x = b.input("x", [2, 6, 32]);
  const q = b.node("MatMul", [x, b.weight("q.w", [32, 32])], {}, "q");
  const k = b.node("MatMul", [x, b.weight("k.w", [32, 32])], {}, "k");
  const s = b.node("Add", [b.node("Tanh", [q]), k], {}, "mixed");
  const y = b.node("Add", [b.node("MatMul", [s, b.weight("o.w", [32, 32])], {}, "o"), b.weight("o.b", [32])], {}, "ob");
  return b.output(b.node("Add", [y, x], {}, "y"));
}

const solveOptions = { lambda: LAMBDA, asymmetric: true, correctBias: true, effort: SOLVE_DEFAULT } as const;

async function solvedPlan({ model, types, bundle }: Pick<Planned, "model" | "types" | "bundle">, memoryBytes = 2 ** 24, n = 24) {
  const data = seededSet(model, n);
  return solveSequentially({
    streams: new Streams(model, bundle, types),
    runtime,
    layers: layersOf(model, bundle),
    indices: data.roles.calibrate,
    load: async (i) => (await data.sample(i)).feeds,
    memoryBytes,
    seed: 1,
    solve: (l, g, h) => solveLayer(l, g, h, solveOptions),
  });
}

describe("streams", () => {
  test.each([
    ["residualNet", "portable", "int8"],
    ["residualNet", "portable", "w4a8"],
    ["residualNet", "tensorrt", "int8"],
    ["residualNet", "ort-cpu", "int8"],
    ["mixNet", "portable", "int8"],
    ["mixNet", "portable", "int4-weights"],
  ])("%s for %s %s: the streams are the lowered model and the model", async (net, target, recipe) => {
    const { model, bundle } = await planned(runtime, net === "mixNet" ? mixNet() : residualNet(), target, recipe);
    const streams = new Streams(model, bundle);
    const out = model.graph.outputs[0]!;
    const given = new Map(model.graph.inputs.map((v) => [streams.key("float", v), "float32" as const]));
    const segment = streams.segment(
      [
        { stream: "float", value: out },
        { stream: "quant", value: out },
      ],
      given,
    );
    const session = await runtime.open(segment.bytes);
    const feeds = feedsOf(model, 5);
    const got = await session.run(Object.fromEntries(segment.inputs.map((key) => [key, feeds[key.slice(2)]!])));
    await session.release();
    expect(got[segment.outputs[0]!.name]!.data).toEqual((await runModel(runtime, model, feeds))[out.name]!.data);
    const lowered = (await runModel(runtime, lower(model, bundle, targetOf(target)), feeds))[out.name]!.data as Float32Array;
    const mine = got[segment.outputs[1]!.name]!.data as Float32Array;
    // But for the order of float sums (onnxruntime packs a constant right operand, and not the output of a DequantizeLinear), and where the
    // target quantizes a graph output as well (a step of its Q/DQ).
    const site = bundle.plan.sites.find((s) => s.kind === "static" && s.value === out.name);
    const step = site?.kind === "static" && !("tensor" in site.scale) ? site.scale[0]! : 0;
    const most = mine.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    mine.forEach((v, i) => {
      expect(Math.abs(v - lowered[i]!)).toBeLessThanOrEqual(0.51 * step + 2e-6 * most);
    });
  });
});

describe("statistics", () => {
  // With and without a bias, grouped, pointwise: where nothing is quantized the two streams are one, so that W C = W Ĥ and W μ = W μ̂.
  test.each(["residualNet", "mixNet"])("of equal streams are equal: %s", async (net) => {
    const { model, types, bundle } = await planned(runtime, net === "mixNet" ? mixNet() : residualNet(), "portable", "w4a8");
    const weights = { ...bundle, plan: { ...bundle.plan, sites: bundle.plan.sites.filter((s) => s.kind === "weight") } };
    const data = seededSet(model, 12);
    const seen: string[] = [];
    await solveSequentially({
      streams: new Streams(model, weights, types),
      runtime,
      layers: layersOf(model, weights),
      indices: data.roles.calibrate,
      load: async (i) => (await data.sample(i)).feeds,
      memoryBytes: 2 ** 24,
      seed: 1,
      solve: async (layer, grams) => {
        const { rows, k, groups } = layer;
        const float = layer.weight.constant.float32();
        const w = rowsOf(layer, float);
        for (let g = 0; g < groups; g++) {
          const gram = grams[g]!;
          seen.push(gram.of);
          const wh = new Float64Array(rows * k);
          multiply(w[g]!, gram.h, rows, k, k, wh);
          const most = wh.reduce((m, v) => Math.max(m, Math.abs(v)), 1e-6);
          // Kept activations are float16: 2^-11 of each.
          crossOf(w[g]!, gram, rows, k).forEach((v, i) => {
            expect(Math.abs(v - wh[i]!) / most).toBeLessThan(2e-3);
          });
          meanOf(w[g]!, gram, rows, k).forEach((v, m) => {
            let mu = 0;
            for (let i = 0; i < k; i++) mu += w[g]![m * k + i]! * gram.meanHat[i]!;
            expect(Math.abs(v - mu)).toBeLessThan(2e-3 * (1 + Math.abs(mu)));
          });
        }
        const s = await solveLayer(layer, grams, undefined, solveOptions);
        return { ...s, weight: float, bias: layer.bias?.data };
      },
    });
    expect(seen).toContain("output");
    if (net === "mixNet") expect(seen).toContain("input");
  });
});

describe("solving layers in order", () => {
  test.each(["portable int8", "portable w4a8", "portable int4-weights", "tensorrt int8", "ort-cpu int8"])(
    "%s: the plan's codes are the solved weights",
    async (spec) => {
      const [target, recipe] = spec.split(" ") as [string, string];
      for (const net of [residualNet(), mixNet()]) {
        const at = await planned(runtime, net, target, recipe);
        const { model, bundle } = at;
        const solved = await solvedPlan(at);
        expect(solved.length).toBe(layersOf(model, bundle).length);
        expect(solved.length).toBeGreaterThan(recipe === "int4-weights" ? 0 : 2);
        const better = withSolved(bundle, solved, "solved");
        const streams = new Streams(model, better);
        for (const s of solved) {
          const site = better.plan.sites.find((x) => x.kind === "weight" && x.value === s.layer.site.value);
          if (site?.kind !== "weight") throw new Error("no site");
          expect(readTensorNumbers(streams.weightFor(site, s.layer.weight.value))).toEqual(s.weight);
          expect(s.error).toBeLessThan(recipe === "int8" ? 1e-3 : 0.05);
        }
        // What it says is legal, and loads.
        const session = await runtime.open(writeModel(lower(model, better, targetOf(target))));
        await session.release();
      }
    },
  );

  test("without memory for frontiers the statistics are the same, but for the halves", async () => {
    const at = await planned(runtime, residualNet(), "portable", "w4a8");
    const kept = await solvedPlan(at);
    const again = await solvedPlan(at, 0);
    kept.forEach((s, i) => {
      // The damping of the last one is chosen by trial, for 24 samples are few: there a float16 can turn a close choice.
      if (i === kept.length - 1) return;
      // The codes may differ where a float16 changed the last digits of a sum; the errors do not.
      expect(again[i]!.error / s.error).toBeCloseTo(1, 1);
    });
  });

  test("equal inputs and seed give equal plans", async () => {
    const at = await planned(runtime, residualNet(), "portable", "w4a8");
    const [a, b] = [await solvedPlan(at), await solvedPlan(at)];
    a.forEach((s, i) => {
      expect(s.codes).toEqual(b[i]!.codes);
      expect(s.scales).toEqual(b[i]!.scales);
      expect(s.bias).toEqual(b[i]!.bias);
    });
  });
});

describe("improvePlan", () => {
  test("a better plan, and a record of each step", async () => {
    const { model, bundle, stats } = await planned(runtime, residualNet(), "portable", "w4a8");
    const data = seededSet(model, 64);
    const ctx = { model, bundle, data, runtime, target: targetOf("portable"), effort: "default", ...(stats && { stats }) } as const;
    const better = await improvePlan(ctx);
    const { steps } = better.plan;
    expect(steps.length).toBeGreaterThan(0);
    const first = steps[0]!;
    const last = steps.filter((s) => s.kept).at(-1)!;
    expect(last.after).toBeGreaterThan(first.before + 3);
    for (const s of steps) expect(s.kept).toBe(s.after > s.before);
    expect(better.plan.replacements.map((r) => r.value).sort()).toEqual(["a.b", "c.b", "fc.b"]);
    const again = await improvePlan(ctx);
    expect(again.plan).toEqual(better.plan);
    for (const [name, t] of better.tensors) expect(again.tensors.get(name)!.bytes()).toEqual(t.bytes());
  });

  test("no step that does not help is in the plan", async () => {
    const { model, bundle, stats } = await planned(runtime, residualNet(), "portable", "int8");
    const data = seededSet(model, 32);
    const base = { model, bundle, data, runtime, target: targetOf("portable"), ...(stats && { stats }) };
    expect(await improvePlan({ ...base, effort: "fast" })).toBe(bundle);
    for (const step of STEPS) {
      const out = await improvePlan({ ...base, effort: "best", steps: [step] });
      const kept = out.plan.steps.some((s) => s.kept);
      if (!kept) expect({ ...out.plan, steps: [] }).toEqual({ ...bundle.plan, steps: [] });
      else expect(out.plan.steps.filter((s) => s.kept).at(-1)!.after).toBeGreaterThan(out.plan.steps[0]!.before);
    }
  });
});

test("below best effort the costliest layers stay as they are when time would run out", async () => {
  const { model, bundle } = await planned(runtime, residualNet(), "portable", "w4a8");
  const layers = layersOf(model, bundle);
  const work = layers.map((l) => l.groups * l.rows * l.k ** 2);
  const total = work.reduce((a, b) => a + b, 0);
  expect(affordable(layers, total)).toEqual(layers);
  // Conv c, 16 x 144², is the costliest.
  expect(affordable(layers, total - 1)).toEqual(layers.filter((l) => l.key !== "c"));
  expect(affordable(layers, 0)).toEqual([]);
});
