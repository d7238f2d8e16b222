import { describe, expect, test } from "vitest";
import { checkModel } from "../../src/graph/check.ts";
import { macsOf, memoryOf, shapesFrom } from "../../src/graph/cost.ts";
import { Graph, newModel, type Value } from "../../src/graph/ir.ts";
import { printModel } from "../../src/graph/print.ts";
import { shareConstants } from "../../src/graph/share.ts";
import { floats } from "../../src/graph/tensor.ts";
import { type Dim, tensorType } from "../../src/graph/types.ts";

const f32 = (...shape: Dim[]) => tensorType("float32", shape);
const zeros = (g: Graph, ...shape: number[]) => g.constant(floats(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape), "w");
const typed = (v: Value, ...shape: Dim[]) => {
  v.type = f32(...shape);
  return v;
};

describe("macsOf", () => {
  const shapes = shapesFrom(new Map());
  test("counts quantized products like the float ones that they stand for", () => {
    const g = newModel().graph;
    const a = g.addInput("a", f32(3, 64));
    const packed = g.addInput("packed", tensorType("uint8", [5, 2, 16]));
    const nbits = g.append({
      op: "MatMulNBits",
      domain: "com.microsoft",
      inputs: [a, packed],
      attrs: { K: 64, N: 5, bits: 4, block_size: 32 },
    });
    typed(nbits.outputs[0]!, 3, 5);
    expect(macsOf(nbits, shapes)).toBe(3 * 5 * 64);
    const x = g.addInput("x", tensorType("uint8", [1, 4, 8, 8]));
    const w = g.addInput("w8", tensorType("int8", [6, 2, 3, 3]));
    const conv = g.append({ op: "ConvInteger", inputs: [x, w], attrs: { group: 2 } });
    conv.outputs[0]!.type = tensorType("int32", [1, 6, 6, 6]);
    expect(macsOf(conv, shapes)).toBe(6 * 6 * 6 * 2 * 9);
  });
  test("counts products by their definition", () => {
    const g = newModel().graph;
    const x = g.addInput("x", f32(1, 4, 8, 8));
    const conv = g.append({ op: "Conv", inputs: [x, zeros(g, 6, 2, 3, 3)], attrs: { group: 2 } });
    typed(conv.outputs[0]!, 1, 6, 6, 6);
    expect(macsOf(conv, shapes)).toBe(6 * 6 * 6 * 2 * 9);
    const deconv = g.append({ op: "ConvTranspose", inputs: [x, zeros(g, 4, 5, 2, 2)] });
    typed(deconv.outputs[0]!, 1, 5, 9, 9);
    expect(macsOf(deconv, shapes)).toBe(4 * 64 * 5 * 4);
    const a = g.addInput("a", f32("batch", 3, 7));
    const mm = g.append({ op: "MatMul", inputs: [a, zeros(g, 7, 5)] });
    typed(mm.outputs[0]!, "batch", 3, 5);
    expect(macsOf(mm, shapes)).toBe(3 * 5 * 7);
    expect(macsOf(mm, shapesFrom(new Map(), 2))).toBe(2 * 3 * 5 * 7);
    const gemm = g.append({ op: "Gemm", inputs: [g.addInput("t", f32(7, 2)), zeros(g, 7, 5)], attrs: { transA: 1 } });
    typed(gemm.outputs[0]!, 2, 5);
    expect(macsOf(gemm, shapes)).toBe(2 * 5 * 7);
    const lstm = g.append({
      op: "LSTM",
      inputs: [g.addInput("s", f32(10, 1, 16)), zeros(g, 1, 32, 16), zeros(g, 1, 32, 8)],
      attrs: { hidden_size: 8 },
    });
    expect(macsOf(lstm, shapes)).toBe(10 * 32 * (16 + 8));
    expect(macsOf(g.append({ op: "Relu", inputs: [x] }), shapes)).toBe(0);
    expect(macsOf(g.append({ op: "MatMul", inputs: [a, g.append({ op: "Exp", inputs: [a] }).outputs[0]] }), shapes)).toBeUndefined();
  });
});

describe("memoryOf", () => {
  test("frees each value after its last use, and adds the larger branch", () => {
    const m = newModel();
    const g = m.graph;
    const x = g.addInput("x", f32(100)); // 400 bytes
    const a = typed(g.append({ op: "Relu", inputs: [x], name: "first" }).outputs[0]!, 100);
    const b = typed(g.append({ op: "Exp", inputs: [a], name: "second" }).outputs[0]!, 100);
    const branch = (n: number) => {
      const s = new Graph("s", g);
      const neg = typed(s.append({ op: "Neg", inputs: [b], name: `neg${n}` }).outputs[0]!, n);
      s.addOutput(typed(s.append({ op: "Abs", inputs: [neg], name: `abs${n}` }).outputs[0]!, n));
      return s;
    };
    const attrs = {
      then_branch: { kind: "graph" as const, value: branch(10) },
      else_branch: { kind: "graph" as const, value: branch(50) },
    };
    const cond = g.addInput("cond", tensorType("bool", []));
    const y = g.append({ op: "If", inputs: [cond], attrs, name: "if" }).outputs[0]!;
    g.addOutput(typed(y, 1));
    const memory = memoryOf(m, shapesFrom(new Map()));
    // x 400, a 400, b 400, cond 1, y 4, then 40 + 40, else 200 + 200
    expect(memory.totalBytes).toBe(400 * 3 + 1 + 4 + 80 + 400);
    // at "if": cond, b and y, and both values of the larger branch ("x" went after "first"); at "second": a and b
    expect([memory.peakBytes, memory.peakAt, memory.unknown]).toEqual([1 + 400 + 4 + 200 + 200, "if/else_branch/abs50", []]);
  });

  test("names values without a shape", () => {
    const m = newModel();
    const x = m.graph.addInput("x", f32(2));
    m.graph.addOutput(m.graph.append({ op: "Relu", inputs: [x], outputs: ["y"] }).outputs[0]!);
    expect(memoryOf(m, shapesFrom(new Map())).unknown).toEqual(["y"]);
  });
});

describe("shareConstants", () => {
  test("equal constants become one, outer ones serve inner graphs, unequal ones stay", () => {
    const m = newModel();
    const g = m.graph;
    const x = g.addInput("x", f32(32));
    const data = Array.from({ length: 32 }, (_, i) => i);
    const [p, q] = [g.constant(floats(data), "p"), g.constant(floats(data), "q")];
    const other = g.constant(floats(data.map((d, i) => (i === 17 ? -1 : d))), "other");
    const shape = g.constant(floats(data, [4, 8]), "shape");
    const s = new Graph("s", g);
    const inner = s.constant(floats(data), "inner");
    s.addOutput(s.append({ op: "Add", inputs: [x, inner], outputs: ["o"] }).outputs[0]!);
    const sum = g.append({ op: "Sum", inputs: [p, q, other, x], outputs: ["sum"] }).outputs[0]!;
    const cond = g.addInput("cond", tensorType("bool", []));
    const y = g.append({
      op: "If",
      inputs: [cond],
      outputs: ["y"],
      attrs: { then_branch: { kind: "graph", value: s }, else_branch: { kind: "graph", value: copyOf(s, g) } },
    });
    g.addOutput(sum);
    g.addOutput(y.outputs[0]!);
    g.addOutput(g.append({ op: "Neg", inputs: [shape], outputs: ["z"] }).outputs[0]!);
    expect(shareConstants(m)).toEqual({ constants: 3, bytes: 3 * 128 });
    expect(checkModel(m)).toEqual([]);
    expect(printModel(m)).toMatchInlineSnapshot(`
      "opset 21, ir 10
      main(x: float32[32], cond: bool[]) -> (sum: ?, y: ?, z: ?)
        sum = Sum(p=float32[32] {0, 1, 2, … #b3173f88}, p=float32[32] {0, 1, 2, … #b3173f88}, other=float32[32] {0, 1, 2, … #2596dcea}, x)
        y = If(cond)
          else_branch:
            t() -> (o: ?)
              o = Mul(x, p=float32[32] {0, 1, 2, … #b3173f88})
          then_branch:
            s() -> (o: ?)
              o = Add(x, p=float32[32] {0, 1, 2, … #b3173f88})
        z = Neg(shape=float32[4,8] {0, 1, 2, … #b3173f88})"
    `);
    expect(shareConstants(m)).toEqual({ constants: 0, bytes: 0 });
  });

  function copyOf(from: Graph, parent: Graph): Graph {
    const s = new Graph("t", parent);
    const c = s.constant(from.values.get("inner")!.data!, "inner");
    s.addOutput(s.append({ op: "Mul", inputs: [parent.inputs[0], c], outputs: ["o"] }).outputs[0]!);
    return s;
  }
});
