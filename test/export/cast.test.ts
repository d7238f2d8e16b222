import { afterAll, beforeAll, expect, test } from "vitest";
import { lower } from "../../src/export/lower/index.ts";
import { checkModel } from "../../src/graph/check.ts";
import { readModel, writeModel } from "../../src/graph/onnx/index.ts";
import { simulate } from "../../src/plan/simulate.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import type { Feeds, OptLevel } from "../../src/runtime/types.ts";
import { planned } from "../plan/nets.ts";
import { Builder, feedsOf } from "../prepare/build.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** Convolutions (one in groups of one channel) and a matrix, large enough for weights to be most of the file. */
function net() {
  const b = new Builder(17);
  const x = b.input("x", [1, 32, 8, 8]);
  const a = b.node(
    "Relu",
    [b.node("Conv", [x, b.weight("a.w", [64, 32, 3, 3]), b.weight("a.b", [64])], { pads: [1, 1, 1, 1] }, "a")],
    {},
    "ra",
  );
  const d = b.node("Relu", [b.node("Conv", [a, b.weight("d.w", [64, 1, 3, 3])], { group: 64 }, "d")], {}, "rd");
  const f = b.node("Flatten", [d], {}, "f");
  const m = b.node("MatMul", [f, b.weight("m.w", [2304, 16])], {}, "m");
  return b.output(b.node("Relu", [m], {}, "y"));
}

test("4-bit weights beside 8-bit activations on ort-cpu: small in the file, int8 in the kernels, one result at every level", async () => {
  const source = net();
  const target = targetOf("ort-cpu");
  const p = await planned(runtime, source, "ort-cpu", "w4a8");
  const sites = p.bundle.plan.sites.flatMap((s) => (s.kind === "weight" ? [s] : []));
  expect(sites.map((s) => [s.form, s.scheme.dtype])).toEqual([
    ["qdq-cast", "int4"],
    ["qdq-cast", "int4"],
    ["qdq-cast", "int4"],
  ]);
  const model = lower(p.model, p.bundle, target);
  expect(checkModel(model)).toEqual([]);
  const bytes = writeModel(model);
  const int8 = await planned(runtime, source, "ort-cpu", "int8");
  const eight = writeModel(lower(int8.model, int8.bundle, target)).byteLength;
  expect(bytes.byteLength).toBeLessThan(0.6 * eight);
  const feeds = feedsOf(source, 3);
  const meant = await outputOf(writeModel(simulate(p.model, p.bundle)), "disabled", feeds);
  const exact = await outputOf(bytes, "disabled", feeds);
  expectClose(exact, meant);
  const levels: readonly OptLevel[] = ["basic", "extended", "layout", "all"];
  for (const level of levels) {
    const y = await outputOf(bytes, level, feeds);
    // Integer kernels differ by a code of the output here and there.
    const most = Math.max(...exact.map(Math.abs));
    expect(Math.max(...y.map((v, i) => Math.abs(v - exact[i]!))), level).toBeLessThan(most / 60);
  }
  // What runs: the cast is gone, and so is every float product of a convolution.
  const session = await runtime.open(bytes, { level: "all", profile: true, keepGraph: true });
  const ops = readModel(await session.optimized()).graph.nodes.map((n) => n.op);
  await session.release();
  expect(ops).not.toContain("Cast");
  expect(ops).not.toContain("Conv");
  expect(ops.filter((o) => o === "QLinearConv")).toHaveLength(2);
  expect(ops.some((o) => o === "QLinearMatMul" || o === "MatMulIntegerToFloat")).toBe(true);
});

test("4-bit convolutions for tensorrt are requantized to 8 bits behind their DequantizeLinear", async () => {
  const p = await planned(runtime, net(), "tensorrt", "w4a8");
  const forms = p.bundle.plan.sites.flatMap((s) =>
    s.kind === "weight" ? [`${s.form} ${s.scheme.dtype}/${s.scheme.granularity.kind}`] : [],
  );
  expect(forms).toEqual(["qdq-requantized int4/channel", "qdq-requantized int4/channel", "qdq-requantized int4/block"]);
  const model = lower(p.model, p.bundle, targetOf("tensorrt"));
  expect(checkModel(model)).toEqual([]);
  const feeds = feedsOf(net(), 3);
  const [y, meant] = [
    await outputOf(writeModel(model), "disabled", feeds),
    await outputOf(writeModel(simulate(p.model, p.bundle)), "disabled", feeds),
  ];
  expectClose(y, meant);
});

async function outputOf(file: Uint8Array, level: OptLevel, feeds: Feeds): Promise<number[]> {
  const s = await runtime.open(file, { level });
  const { y } = await s.run(feeds);
  await s.release();
  return [...(y!.data as Float32Array)];
}

/** Constants are packed for the product, results of a DequantizeLinear are not: sums of 2304 products in another order. */
function expectClose(a: readonly number[], b: readonly number[]): void {
  const most = Math.max(...b.map(Math.abs));
  expect(Math.max(...a.map((x, i) => Math.abs(x - b[i]!)))).toBeLessThan(1e-5 * most);
}
