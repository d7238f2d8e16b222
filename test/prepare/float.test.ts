import { expect, test } from "vitest";
import { newModel } from "../../src/graph/ir.ts";
import { asFloat32, floats, tensorFrom } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { withoutQuantization } from "../../src/prepare/float.ts";

/** y = Relu(DQ(Q(x))) + DQ(w), w int8 with one scale a row. */
function quantized() {
  const m = newModel(13, 8);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", [2, 3]));
  const s = g.constant(floats([0.5], []), "s");
  const q = g.append({ op: "QuantizeLinear", inputs: [x, s], outputs: ["q"] }).outputs[0]!;
  const d = g.append({ op: "DequantizeLinear", inputs: [q, s], outputs: ["d"] }).outputs[0]!;
  const r = g.append({ op: "Relu", inputs: [d], outputs: ["r"] }).outputs[0]!;
  const codes = g.constant(tensorFrom(Int8Array.from([1, 2, 3, -4, 5, -6]), [2, 3]), "codes");
  const scale = g.constant(floats([0.5, 2]), "scale");
  const zero = g.constant(tensorFrom(Int8Array.from([1, 0])), "zero");
  const w = g.append({ op: "DequantizeLinear", inputs: [codes, scale, zero], outputs: ["w"], attrs: { axis: 0 } }).outputs[0]!;
  g.addOutput(g.append({ op: "Add", inputs: [r, w], outputs: ["y"] }).outputs[0]!);
  return m;
}

test("pairs vanish, constants become s·(q − z), the source is left as it was", () => {
  const source = quantized();
  const { model, pairs, constants, left } = withoutQuantization(source);
  expect({ pairs, constants, left }).toEqual({ pairs: 1, constants: 1, left: [] });
  expect(model.graph.nodes.map((n) => n.op)).toEqual(["Identity", "Relu", "Identity", "Add"]);
  expect(model.graph.nodes[0]!.inputs.map((v) => v?.name)).toEqual(["x"]);
  expect([...asFloat32(model.graph.nodes[2]!.inputs[0]!.data!)]).toEqual([0, 0.5, 1, -8, 10, -12]);
  expect(source.graph.nodes.map((n) => n.op)).toEqual(["QuantizeLinear", "DequantizeLinear", "Relu", "DequantizeLinear", "Add"]);
});

test("operators without a float twin are named", () => {
  const m = quantized();
  const g = m.graph;
  const q = g.append({ op: "DynamicQuantizeLinear", inputs: [g.inputs[0]], outputs: ["a", "b", "c"] });
  g.addOutput(q.outputs[0]!);
  expect(withoutQuantization(m).left.map((n) => n.op)).toEqual(["DynamicQuantizeLinear"]);
});
