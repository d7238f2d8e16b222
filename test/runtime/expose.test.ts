import { afterAll, describe, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { checkModel } from "../../src/graph/check.ts";
import { Graph, newModel } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { printModel } from "../../src/graph/print.ts";
import { floats, int64s, tensorFromBytes } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { exposeValues, withOutputs } from "../../src/runtime/expose.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Feeds, Tensor } from "../../src/runtime/types.ts";
import { affine, branching, feed, through, vector } from "./models.ts";

const runtime = createRuntime();
afterAll(() => runtime.close());

async function run(model: ReturnType<typeof affine>, feeds: Feeds): Promise<Record<string, Tensor>> {
  expect(checkModel(model)).toEqual([]);
  const s = await runtime.open(writeModel(model));
  const out = await s.run(feeds);
  await s.release();
  return out;
}
const list = (t: Tensor | undefined) => Array.from(t!.data as Float32Array);

describe("values of the main graph", () => {
  test("inner value, input, constant, output: each under its own name; the model is untouched", async () => {
    const m = affine();
    const before = printModel(m);
    const out = await run(withOutputs(m, ["sum", "x", "one", "y", "sum"]), feed(1, 2));
    expect(Object.fromEntries(Object.entries(out).map(([k, t]) => [k, list(t)]))).toEqual({ y: [4, 6], sum: [2, 3], x: [1, 2], one: [1] });
    expect(printModel(m)).toBe(before);
  });

  test("a value that is not there", () => {
    expect(exposeValues(affine(), ["sum", "nope"])).toMatchObject({
      exposed: ["sum"],
      skipped: [{ name: "nope", why: "the model has no such value" }],
    });
    expect(() => withOutputs(affine(), ["nope"])).toThrow(QcError);
  });

  test.each([
    ["bfloat16", 16, 21, "float32", [1, 2.5, -3]],
    ["float8e4m3fn", 17, 21, "float32", [1, 2.5, -3]],
    ["float8e5m2", 19, 21, "float32", [1, 2.5, -3]],
    ["uint4", 21, 21, "uint8", [1, 2, 0]],
    ["int4", 22, 21, "int8", [1, 2, -3]],
  ] as const)("%s is cast to what can leave", async (type, code, opset, to, want) => {
    const m = through(code, opset);
    m.graph.values.get("inner")!.type = tensorType(type, ["N"]);
    const out = await run(withOutputs(m, ["inner"]), feed(1, to === "float32" ? 2.5 : 2, type === "uint4" ? 0 : -3));
    expect(out["inner"]!.dtype).toBe(to);
    expect(list(out["inner"])).toEqual(want);
  });

  test("a graph output of such a type is cast too, and keeps its name", async () => {
    const m = through(16);
    const inner = m.graph.values.get("inner")!;
    inner.type = tensorType("bfloat16", ["N"]);
    m.graph.addOutput(inner);
    const out = await run(withOutputs(m, []), feed(2));
    expect(out["inner"]).toMatchObject({ dtype: "float32" });
    expect(list(out["inner"])).toEqual([2]);
  });
});

describe("values of subgraphs", () => {
  const bool = (v: number): Tensor => ({ dtype: "bool", dims: [], data: Uint8Array.of(v) });

  test.each([
    [1, "if1/then_branch/e"],
    [2, "if2/then_branch/if1/then_branch/e"],
  ] as const)("out of If, %i deep: the value, or nothing when the other branch ran", async (depth, path) => {
    const m = withOutputs(branching(depth), [path]);
    expect(list((await run(m, { x: vector(0, 0), c: bool(1) }))[path])).toEqual([1, 1]);
    const other = await run(m, { x: vector(5, 5), c: bool(0) });
    expect(list(other[path])).toEqual([]);
    expect(list(other["y"])).toEqual([6, 6]);
  });

  test("a branch value whose type nobody knows is left out with the reason", () => {
    const m = branching();
    for (const n of m.graph.allNodes()) for (const v of n.outputs) if (v?.name === "e") v.type = undefined;
    expect(exposeValues(m, ["if1/then_branch/e"]).skipped).toEqual([
      { name: "if1/then_branch/e", why: 'its type is not known, which the other branch of "if1" needs' },
    ]);
    const types = new Map([["if1/then_branch/e", tensorType("float32")]]);
    expect(exposeValues(m, ["if1/then_branch/e"], types).exposed).toEqual(["if1/then_branch/e"]);
  });

  function loop(): ReturnType<typeof affine> {
    const m = newModel(21);
    const g = m.graph;
    const x = g.addInput("x", tensorType("float32", ["N"]));
    const body = new Graph("body");
    body.parent = g;
    body.addInput("i", tensorType("int64", []));
    const go = body.addInput("go", tensorType("bool", []));
    const a = body.addInput("a", tensorType("float32", ["N"]));
    const keep = body.append({ op: "Identity", inputs: [go], outputs: ["keep"] }).outputs[0]!;
    const twice = body.append({ op: "Add", name: "double", inputs: [a, a], outputs: ["twice"] }).outputs[0]!;
    const next = body.append({ op: "Add", inputs: [twice, body.constant(floats([1]), "one")], outputs: ["next"] }).outputs[0]!;
    keep.type = tensorType("bool", []);
    twice.type = tensorType("float32", ["N"]);
    next.type = tensorType("float32", ["N"]);
    body.addOutput(keep);
    body.addOutput(next);
    const y = g.append({
      op: "Loop",
      name: "loop",
      inputs: [g.constant(int64s([3], []), "trips"), g.constant(tensorFromBytes("bool", [], Uint8Array.of(1)), "yes"), x],
      outputs: ["y"],
      attrs: { body: { kind: "graph", value: body } },
    }).outputs[0]!;
    y.type = tensorType("float32", ["N"]);
    g.addOutput(y);
    return m;
  }

  test("out of Loop, stacked over its iterations; state inputs as well", async () => {
    const out = await run(withOutputs(loop(), ["loop/body/twice", "loop/body/a"]), feed(1, 10));
    expect(out["loop/body/twice"]!.dims).toEqual([3, 2]);
    expect(list(out["loop/body/twice"])).toEqual([2, 20, 6, 42, 14, 86]);
    expect(list(out["loop/body/a"])).toEqual([1, 10, 3, 21, 7, 43]);
    expect(list(out["y"])).toEqual([15, 87]);
  });

  test("a node that leaves out outputs at its end", async () => {
    const m = loop();
    const body = m.graph.nodes[0]!.subgraphs[0]!;
    const extra = body.append({ op: "Neg", inputs: [body.values.get("twice")], outputs: ["minus"] }).outputs[0]!;
    extra.type = tensorType("float32", ["N"]);
    body.addOutput(extra);
    expect(list((await run(withOutputs(m, ["loop/body/twice"]), feed(1)))["loop/body/twice"])).toEqual([2, 6, 14]);
  });

  test("out of Scan, with its lists of axes", async () => {
    const m = newModel(21);
    const g = m.graph;
    const x = g.addInput("x", tensorType("float32", ["T", 2]));
    const zero = g.constant(floats([0, 0]), "zero");
    const body = new Graph("body");
    body.parent = g;
    const s = body.addInput("s", tensorType("float32", [2]));
    const row = body.addInput("row", tensorType("float32", [2]));
    const mid = body.append({ op: "Neg", inputs: [row], outputs: ["mid"] }).outputs[0]!;
    const total = body.append({ op: "Add", inputs: [s, mid], outputs: ["total"] }).outputs[0]!;
    const copy = body.append({ op: "Identity", inputs: [total], outputs: ["copy"] }).outputs[0]!;
    for (const v of [mid, total, copy]) v.type = tensorType("float32", [2]);
    body.addOutput(total);
    body.addOutput(copy);
    const scan = g.append({
      op: "Scan",
      name: "scan",
      inputs: [zero, x],
      outputs: ["last", "sums"],
      attrs: { body: { kind: "graph", value: body }, num_scan_inputs: 1, scan_output_axes: [1] },
    });
    const sums = scan.outputs[1]!;
    sums.type = tensorType("float32", [2, "T"]);
    g.addOutput(sums);
    const out = await run(withOutputs(m, ["scan/body/mid"]), {
      x: { dtype: "float32", dims: [3, 2], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
    });
    expect(list(out["scan/body/mid"])).toEqual([-1, -2, -3, -4, -5, -6]);
    expect(out["scan/body/mid"]!.dims).toEqual([3, 2]);
    expect(list(out["sums"])).toEqual([-1, -4, -9, -2, -6, -12]);
  });
});
