import { afterAll, beforeAll, expect, test } from "vitest";
import { lower } from "../../src/export/lower/index.ts";
import { intAttr } from "../../src/graph/attr.ts";
import { checkModel } from "../../src/graph/check.ts";
import type { Model } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { allNodes } from "../../src/graph/walk.ts";
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
