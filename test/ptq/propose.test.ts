import { afterAll, beforeAll, expect, test } from "vitest";
import { Observer } from "../../src/calibrate/observer.ts";
import { lower } from "../../src/export/lower/index.ts";
import { constantOf } from "../../src/graph/constant.ts";
import { type Model, newModel, type Value } from "../../src/graph/ir.ts";
import { tensorType } from "../../src/graph/types.ts";
import { simulate } from "../../src/plan/simulate.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { matchNodes } from "../../src/ptq/match.ts";
import { planOf } from "../../src/ptq/ranges.ts";
import { bulkSqnrDb, LEAST_DB } from "../../src/ptq/sound.ts";
import { chooseSymmetric } from "../../src/quant/affine.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { planned, printSites, residualNet, tiedNet } from "../plan/nets.ts";
import { Builder, feedsOf, numbers, runModel } from "../prepare/build.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const sites = async (make: Model, target: string, recipe = "int8", more = {}): Promise<string[]> =>
  printSites((await planned(runtime, make, target, recipe, more)).bundle);

test("portable: inputs of products alone", async () => {
  expect(await sites(residualNet(), "portable")).toMatchInlineSnapshot(`
    [
      "static x uint8 -> a#0",
      "static ra uint8 -> c#0",
      "static flat uint8 -> y#0",
      "weight a.w int8/axis 0 -> a#1",
      "weight c.w int8/axis 0 -> c#1",
      "weight fc.w int8/axis 1 -> y#1",
      "float Relu ra: op-is-float",
      "float Add sum: op-is-float",
      "float Relu rs: op-is-float",
      "float GlobalAveragePool pool: op-is-float",
      "float Flatten flat: op-is-float",
    ]
  `);
});

test("w4a4: the first and the last product in 8 bits, one value stored twice where its readers differ", async () => {
  expect((await sites(residualNet(), "portable", "w4a4")).filter((x) => !x.startsWith("float"))).toEqual([
    "static x uint8 -> a#0",
    "static ra uint4 -> c#0",
    "static flat uint8 -> y#0",
    "weight a.w int8/axis 0 -> a#1",
    "weight c.w int4/axis 0 -> c#1",
    "weight fc.w int8/axis 1 -> y#1",
  ]);
  const b = new Builder();
  const product = (v: Value, name: string) => b.node("MatMul", [v, b.weight(`${name}.w`, [4, 4])], {}, name);
  const first = product(b.input("x", [2, 4]), "first");
  b.output(product(first, "last"));
  const made = b.output(product(product(first, "middle"), "end"));
  const { bundle, model } = await planned(runtime, made, "portable", "w4a4");
  const types = bundle.plan.sites.flatMap((s) => (s.kind === "static" ? [s.scheme.dtype] : []));
  expect(types.sort()).toEqual(["uint4", "uint8", "uint8", "uint8"]);
  expect(bundle.plan.opset).toBe(21);
  const feeds = feedsOf(model);
  const [exported, meant] = [lower(model, bundle, targetOf("portable")), simulate(model, bundle)];
  expect(await runModel(runtime, exported, feeds)).toEqual(await runModel(runtime, meant, feeds));
});

test.each(["ort-cpu", "tensorrt"])("%s has no 4-bit activations and says so", async (target) => {
  await expect(sites(residualNet(), target, "w4a4")).rejects.toThrow(/w4a4/);
});

test("tensorrt: the skip connection too, and not the Conv that feeds the sum", async () => {
  expect(await sites(residualNet(), "tensorrt")).toMatchInlineSnapshot(`
    [
      "static x int8 -> a#0",
      "static ra int8 -> c#0 sum#1",
      "static flat int8 -> y#0",
      "weight a.w int8/axis 0 -> a#1",
      "weight c.w int8/axis 0 -> c#1",
      "weight fc.w int8/axis 1 -> y#1",
      "float Relu ra: op-is-float",
      "float Relu rs: op-is-float",
      "float GlobalAveragePool pool: op-is-float",
      "float Flatten flat: target-slow",
    ]
  `);
});

test("ort-cpu: whole regions, the Relus absorbed", async () => {
  expect(await sites(residualNet(), "ort-cpu")).toMatchInlineSnapshot(`
    [
      "static x uint8 -> a#0",
      "static ra uint8 -> all",
      "static c uint8 -> all",
      "static rs uint8 -> all",
      "static pool uint8 -> all",
      "static flat uint8 -> all",
      "weight a.w int8/axis 0 -> a#1",
      "weight c.w int8/axis 0 -> c#1",
      "weight fc.w int8/axis 1 -> y#1",
    ]
  `);
});

test("a tied table is one value with two forms; a normalization and a residual stream stay float", async () => {
  expect(await sites(tiedNet(), "portable")).toMatchInlineSnapshot(`
    [
      "static norm uint8 -> mm#0",
      "static res uint8 -> logits#0",
      "weight table int8/axis 0 -> h#0 as gather-codes",
      "weight table int8/axis 0 -> transpose#0",
      "weight w int8/axis 1 -> mm#1",
      "float Mul mul: region",
      "float ReduceMean reducemean: region",
      "float Add add: region",
      "float Sqrt sqrt: region",
      "float Div norm: region",
      "float Add res: op-is-float",
    ]
  `);
  expect((await sites(tiedNet(), "ort-cpu")).filter((s) => s.startsWith("static"))).toMatchInlineSnapshot(`
    [
      "static norm uint8 -> mm#0",
      "static res uint8 -> logits#0",
    ]
  `);
});

test("ort-cpu leaves in float what its kernels run slower: few input channels, odd depthwise behind it, average pools", async () => {
  const b = new Builder(17);
  const x = b.input("x", [1, 3, 16, 16]);
  const a = b.node("Relu", [b.node("Conv", [x, b.weight("w0", [8, 3, 3, 3])], { pads: [1, 1, 1, 1] }, "a")], {}, "ra");
  const d = b.node("Relu", [b.node("Conv", [a, b.weight("w1", [8, 1, 3, 3])], { group: 8, pads: [1, 1, 1, 1] }, "d")], {}, "rd");
  const e = b.node("Conv", [d, b.weight("w2", [16, 8, 1, 1])], {}, "e");
  const p = b.node("AveragePool", [e], { kernel_shape: [2, 2], strides: [2, 2] }, "p");
  const model = b.output(b.node("Conv", [p, b.weight("w3", [8, 16, 1, 1])], {}, "y"));
  expect(await sites(model, "ort-cpu")).toMatchInlineSnapshot(`
    [
      "static rd uint8 -> e#0",
      "static e uint8 -> all",
      "static p uint8 -> y#0",
      "static y uint8 -> all",
      "weight w2 int8/axis 0 -> e#1",
      "weight w3 int8/axis 0 -> y#1",
      "float Conv a: target-slow",
      "float Conv d: target-slow",
      "float Relu ra: target-slow",
      "float Relu rd: target-slow",
      "float AveragePool p: op-is-float",
    ]
  `);
  const q = await planned(runtime, model, "ort-cpu");
  const names = lower(q.model, q.bundle, targetOf("ort-cpu")).graph.nodes.map((n) => n.op);
  expect(names[names.indexOf("AveragePool") + 1]).toBe("Max");
});

test("weights inside a branch are stored as codes, their activations stay float", async () => {
  const model = newModel(17, 8);
  const { graph } = model;
  const cond = graph.addInput("cond", tensorType("bool", []));
  const x = graph.addInput("x", tensorType("float32", [4, 16]));
  const b = new Builder(17);
  const branch = (name: string) => {
    const g = new (graph.constructor as typeof import("../../src/graph/ir.ts").Graph)(name, graph);
    const w = g.constant(b.weight(name, [16, 16]).data!, `${name}.w`);
    g.addOutput(g.append({ op: "MatMul", name: `${name}.mm`, inputs: [x, w], outputs: [`${name}.y`] }).outputs[0]!);
    return g;
  };
  const node = graph.append({
    op: "If",
    name: "choose",
    inputs: [cond],
    outputs: ["y"],
    attrs: { then_branch: { kind: "graph", value: branch("t") }, else_branch: { kind: "graph", value: branch("e") } },
  });
  node.outputs[0]!.type = tensorType("float32", [4, 16]);
  graph.addOutput(node.outputs[0]!);
  const p = await planned(runtime, model, "portable");
  expect(printSites(p.bundle)).toMatchInlineSnapshot(`
    [
      "weight choose/then_branch/t.w int8/axis 1 -> choose/then_branch/t.mm#1",
      "weight choose/else_branch/e.w int8/axis 1 -> choose/else_branch/e.mm#1",
    ]
  `);
  const q = lower(p.model, p.bundle, targetOf("portable"));
  const feeds = feedsOf(model, 3);
  const [a, c] = [await runModel(runtime, model, feeds), await runModel(runtime, q, feeds)];
  (a.y!.data as Float32Array).forEach((v, i) => {
    expect(Math.abs(v - (c.y!.data as Float32Array)[i]!)).toBeLessThan(0.05);
  });
});

test("every node with float data that is not quantized has one skip", async () => {
  for (const target of ["portable", "ort-cpu", "tensorrt"])
    for (const make of [residualNet, tiedNet]) {
      const p = await planned(runtime, make(), target);
      const names = p.bundle.plan.skips.map((s) => s.node);
      expect(new Set(names).size).toBe(names.length);
      const floats = p.model.graph.nodes.filter(
        (n) => !p.proposal.quantized.has(n.name) && !p.proposal.weights.some((w) => w.nodes.includes(n)),
      );
      // The Transpose of a constant belongs to the weight.
      for (const n of floats.filter((f) => !constantOf(f.outputs[0]))) expect(names).toContain(n.name);
    }
});

test("--skip takes names, globs and operators; a pattern without a match is an error", async () => {
  const skipped = await sites(residualNet(), "portable", "int8", { skip: ["op:Gemm"] });
  expect(skipped.some((s) => s.includes("fc.w"))).toBe(false);
  expect(skipped.find((s) => s.includes("Gemm"))).toMatch(/user$/);
  const model = residualNet();
  const gemm = model.graph.nodes.at(-1)!;
  gemm.name = "head.fc";
  expect([...matchNodes(model, ["head.*"])]).toEqual([gemm]);
  expect([...matchNodes(model, ["head.?c"])]).toEqual([gemm]);
  expect(() => matchNodes(model, ["head.fd"])).toThrow('Did you mean "head.fc"?');
  expect(() => matchNodes(model, ["op:Gem"])).toThrow('Did you mean "op:Gemm"?');
});

test("a recipe without data asks for none; one with data says so when there is none", async () => {
  expect((await planned(runtime, residualNet(), "portable", "int8-weights")).proposal.values).toEqual([]);
  const p = await planned(runtime, residualNet(), "portable");
  expect(() => planOf(p.proposal, undefined, undefined)).toThrow('Recipe "int8" needs statistics of the activations');
});

test("values joined by data movement share parameters where the target moves codes", async () => {
  const make = () => {
    const b = new Builder(17);
    const x = b.input("x", [1, 8, 8, 8]);
    const c = b.node("Conv", [x, b.weight("w", [8, 8, 1, 1])], {}, "c");
    const m = b.node("MaxPool", [c], { kernel_shape: [2, 2], strides: [2, 2] }, "m");
    return b.output(b.node("Conv", [m, b.weight("v", [8, 8, 1, 1])], {}, "y"));
  };
  const { bundle } = await planned(runtime, make(), "ort-cpu");
  const [c, m] = ["c", "m"].map((v) => bundle.plan.sites.find((s) => s.kind === "static" && s.value === v));
  expect(c?.kind === "static" && m?.kind === "static" && [c.scale, c.zeroPoint]).toEqual(m?.kind === "static" && [m.scale, m.zeroPoint]);
});

test("what a range leaves of the bulk", () => {
  const next = numbers(3);
  const bulk = Float32Array.from({ length: 40_000 }, () => next() + next() + next());
  const q = (absmax: number) => chooseSymmetric(absmax, "int8");
  const stats = (x: Float32Array) => {
    const o = new Observer("v");
    o.add(x);
    return o.result();
  };
  /** The same over the elements themselves. */
  const exact = (x: Float32Array, absmax: number): number => {
    const { scale } = q(absmax);
    const part = [...x].sort((a, b) => Math.abs(a) - Math.abs(b)).slice(0, Math.round(0.999 * x.length));
    const noise = part.reduce((s, v) => s + (v - Math.max(-128, Math.min(127, Math.round(v / scale))) * scale) ** 2, 0);
    return 10 * Math.log10(part.reduce((s, v) => s + v * v, 0) / noise);
  };
  for (const absmax of [3, 1, 10, 60]) expect(Math.abs(bulkSqnrDb(stats(bulk), q(absmax)) - exact(bulk, absmax))).toBeLessThan(0.3);
  // One element far out: plain SQNR would be above 40 dB, the bulk keeps nothing.
  const spiked = bulk.slice();
  spiked[7] = 3000;
  expect(bulkSqnrDb(stats(spiked), q(3000))).toBeLessThan(LEAST_DB);
  // A finite mask: 0 and -1e9 in a sum of scores.
  const masked = bulk.slice();
  for (let i = 0; i < masked.length; i += 2) masked[i] = -1e9;
  expect(bulkSqnrDb(stats(masked), q(1e9))).toBeLessThan(LEAST_DB);
  // Two clusters that both survive, and one cluster alone, are sound.
  const two = bulk.map((v, i) => (i % 2 ? 10 + v / 100 : v));
  expect(bulkSqnrDb(stats(two), q(10))).toBeGreaterThan(20);
  expect(bulkSqnrDb(stats(bulk.map((v) => 5 + v / 1000)), q(5))).toBeGreaterThan(20);
});
