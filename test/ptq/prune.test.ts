import { afterAll, beforeAll, expect, test } from "vitest";
import { checkModel } from "../../src/graph/check.ts";
import type { Model, Value } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { asFloat32, floats } from "../../src/graph/tensor.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { layersOf } from "../../src/ptq/layers.ts";
import { channelsOf } from "../../src/ptq/prune/groups.ts";
import { pruneModel } from "../../src/ptq/prune/index.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { planned } from "../plan/nets.ts";
import { Builder, feedsOf } from "../prepare/build.ts";
import { seededSet } from "./data.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** Stem, two branches of which one is a depthwise pair, a residual sum, a Concat, pooling, a classifier. */
function net(change: (name: string, w: Float32Array, rows: number) => void = () => {}): Model {
  const b = new Builder(17);
  const conv = (v: Value, name: string, o: number, i: number, k: number, more: Record<string, number> = {}): Value => {
    const weight = b.weight(`${name}.w`, [o, i, k, k]);
    const bias = b.weight(`${name}.b`, [o]);
    const w = asFloat32(weight.data!).map((x) => x / Math.sqrt(i * k * k));
    const c = asFloat32(bias.data!).slice();
    change(`${name}.w`, w, o);
    change(`${name}.b`, c, o);
    b.g.setData(weight, floats(w, [o, i, k, k]));
    b.g.setData(bias, floats(c, [o]));
    const p = (k - 1) / 2;
    return b.node("Relu", [b.node("Conv", [v, weight, bias], { pads: [p, p, p, p], ...more }, name)]);
  };
  const x = b.input("x", ["n", 3, 10, 10]);
  const s = conv(x, "stem", 8, 3, 3);
  const left = conv(conv(s, "l1", 12, 8, 1), "ldw", 12, 1, 3, { group: 12 });
  const sum = b.node("Add", [conv(left, "l2", 8, 12, 1), s], {}, "sum");
  const right = conv(s, "r1", 6, 8, 3);
  const all = b.node("Concat", [sum, right], { axis: 1 }, "cat");
  const last = conv(all, "last", 16, 14, 1);
  const flat = b.node("Flatten", [b.node("GlobalAveragePool", [last])]);
  return b.output(b.node("Gemm", [flat, b.weight("fc.w", [16, 5]), b.weight("fc.b", [5])], {}, "y"));
}

async function setUp(source: Model) {
  const { model, types } = await prepareModel(source, runtime, { feeds: feedsOf(source) });
  const data = seededSet(model, 16);
  return { model, types, runtime, data, calibrate: data.roles.calibrate, seed: 0, multiple: 1 };
}
async function outputs(model: Model): Promise<Float32Array> {
  expect(checkModel(model).filter((d) => d.code.startsWith("graph/") && "error" in d)).toEqual([]);
  const session = await runtime.open(writeModel(model), {});
  try {
    return Object.values(await session.run(feedsOf(model, 99)))[0]!.data as Float32Array;
  } finally {
    await session.release();
  }
}
const noise = (x: Float32Array, y: Float32Array) =>
  x.reduce((sum, v, i) => sum + (v - y[i]!) ** 2, 0) / x.reduce((sum, v) => sum + v * v, 0);

test("what depends on what: sums and Concats join, depthwise kernels pass on, outputs stay", async () => {
  const { model, types } = await setUp(net());
  const { bundle } = await planned(runtime, net(), "portable", "int8-weights");
  const channels = channelsOf(model, types, layersOf(model, bundle));
  const by = new Map<string, number>();
  for (const c of channels) by.set(c.family, (by.get(c.family) ?? 0) + 1);
  // The residual sum ties stem and l2; the classifier's outputs are the network's.
  expect(Object.fromEntries(by)).toEqual({ "l2\nstem": 8, l1: 12, r1: 6, last: 16 });
  const inner = channels.find((c) => c.family === "l1")!;
  expect(inner.through.map((t) => t.layer.key)).toEqual(["ldw"]);
  expect(inner.reads.map((r) => r.layer.key)).toEqual(["l2"]);
  const tied = channels.find((c) => c.family === "l2\nstem")!;
  expect(tied.reads.map((r) => r.layer.key).sort()).toEqual(["l1", "last", "r1"]);
});

test("nothing taken out is the network itself", async () => {
  const s = await setUp(net());
  const r = await pruneModel({ ...s, fraction: 0 });
  expect(r.model).toBe(s.model);
  expect(r.pruned).toBeUndefined();
});

test("channels that are zero go first, and nothing changes", async () => {
  const dead = new Set([1, 4, 7, 9]);
  const zero = (name: string, w: Float32Array, rows: number) => {
    if (!name.startsWith("l1.")) return;
    const per = w.length / rows;
    for (const m of dead) w.fill(0, m * per, (m + 1) * per);
  };
  const s = await setUp(net(zero));
  const before = await outputs(s.model);
  // Rows of l1, kernels of ldw, inputs of l2: 4 of 12 channels.
  const r = await pruneModel({ ...s, fraction: 0.02 });
  expect(r.macs.after).toBeLessThan(r.macs.before);
  expect(r.pruned!.groups.every((g) => g.of.join() === "l1" && g.kept >= 8)).toBe(true);
  expect(noise(before, await outputs(r.model))).toBeLessThan(1e-7);
});

test("of equal channels one is free: the readers' repair makes good for it", async () => {
  const twice = (name: string, w: Float32Array, rows: number) => {
    if (!name.startsWith("r1.") && !name.startsWith("last.")) return;
    const per = w.length / rows;
    for (let m = 1; m < rows; m += 2) w.copyWithin(m * per, (m - 1) * per, m * per);
  };
  const s = await setUp(net(twice));
  const before = await outputs(s.model);
  const r = await pruneModel({ ...s, fraction: 0.2 });
  expect(Object.fromEntries(r.pruned!.groups.map((g) => [g.of.join(), g.kept]))).toMatchObject({ r1: expect.any(Number) });
  for (const g of r.pruned!.groups) expect(g.kept, g.of.join()).toBeGreaterThanOrEqual(g.channels / 2);
  // Damping (1e-4 of the mean diagonal) is what is left.
  expect(noise(before, await outputs(r.model))).toBeLessThan(1e-5);
});

test("shapes follow, a multiple is kept to, equal inputs give equal bytes, and the repair is worth it", async () => {
  const s = await setUp(net());
  const before = await outputs(s.model);
  const r = await pruneModel({ ...s, fraction: 0.4, multiple: 2 });
  expect(r.macs.after / r.macs.before).toBeLessThan(0.6);
  for (const g of r.pruned!.groups) expect(g.kept % 2).toBe(0);
  const after = await outputs(r.model);
  const again = await pruneModel({ ...s, fraction: 0.4, multiple: 2 });
  expect(writeModel(again.model)).toEqual(writeModel(r.model));
  const shape = (m: Model, name: string) => m.graph.values.get(name)!.data!.shape;
  const kept = (family: string) => r.pruned!.groups.find((g) => g.of.join() === family)?.kept;
  const inner = kept("l1") ?? 12;
  const tied = kept("l2,stem") ?? 8;
  expect(shape(r.model, "ldw.w")).toEqual([inner, 1, 3, 3]);
  expect(shape(r.model, "l2.w")).toEqual([tied, inner, 1, 1]);
  expect(shape(r.model, "last.w")[1]).toBe(tied + (kept("r1") ?? 6));
  // Cut without repair: the same channels, the original numbers.
  const constants = new Map(r.pruned!.constants.map((c) => [c.value, r.tensors.get(c.tensor.tensor)!]));
  expect(noise(before, after)).toBeLessThan(0.2);
  expect(constants.size).toBeGreaterThan(4);
});
