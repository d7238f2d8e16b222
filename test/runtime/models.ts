import { Graph, type Model, newModel, type Value } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { floats, int64s, tensorFromBytes } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import type { DType } from "../../src/quant/dtype.ts";
import type { Feeds } from "../../src/runtime/types.ts";

/** y = (x + 1) · 2 over float32 [N]; the sum is called "sum". */
export function affine(): Model {
  const m = newModel(21);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", ["N"]));
  const sum = g.append({ op: "Add", name: "add", inputs: [x, g.constant(floats([1]), "one")], outputs: ["sum"] }).outputs[0]!;
  const y = g.append({ op: "Mul", name: "mul", inputs: [sum, g.constant(floats([2]), "two")], outputs: ["y"] }).outputs[0]!;
  y.type = tensorType("float32", ["N"]);
  g.addOutput(y);
  return m;
}

/** x → Cast to `type` ("inner") → Cast back ("y"). */
export function through(type: number, opset = 21): Model {
  const m = newModel(opset, opset > 23 ? 12 : 10);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", ["N"]));
  const inner = g.append({ op: "Cast", name: "down", inputs: [x], outputs: ["inner"], attrs: { to: type } }).outputs[0]!;
  const y = g.append({ op: "Cast", name: "up", inputs: [inner], outputs: ["y"], attrs: { to: 1 } }).outputs[0]!;
  y.type = tensorType("float32", ["N"]);
  g.addOutput(y);
  return m;
}

/** acc' = acc + x: a running sum. */
export function accumulator(): Model {
  const m = newModel(21);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", [1]));
  const acc = g.addInput("acc", tensorType("float32", [1]));
  const next = g.append({ op: "Add", inputs: [acc, x], outputs: ["next"] }).outputs[0]!;
  next.type = tensorType("float32", [1]);
  g.addOutput(next);
  return m;
}

/** A Loop of `n` matrix products: runs for about n · 10 ms, and cannot be stopped from outside. */
export function slow(n: number): Model {
  const m = newModel(21);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", [512, 512]));
  const body = new Graph("body");
  body.addInput("i", tensorType("int64", []));
  const go = body.addInput("go", tensorType("bool", []));
  const a = body.addInput("a", tensorType("float32", [512, 512]));
  const keep = body.append({ op: "Identity", inputs: [go], outputs: ["keep"] }).outputs[0]!;
  keep.type = tensorType("bool", []);
  const b = body.append({ op: "MatMul", inputs: [a, a], outputs: ["b"] }).outputs[0]!;
  const c = body.append({
    op: "Clip",
    inputs: [b, body.constant(floats([0], []), "lo"), body.constant(floats([1], []), "hi")],
    outputs: ["c"],
  }).outputs[0]!;
  c.type = tensorType("float32", [512, 512]);
  body.addOutput(keep);
  body.addOutput(c);
  const trips = g.constant(int64s([n], []), "trips");
  const yes = g.constant(tensorFromBytes("bool", [], Uint8Array.of(1)), "yes");
  const y = g.append({ op: "Loop", name: "loop", inputs: [trips, yes, x], outputs: ["y"], attrs: { body: { kind: "graph", value: body } } })
    .outputs[0]!;
  y.type = tensorType("float32", [512, 512]);
  g.addOutput(y);
  return m;
}

/** If c > 0: y = exp(x) ("e" is inside), else y = x + 1; `depth` 2 puts the If into another If. */
export function branching(depth: 1 | 2 = 1): Model {
  const m = newModel(21);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", ["N"]));
  const c = g.addInput("c", tensorType("bool", []));
  const y = branchInto(g, x, c, depth, "y");
  y.type = tensorType("float32", ["N"]);
  g.addOutput(y);
  return m;
}

function branchInto(g: Graph, x: Value, c: Value, depth: number, out: string): Value {
  const yes = new Graph("yes");
  const no = new Graph("no");
  yes.parent = g;
  no.parent = g;
  let t: Value;
  if (depth > 1) t = branchInto(yes, x, c, depth - 1, "inner");
  else {
    const e = yes.append({ op: "Exp", name: "exp", inputs: [x], outputs: ["e"] }).outputs[0]!;
    e.type = tensorType("float32", ["N"]);
    t = yes.append({ op: "Neg", inputs: [e], outputs: [`minus${depth}`] }).outputs[0]!;
  }
  t.type = tensorType("float32", ["N"]);
  yes.addOutput(t);
  const f = no.append({ op: "Add", inputs: [x, no.constant(floats([1]), `one${depth}`)], outputs: [`plus${depth}`] }).outputs[0]!;
  f.type = tensorType("float32", ["N"]);
  no.addOutput(f);
  return g.append({
    op: "If",
    name: `if${depth}`,
    inputs: [c],
    outputs: [out],
    attrs: { then_branch: { kind: "graph", value: yes }, else_branch: { kind: "graph", value: no } },
  }).outputs[0]!;
}

/** A Gather that fails on indices beyond its table. */
export function gather(): Model {
  const m = newModel(21);
  const g = m.graph;
  const i = g.addInput("i", tensorType("int64", ["N"]));
  const y = g.append({ op: "Gather", name: "look", inputs: [g.constant(floats([1, 2, 3]), "table"), i], outputs: ["y"] }).outputs[0]!;
  y.type = tensorType("float32", ["N"]);
  g.addOutput(y);
  return m;
}

export const bytesOf = writeModel;
export function vector(...x: number[]): { dtype: DType; dims: number[]; data: Float32Array } {
  return { dtype: "float32", dims: [x.length], data: Float32Array.from(x) };
}
export function feed(...x: number[]): Feeds {
  return { x: vector(...x) };
}
