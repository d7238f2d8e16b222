import { afterAll, beforeAll, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { gradients } from "../../src/grad/index.ts";
import { newModel } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { printModel } from "../../src/graph/print.ts";
import { floats } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Runtime } from "../../src/runtime/types.ts";

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** y = relu(x·w) + x; loss = Σ y. */
function residual() {
  const model = newModel(18, 8);
  const g = model.graph;
  const x = g.addInput("x", tensorType("float32", [2, 3]));
  const w = g.constant(floats([1, 2, 3, 4, -5, 6, 7, -8, 9], [3, 3]), "w");
  const node = (op: string, ...inputs: (typeof x)[]) => {
    const v = g.append({ op, inputs, name: op.toLowerCase() }).outputs[0]!;
    v.type = tensorType("float32", [2, 3]);
    return v;
  };
  const h = node("MatMul", x, w);
  const y = node("Add", node("Relu", h), x);
  const loss = g.append({ op: "ReduceSum", inputs: [y], name: "loss", attrs: { keepdims: 0 } }).outputs[0]!;
  loss.type = tensorType("float32", []);
  return { model, x, w, h, y, loss };
}

test("a value with two consumers gets the sum; the graph printed", async () => {
  const { model, x, w, loss } = residual();
  const found = gradients(model, { of: [loss], wrt: [x, w] });
  expect(found.blocked).toEqual([]);
  expect(printModel(model)).toMatchInlineSnapshot(`
    "opset 18, ir 8
    main(x: float32[2,3]) -> ()
      matmul_out: float32[2,3] = MatMul(x, w=float32[3,3] {1, 2, 3, … #ba088098})
      relu_out: float32[2,3] = Relu(matmul_out)
      add_out: float32[2,3] = Add(relu_out, x)
      loss_out: float32[] = ReduceSum(add_out) keepdims=0
      grad/Expand = Expand(grad/k=float32[] {1}, grad/ints=int64[0] {})
      grad/loss/Unsqueeze = Unsqueeze(grad/Expand, grad/loss/ints=int64[2] {0, 1})  # grad
      grad/loss/Expand = Expand(grad/loss/Unsqueeze, grad/loss/ints_1=int64[2] {2, 3})  # grad
      grad/relu/Greater = Greater(relu_out, grad/relu/k=float32[] {0})  # grad
      grad/relu/Cast = Cast(grad/relu/Greater) to=1  # grad
      grad/relu/Mul = Mul(grad/loss/Expand, grad/relu/Cast)  # grad
      grad/matmul/Transpose = Transpose(w=float32[3,3] {1, 2, 3, … #ba088098}) perm=[1,0]  # grad
      grad/matmul/MatMul = MatMul(grad/relu/Mul, grad/matmul/Transpose)  # grad
      grad/matmul/Transpose_1 = Transpose(x) perm=[1,0]  # grad
      grad/matmul/MatMul_1 = MatMul(grad/matmul/Transpose_1, grad/relu/Mul)  # grad
      grad/Add = Add(grad/loss/Expand, grad/matmul/MatMul)"
  `);
  for (const v of found.of.values()) model.graph.addOutput(v);
  const session = await runtime.open(writeModel(model));
  const out = await session.run({ x: { dtype: "float32", dims: [2, 3], data: Float32Array.of(1, 1, 0, 0, 1, -1) } });
  // h = [[5,-3,9], [-3,3,-3]]: rows of relu' are [1,0,1] and [0,1,0].
  expect([...(out[found.of.get(x)!.name]!.data as Float32Array)]).toEqual([1 + 4, 11, 17, 3, -4, -7]);
  expect([...(out[found.of.get(w)!.name]!.data as Float32Array)]).toEqual([1, 0, 1, 1, 1, 1, 0, -1, 0]);
});

test("nothing arrives, nothing is emitted", () => {
  const { model, w, loss, y } = residual();
  const before = model.graph.nodes.length;
  const other = model.graph.constant(floats([1], [1]), "unused");
  const found = gradients(model, { of: [loss], wrt: [other] });
  expect(found.of.size).toBe(0);
  expect(model.graph.nodes.length).toBe(before);
  // A stop at y cuts every path.
  expect(gradients(model, { of: [loss], wrt: [w], stop: new Set([y]) }).of.size).toBe(0);
  expect(model.graph.nodes.length).toBe(before);
});

test("a stopped value passes no gradient, its other paths do", () => {
  const { model, x, h, loss } = residual();
  const found = gradients(model, { of: [loss], wrt: [x], stop: new Set([h]) });
  // Only the shortcut is left: no product with the transposed weight.
  expect(model.graph.nodes.filter((n) => n.op === "MatMul").length).toBe(1);
  expect(found.of.has(x)).toBe(true);
});

test("an operator without a gradient is a frozen boundary and says why", () => {
  const model = newModel(18, 8);
  const g = model.graph;
  const x = g.addInput("x", tensorType("float32", [4]));
  const r = g.append({ op: "Round", inputs: [x], name: "r" }).outputs[0]!;
  const y = g.append({ op: "Mul", inputs: [r, x], name: "m" }).outputs[0]!;
  const found = gradients(model, { of: [y], wrt: [x] });
  expect(found.blocked.map((b) => [b.node.name, b.why])).toEqual([["r", "piecewise constant: its slope is zero almost everywhere"]]);
  expect(found.of.get(x)).toBeDefined();
});

test("a row that refuses its attributes is a frozen boundary too", () => {
  const model = newModel(18, 8);
  const g = model.graph;
  const x = g.addInput("x", tensorType("float32", [3, 3]));
  const y = g.append({ op: "Einsum", inputs: [x], name: "diagonal", attrs: { equation: "ii->i" } }).outputs[0]!;
  const found = gradients(model, { of: [y], wrt: [x] });
  expect(found.blocked.map((b) => b.why)).toEqual(['Einsum takes a diagonal: "ii"']);
  expect(found.of.size).toBe(0);
});

test("old opsets are refused by name", () => {
  const { model, x, loss } = residual();
  model.opsets.set("", 13);
  expect(() => gradients(model, { of: [loss], wrt: [x] })).toThrow(QcError);
  expect(() => gradients(model, { of: [loss], wrt: [x] })).toThrow(/opset 18 or later, the graph has 13/);
});
