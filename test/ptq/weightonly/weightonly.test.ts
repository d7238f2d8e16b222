import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { DataSet } from "../../../src/data/types.ts";
import { lower } from "../../../src/export/lower/index.ts";
import { toFloat32 } from "../../../src/graph/constant.ts";
import type { Model } from "../../../src/graph/ir.ts";
import { recipeOf } from "../../../src/plan/recipes/index.ts";
import { tuneRecipe } from "../../../src/plan/recipes/tune.ts";
import { targetOf } from "../../../src/plan/targets/index.ts";
import type { PlanBundle, Site } from "../../../src/plan/types.ts";
import { weightTensor } from "../../../src/ptq/sites.ts";
import { clipBlocks } from "../../../src/ptq/weightonly/clip.ts";
import { roundWeights } from "../../../src/ptq/weightonly/index.ts";
import { createRuntime, type NodeRuntime } from "../../../src/runtime/index.ts";
import { planned } from "../../plan/nets.ts";
import { Builder, runModel } from "../../prepare/build.ts";
import { gaussians } from "../solve/random.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** A gated block with a residual, products of [64, 96] and [96, 64]. */
function gated(): Model {
  const b = new Builder(21, 10);
  const x = b.input("x", [2, 6, 64]);
  const gate = b.node("MatMul", [x, b.weight("gate.w", [64, 96])], {}, "gate");
  const up = b.node("MatMul", [x, b.weight("up.w", [64, 96])], {}, "up");
  const h = b.node("Mul", [b.node("Tanh", [gate]), up], {}, "h");
  return b.output(b.node("Add", [b.node("MatMul", [h, b.weight("down.w", [96, 64])], {}, "down"), x], {}, "y"));
}

/** Inputs as a network's are: few directions carry most of the energy. */
function correlatedSet(n: number): DataSet {
  const mix = gaussians(8 * 64, 7);
  const all = Array.from({ length: n }, (_, i) => i);
  return {
    name: "correlated",
    size: n,
    roles: { calibrate: all, select: [], heldOut: [] },
    sha256: "",
    metric: undefined,
    classes: undefined,
    sample: async (i) => {
      const z = gaussians(12 * 8, 100 + i);
      const noise = gaussians(12 * 64, 5000 + i);
      const data = new Float32Array(12 * 64);
      for (let t = 0; t < 12; t++)
        for (let c = 0; c < 64; c++) {
          let x = 0.1 * noise[t * 64 + c]!;
          for (let r = 0; r < 8; r++) x += 0.3 * z[t * 8 + r]! * mix[r * 64 + c]!;
          data[t * 64 + c] = x;
        }
      return { id: String(i), feeds: { x: { dtype: "float32", dims: [2, 6, 64], data } } };
    },
  };
}

const weightSites = (p: PlanBundle) => p.plan.sites.filter((s): s is Extract<Site, { kind: "weight" }> => s.kind === "weight");

function weightError(model: Model, bundle: PlanBundle): number {
  let e = 0;
  for (const s of weightSites(bundle)) {
    const v = model.graph.values.get(s.value)!;
    const w = toFloat32(v.data!);
    const q = toFloat32(weightTensor(s, v, bundle));
    for (let i = 0; i < w.length; i++) e += (w[i]! - q[i]!) ** 2;
  }
  return e;
}

async function outputError(model: Model, bundle: PlanBundle, target: string): Promise<number> {
  const data = correlatedSet(40);
  const lowered = lower(model, bundle, targetOf(target));
  let e = 0;
  for (let i = 32; i < 40; i++) {
    const { feeds } = await data.sample(i);
    const y = (await runModel(runtime, model, feeds))["y"]!.data as Float32Array;
    const z = (await runModel(runtime, lowered, feeds))["y"]!.data as Float32Array;
    for (let p = 0; p < y.length; p++) e += (y[p]! - z[p]!) ** 2;
  }
  return e;
}

describe("weights alone in few bits", () => {
  test("clipping lowers the squared error of the weights, and keeps whole codes", async () => {
    const { model, bundle } = await planned(runtime, gated(), "portable", "int4-weights");
    const clipped = clipBlocks(model, bundle);
    expect(weightSites(clipped)).toHaveLength(3);
    expect(weightError(model, clipped)).toBeLessThan(0.95 * weightError(model, bundle));
  });

  test.each(["portable", "ort-cpu"])("%s: rounding by output error lowers the error on other samples", async (target) => {
    const { model, bundle } = await planned(runtime, gated(), target, "int4-weights");
    const clipped = await roundWeights({ model, bundle, runtime });
    const data = correlatedSet(40);
    const rounded = await roundWeights({ model, bundle, data, calibrate: Array.from({ length: 32 }, (_, i) => i), runtime });
    expect(weightSites(rounded).every((s) => s.codes !== undefined)).toBe(true);
    const [before, after] = [await outputError(model, clipped, target), await outputError(model, rounded, target)];
    expect(after).toBeLessThan(0.7 * before);
  });

  test("equal inputs give equal plans", async () => {
    const { model, bundle } = await planned(runtime, gated(), "portable", "int4-weights");
    const data = correlatedSet(12);
    const run = () => roundWeights({ model, bundle, data, calibrate: [0, 1, 2, 3, 4, 5], runtime });
    const [a, b] = [await run(), await run()];
    expect(a.plan).toEqual(b.plan);
    for (const [name, t] of a.tensors) expect(Buffer.compare(t.bytes(), b.tensors.get(name)!.bytes())).toBe(0);
  });

  test.each(["portable", "ort-cpu"])(
    "%s: a product that shares its constant with a lookup is rounded too, both with the same codes",
    async (target) => {
      const { model, bundle } = await planned(runtime, tiedGated(), target, "int4-weights", {
        recipe: tuneRecipe(recipeOf("int4-weights"), { tables: "4" }),
      });
      const data = tokenSet(24);
      const step = { model, bundle, data, calibrate: [...Array(16).keys()], runtime };
      const rounded = await roundWeights(step);
      const tied = weightSites(rounded).filter((s) => s.value.startsWith("table") || s.value.startsWith("transpose"));
      expect(tied.map((s) => s.codes !== undefined)).toEqual([true, true]);
      // With samples that decide, a step is kept only where it helps the network as a whole.
      const gated = await roundWeights({ ...step, select: [16, 17, 18, 19], target: targetOf(target) });
      expect(gated.plan.steps.map((s) => [s.step, s.kept === s.after > s.before])).toEqual([
        ["gptq-tied", true],
        ["gptq", true],
      ]);
      // One tensor in the file.
      const q = lower(model, rounded, targetOf(target));
      expect([...q.graph.values.values()].filter((v) => (v.data?.byteLength ?? 0) === (48 * 64) / 2)).toHaveLength(1);
    },
  );
});

/** An embedding whose table is the output projection too, and one product between them. */
function tiedGated(): Model {
  const b = new Builder(21, 10);
  const ids = b.g.addInput("ids", { kind: "tensor", elem: "int64", shape: [1, 24] });
  const table = b.weight("table", [48, 64]);
  const h = b.node("Gather", [table, ids], {}, "h");
  const r = b.node("Add", [h, b.node("Tanh", [b.node("MatMul", [h, b.weight("w", [64, 64])], {}, "mm")])], {}, "res");
  return b.output(b.node("MatMul", [r, b.node("Transpose", [table], { perm: [1, 0] })], {}, "logits"));
}

/** Tokens as text has them: few are frequent. */
function tokenSet(n: number): DataSet {
  const all = [...Array(n).keys()];
  return {
    ...correlatedSet(n),
    roles: { calibrate: all, select: [], heldOut: [] },
    sample: async (i) => {
      const z = gaussians(24, 300 + i);
      const data = BigInt64Array.from(z, (x) => BigInt(Math.min(47, Math.floor(Math.abs(x) * 8))));
      return { id: String(i), feeds: { ids: { dtype: "int64", dims: [1, 24], data } } };
    },
  };
}
