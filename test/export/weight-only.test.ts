import { afterAll, beforeAll, expect, test } from "vitest";
import { lower } from "../../src/export/lower/index.ts";
import { intAttr } from "../../src/graph/attr.ts";
import { checkModel } from "../../src/graph/check.ts";
import type { Model } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { allNodes } from "../../src/graph/walk.ts";
import { recipeOf } from "../../src/plan/recipes/index.ts";
import { tuneRecipe } from "../../src/plan/recipes/tune.ts";
import { simulate } from "../../src/plan/simulate.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import type { Tensor } from "../../src/runtime/types.ts";
import { planned } from "../plan/nets.ts";
import { Builder, feedsOf } from "../prepare/build.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** A MatMul, a Gemm with a transposed weight and a bias, a MatMul whose sums 64 does not divide. */
function products(): Model {
  const b = new Builder(17);
  const x = b.input("x", [5, 128]);
  const a = b.node("Tanh", [b.node("MatMul", [x, b.weight("a", [128, 64])], {}, "a.y")]);
  const c = b.node("Tanh", [b.node("Gemm", [a, b.weight("c", [80, 64]), b.weight("c.b", [80])], { transB: 1 }, "c.y")]);
  return b.output(b.node("MatMul", [c, b.weight("d", [80, 16])], {}, "y"));
}

async function run(model: Model, source: Model): Promise<Record<string, Tensor>> {
  const session = await runtime.open(writeModel(model));
  try {
    return await session.run(feedsOf(source, 9));
  } finally {
    await session.release();
  }
}
function sqnr(a: Record<string, Tensor>, b: Record<string, Tensor>): number {
  let [signal, noise] = [0, 0];
  for (const [k, t] of Object.entries(a))
    (t.data as Float32Array).forEach((x, i) => {
      signal += x * x;
      noise += (x - (b[k]!.data as Float32Array)[i]!) ** 2;
    });
  return 10 * Math.log10(signal / noise);
}
const ops = (m: Model, op: string) => [...allNodes(m)].filter((n) => n.op === op);

test.each([
  ["nf4-weights", 1],
  ["fp4-weights", 0],
] as const)("%s: the engine's MatMulBnb4 computes what the plan means", async (recipe, type) => {
  const source = products();
  const p = await planned(runtime, source, "ort-cpu", recipe);
  const q = lower(p.model, p.bundle, targetOf("ort-cpu"));
  expect(checkModel(q)).toEqual([]);
  const found = ops(q, "MatMulBnb4");
  // 80 inputs: blocks of 16 divide them where blocks of 64 do not.
  expect(found.map((n) => intAttr(n, "block_size", 0))).toEqual([64, 64, 16]);
  expect(found.map((n) => intAttr(n, "quant_type", -1))).toEqual([type, type, type]);
  expect(sqnr(await run(simulate(p.model, p.bundle), source), await run(q, source))).toBeGreaterThan(90);
  expect(sqnr(await run(source, source), await run(q, source))).toBeGreaterThan(8);
});

test.each(["portable", "ort-cpu"])("%s: uint8-dynamic has unsigned weights with a zero point in the middle", async (target) => {
  const source = products();
  const p = await planned(runtime, source, target, "uint8-dynamic");
  const q = lower(p.model, p.bundle, targetOf(target));
  const found = ops(q, "MatMulInteger");
  expect(found.map((n) => n.inputs[1]!.data!.dtype)).toEqual(["uint8", "uint8", "uint8"]);
  expect(found.every((n) => n.inputs[3]!.data!.bytes().every((b) => b === 128))).toBe(true);
  expect(sqnr(await run(simulate(p.model, p.bundle), source), await run(q, source))).toBeGreaterThan(30);
});

test.each([
  ["int8-weights", 8, { block: "32" }],
  ["int4-weights", 4, { tables: "4" }],
  ["int4-weights", 4, { tables: "4", symmetric: true, block: "16" }],
  ["int2-weights", 2, { tables: "2" }],
] as const)("%s: a table and the product that reads it are one packed tensor of %i bits (%o)", async (recipe, bits, tuning) => {
  const source = wideTied();
  const p = await planned(runtime, source, "ort-cpu", recipe, { recipe: tuneRecipe(recipeOf(recipe), { tables: "8", ...tuning }) });
  const q = lower(p.model, p.bundle, targetOf("ort-cpu"));
  expect(checkModel(q)).toEqual([]);
  const [gather] = ops(q, "GatherBlockQuantized");
  const head = ops(q, "MatMulNBits").at(-1)!;
  expect(gather!.inputs[0]!.producer!.inputs[0]).toBe(head.inputs[1]);
  expect(gather!.inputs[2]).toBe(head.inputs[2]);
  expect(intAttr(head, "bits", 0)).toBe(bits);
  for (const level of ["disabled", "all"] as const) {
    const session = await runtime.open(writeModel(q), { level });
    const got = await session.run(feedsOf(source, 9));
    await session.release();
    expect(sqnr(await run(simulate(p.model, p.bundle), source), got)).toBeGreaterThan(80);
  }
});

test("--tables float leaves lookups alone, and their products have the recipe's bits; accuracy_level is written where it is asked for", async () => {
  const tuned = tuneRecipe(recipeOf("int4-weights"), { tables: "float", accuracyLevel: 4, block: "64" });
  const p = await planned(runtime, wideTied(), "ort-cpu", "int4-weights", { recipe: tuned });
  const q = lower(p.model, p.bundle, targetOf("ort-cpu"));
  expect(ops(q, "Gather")).toHaveLength(1);
  const products = ops(q, "MatMulNBits");
  expect(products.map((n) => [intAttr(n, "bits", 0), intAttr(n, "accuracy_level", 0), intAttr(n, "block_size", 0)])).toEqual([
    [4, 4, 64],
    [4, 4, 64],
  ]);
  expect(p.bundle.plan.skips.find((s) => s.op === "Gather")?.detail).toBe("tables stay float");
  expect(() => tuneRecipe(recipeOf("int8"), { block: "32" })).toThrow("--block");
});

/** An embedding of 64 inputs whose table is the output projection too. */
function wideTied(): Model {
  const b = new Builder(17);
  const ids = b.g.addInput("ids", { kind: "tensor", elem: "int64", shape: [1, 3] });
  const table = b.weight("table", [32, 64]);
  const h = b.node("Gather", [table, ids], {}, "h");
  const r = b.node("Add", [h, b.node("MatMul", [h, b.weight("w", [64, 64])], {}, "mm")], {}, "res");
  return b.output(b.node("MatMul", [r, b.node("Transpose", [table], { perm: [1, 0] })], {}, "logits"));
}
