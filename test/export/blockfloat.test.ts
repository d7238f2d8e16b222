import { afterAll, describe, expect, test } from "vitest";
import { lintModel } from "../../src/export/lint/index.ts";
import { lower } from "../../src/export/lower/index.ts";
import { checkModel } from "../../src/graph/check.ts";
import type { Model } from "../../src/graph/ir.ts";
import { readModel, writeModel } from "../../src/graph/onnx/index.ts";
import { allNodes } from "../../src/graph/walk.ts";
import { checkPlanAgainst } from "../../src/plan/check.ts";
import { recipeOf } from "../../src/plan/recipes/index.ts";
import { simulate } from "../../src/plan/simulate.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import type { PlanBundle, Site } from "../../src/plan/types.ts";
import { castRest } from "../../src/ptq/rest.ts";
import { fromFloat4 } from "../../src/quant/float4.ts";
import { fromFloat8 } from "../../src/quant/float8.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import { planned, printSites } from "../plan/nets.ts";
import { Builder, feedsOf } from "../prepare/build.ts";

const runtime = createRuntime({ workers: 1 });
afterAll(() => runtime.close());
const TARGET = "tensorrt@11:sm120";

/** Rows of very different sizes, one of zeros; a product, a transposed one with a bias, and two that have no blocks (4-D input, odd sums). */
function net(): Model {
  const b = new Builder(17);
  const x = b.input("x", [5, 64]);
  const h = b.node("Mul", [x, b.floats("sizes", [1, 1e-3, 300, 0, 2 ** -20], [5, 1])], {}, "h");
  const p = b.node("MatMul", [h, b.weight("p.w", [64, 48])], {}, "p");
  const g = b.node("Gemm", [h, b.weight("g.w", [40, 64]), b.weight("g.b", [40])], { transB: 1 }, "g");
  const r = b.node("Reshape", [h, b.g.constant({ ...b.ints("shape", [5, 2, 4, 8]).data! }, "r.shape")], {}, "r");
  b.output(b.node("MatMul", [r, b.weight("r.w", [8, 4])], {}, "four"));
  b.output(b.node("MatMul", [p, b.weight("o.w", [48, 6])], {}, "odd"));
  return b.output(g);
}
const recipes = ["nvfp4", "mxfp8"] as const;
const ops = (m: Model, op: string) => [...allNodes(m)].filter((n) => n.op === op);
const weightsOf = (b: PlanBundle) => b.plan.sites.filter((s): s is Extract<Site, { kind: "weight" }> => s.kind === "weight");

async function run(model: Model, source: Model) {
  const session = await runtime.open(writeModel(model), { level: "disabled" });
  const y = await session.run(feedsOf(source, 9));
  await session.release();
  return y;
}

/** A matrix [rows, k] through its block format, written from the formats' definitions with plain searches. */
function reference(x: Float32Array, k: number, recipe: (typeof recipes)[number], tensorScale: number): Float32Array {
  const f = Math.fround;
  const codes =
    recipe === "nvfp4" ? Array.from({ length: 16 }, (_, c) => fromFloat4(c)) : Array.from({ length: 256 }, (_, c) => fromFloat8(c));
  const float8 = Array.from({ length: 0x7f }, (_, c) => fromFloat8(c));
  const near = (v: number, among: readonly number[]): number => {
    let best = 0;
    among.forEach((a, c) => {
      const d = Math.abs(a - v) - Math.abs(among[best]! - v);
      if (d < 0 || (d === 0 && (c & 1) === 0)) best = c;
    });
    return among[best]!;
  };
  const size = recipe === "nvfp4" ? 16 : 32;
  const y = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += size) {
    const block = x.subarray(at, at + size);
    const most = block.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    let s = 2 ** -127;
    if (recipe === "nvfp4") s = f(near(f(f(most / 6) / tensorScale), float8) * tensorScale);
    else while (s < f(most / 448)) s *= 2;
    for (const [i, v] of block.entries()) y[at + i] = s === 0 ? 0 : f(near(f(v / s), codes) * s);
  }
  expect(x.length % k).toBe(0);
  return y;
}

describe.each(recipes)("%s for TensorRT", (recipe) => {
  test("products with whole blocks and a matrix input are taken, the others say why not", async () => {
    const { bundle, model } = await planned(runtime, net(), TARGET, recipe);
    expect(checkPlanAgainst(bundle, model, targetOf(TARGET))).toEqual([]);
    expect(weightsOf(bundle).map((s) => [s.value, s.form])).toEqual(
      recipe === "nvfp4"
        ? ["p.w", "g.w", "o.w"].map((v) => [v, recipe]) // 48 is three blocks of 16
        : ["p.w", "g.w"].map((v) => [v, recipe]),
    );
    const why = bundle.plan.skips.filter((s) => s.op === "MatMul").map((s) => `${s.code}: ${s.detail}`);
    expect(why).toContain(`shape: no block of ${recipe === "nvfp4" ? 16 : 32} divides [8,4]`);
    if (recipe === "mxfp8") expect(why).toContain("shape: no block of 32 divides [48,6]");
    expect(printSites(bundle)[0]).toBe(
      recipe === "nvfp4" ? "static h float4e2m1/block 16 -> p#0 g#0" : "dynamic h float8e4m3fn/block 32 -> p#0 g#0",
    );
  });

  test("the activation's rounding equals a search over all codes, and the two simulations agree bit for bit", async () => {
    const source = net();
    const { bundle, model } = await planned(runtime, source, TARGET, recipe);
    const [sim, low] = [simulate(model, bundle), lower(model, bundle, targetOf(TARGET), { simulateBlocks: true })];
    expect(checkModel(low)).toEqual([]);
    const [a, b] = [await run(sim, source), await run(low, source)];
    for (const name of Object.keys(a)) expect(b[name]!.data).toEqual(a[name]!.data);
    // The values that the products read, made graph outputs.
    const site = bundle.plan.sites.find((s) => s.value === "h")!;
    const scale = site.kind === "static" && Array.isArray(site.scale) ? site.scale[0]! : 1;
    const rounded = ops(sim, "Gemm")[0]!.inputs[0]!;
    const h = ops(sim, "Mul").find((n) => n.outputs[0]!.name === "h")!.outputs[0]!;
    sim.graph.outputs.push(rounded, h);
    const y = await run(sim, source);
    const x = y["h"]!.data as Float32Array;
    // Adding 0 takes the sign off zeros: float4 has -0, and a product of signs gives 0.
    const plain = (t: Float32Array) => t.map((v) => v + 0);
    expect(plain(y[rounded.name]!.data as Float32Array)).toEqual(plain(reference(x, 64, recipe, scale)));
  });

  test("codes are really packed, scales take 8 bits, and what is stored is what is simulated", async () => {
    const source = net();
    const { bundle, model } = await planned(runtime, source, TARGET, recipe);
    const file = readModel(writeModel(lower(model, bundle, targetOf(TARGET))));
    expect(checkModel(file)).toEqual([]);
    expect(file.opsets.get("trt")).toBe(1);
    const [codes, scales] = ["p.w_quantized", "p.w_scale"].map((n) => file.graph.values.get(n)!.data!);
    expect([codes!.dtype, codes!.byteLength]).toEqual(recipe === "nvfp4" ? ["float4e2m1", 32 * 48] : ["float8e4m3fn", 64 * 48]);
    expect([scales!.dtype, scales!.byteLength]).toEqual(recipe === "nvfp4" ? ["float8e4m3fn", 4 * 48] : ["uint8", 2 * 48]);
    const simulated = ops(simulate(model, bundle), "MatMul").find((n) => n.outputs[0]!.name === "p")!.inputs[1]!.data!;
    const want = new Float32Array(simulated.bytes().slice().buffer);
    const [c, s] = [codes!.bytes(), scales!.bytes()];
    const t = weightsOf(bundle)[0]!.tensorScale ?? 1;
    for (let k = 0; k < 64; k++)
      for (let n = 0; n < 48; n++) {
        const i = k * 48 + n;
        const real =
          recipe === "nvfp4"
            ? fromFloat4((c[i >> 1]! >> (4 * (i & 1))) & 15) * Math.fround(fromFloat8(s[Math.floor(k / 16) * 48 + n]!) * t)
            : fromFloat8(c[i]!) * 2 ** (s[Math.floor(k / 32) * 48 + n]! - 127);
        expect(want[i]).toBe(Math.fround(real));
      }
    expect(lintModel(file, targetOf(TARGET)).filter((f) => f.kind !== "slow")).toEqual([]);
  });

  test("with float16 around, scales stay float32 and every reader has one type", async () => {
    const source = net();
    const target = targetOf(TARGET);
    const { bundle, model, proposal } = await planned(runtime, source, TARGET, recipe);
    const wish = { ...recipeOf(recipe), floatType: "float16" as const };
    const half = castRest(bundle, { model, types: proposal.input.types, recipe: wish, target, stats: undefined });
    const file = lower(model, half, target);
    expect(checkModel(file)).toEqual([]);
    for (const n of ops(file, "TRT_FP4DynamicQuantize")) expect(n.inputs[1]!.data!.dtype).toBe("float32");
    for (const n of [...ops(file, "MatMul"), ...ops(file, "Gemm")])
      expect(n.inputs.map((v) => v!.data?.dtype ?? (v!.type?.kind === "tensor" ? v!.type.elem : ""))).toEqual(
        n.inputs.map(() => "float16"),
      );
    // The simulation with both: half a percent of rounding to 11 bits on top of the codes'.
    const [a, b] = [
      await run(lower(model, bundle, target, { simulateBlocks: true }), source),
      await run(lower(model, half, target, { simulateBlocks: true, simulateRest: true }), source),
    ];
    const [x, y] = [a["g"]!.data as Float32Array, b["g"]!.data as Float32Array];
    const most = Math.max(...x.map(Math.abs));
    x.forEach((v, i) => {
      expect(Math.abs(v - y[i]!)).toBeLessThan(0.05 * most);
    });
  });

  test("a plan that was edited into what the format cannot hold is refused, by constraint", async () => {
    const { bundle, model } = await planned(runtime, net(), TARGET, recipe);
    const broken = (edit: (s: Site) => Site): string[] =>
      checkPlanAgainst({ ...bundle, plan: { ...bundle.plan, sites: bundle.plan.sites.map(edit) } }, model, targetOf(TARGET)).map((d) =>
        "constraint" in d ? String(d.constraint).slice(0, 3).trim() : "",
      );
    expect(broken((s) => (s.kind === "weight" ? { ...s, scale: [0.3] } : s))).toContain("P2");
    expect(broken((s) => (s.kind === "weight" && s.tensorScale ? { ...s, tensorScale: 0 } : s)).includes("P2")).toBe(recipe === "nvfp4");
    expect(broken((s) => (s.kind === "weight" ? s : { ...s, consumers: "all", value: "x" }))).toContain("P12");
  });
});

test("architectures and versions without the types are told so before any work", async () => {
  const ask = (target: string, recipe: string) =>
    planned(runtime, net(), target, recipe).then(
      () => "taken",
      (e: Error) => e.message,
    );
  expect(await ask("tensorrt@11:sm89", "nvfp4")).toMatch(/compute capability 10\.0/);
  expect(await ask("tensorrt@10:sm89", "mxfp8")).toMatch(/compute capability 10\.0|no operator/);
  expect(await ask("tensorrt@8.6", "nvfp4")).not.toBe("taken");
  expect(await ask("tensorrt@10.8:sm100", "nvfp4")).toBe("taken");
  expect(await ask("tensorrt@10.8:sm100", "mxfp8")).toMatch(/10\.12/);
  expect(await ask("tensorrt@10.12:sm100", "mxfp8")).toBe("taken");
  expect(await ask("ort-cpu", "nvfp4")).not.toBe("taken");
});
