import { describe, expect, test } from "vitest";
import { constantOf, halfToFloat } from "../../src/graph/constant.ts";
import { type Graph, newModel, type Value } from "../../src/graph/ir.ts";
import { ONNX_OPS, opFacts } from "../../src/graph/ops/index.ts";
import { ONNX } from "../../src/graph/ops/onnx.ts";
import { floats, int64s, tensorFrom } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";

const graph = (): Graph => newModel().graph;
const input = (g: Graph, shape: number[]) => g.addInput(g.freshName("x"), tensorType("float32", shape));
const zeros = (g: Graph, shape: number[]) => g.constant(floats(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape), "w");
const weights = (g: Graph, op: string, inputs: (Value | undefined)[], attrs = {}) =>
  opFacts(g.append({ op, inputs, attrs }))!.weights.map(({ input, kind, channel, reduce, groups }) => ({
    input,
    kind,
    channel,
    reduce,
    groups,
  }));

describe("operator facts", () => {
  test("every operator has a row that is consistent", () => {
    for (const op of ONNX_OPS) {
      const row = ONNX[op];
      const trait = typeof row.trait === "string" ? row.trait : "rescale";
      if (trait === "float") expect(row.why, op).toBeTruthy();
      if (trait === "compute" || trait === "recurrent") expect(row.weights?.length, op).toBeGreaterThan(0);
      if (["compute", "same-scale", "clamp", "rescale"].includes(trait)) expect(row.data.length, op).toBeGreaterThan(0);
      if (row.monotone) expect(row.elementwise, op).toBe(true);
    }
  });

  test("weight axes of products", () => {
    const g = graph();
    const x = input(g, [1, 4, 8, 8]);
    const m = input(g, [4, 4]);
    expect(weights(g, "Conv", [x, zeros(g, [6, 2, 3, 3])], { group: 2 })).toEqual([
      { input: 1, kind: "product", channel: 0, reduce: [1, 2, 3], groups: 2 },
    ]);
    expect(weights(g, "ConvTranspose", [x, zeros(g, [4, 5, 3, 3])])).toEqual([
      { input: 1, kind: "product", channel: 1, reduce: [0, 2, 3], groups: 1 },
    ]);
    expect(weights(g, "Gemm", [m, zeros(g, [4, 5])])).toEqual([{ input: 1, kind: "product", channel: 1, reduce: [0], groups: 1 }]);
    expect(weights(g, "Gemm", [m, zeros(g, [5, 4])], { transB: 1 })).toEqual([
      { input: 1, kind: "product", channel: 0, reduce: [1], groups: 1 },
    ]);
    expect(weights(g, "MatMul", [m, zeros(g, [2, 4, 5])])).toEqual([{ input: 1, kind: "product", channel: 2, reduce: [1], groups: 1 }]);
    expect(weights(g, "MatMul", [zeros(g, [3, 4]), m])).toEqual([{ input: 0, kind: "product", channel: 0, reduce: [1], groups: 1 }]);
    expect(weights(g, "MatMul", [m, zeros(g, [4])])).toEqual([{ input: 1, kind: "product", channel: undefined, reduce: [0], groups: 1 }]);
    expect(weights(g, "Gather", [zeros(g, [10, 4]), g.constant(int64s([1]), "i")], { axis: -1 })).toEqual([
      { input: 0, kind: "table", channel: 1, reduce: [0], groups: 1 },
    ]);
    expect(weights(g, "LSTM", [x, zeros(g, [1, 16, 4]), zeros(g, [1, 16, 4])]).map((w) => [w.input, w.channel, w.reduce])).toEqual([
      [1, 1, [2]],
      [2, 1, [2]],
    ]);
  });

  test("data inputs are activations: a constant weight is none, both operands of a free product are", () => {
    const g = graph();
    const [a, b] = [input(g, [4, 4]), input(g, [4, 4])];
    expect(opFacts(g.append({ op: "MatMul", inputs: [a, b] }))!.data).toEqual([0, 1]);
    expect(opFacts(g.append({ op: "MatMul", inputs: [a, zeros(g, [4, 4])] }))!.data).toEqual([0]);
    expect(opFacts(g.append({ op: "Gemm", inputs: [a, zeros(g, [4, 4]), zeros(g, [4])] }))!.bias).toBe(2);
    expect(opFacts(g.append({ op: "Concat", inputs: [a, b, a], attrs: { axis: 0 } }))!.data).toEqual([0, 1, 2]);
    expect(opFacts(g.append({ op: "Resize", inputs: [a], attrs: { mode: "linear" } }))!.trait).toBe("rescale");
    expect(opFacts(g.append({ op: "Resize", inputs: [a] }))!.trait).toBe("same-scale");
    expect(opFacts(g.append({ op: "Mystery", inputs: [a], domain: "com.example" }))).toBeUndefined();
  });
});

describe("constantOf", () => {
  test("float16 behind Cast and Transpose is float32 to its consumer, and stays float16 in the graph", () => {
    const g = graph();
    const bits = Uint16Array.of(0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600); // 1 … 6
    const w = g.constant(tensorFrom(bits, [2, 3], "float16"), "w");
    const cast = g.append({ op: "Cast", inputs: [w], attrs: { to: 1 } }).outputs[0]!;
    const turned = g.append({ op: "Transpose", inputs: [cast] }).outputs[0]!;
    const flat = g.append({ op: "Reshape", inputs: [turned, g.constant(int64s([-1, 2]), "s")] }).outputs[0]!;
    const view = constantOf(flat)!;
    expect([view.root, view.dtype, view.shape, [...view.float32()]]).toEqual([w, "float32", [3, 2], [1, 4, 2, 5, 3, 6]]);
    expect(view.chain.map((n) => n.op)).toEqual(["Cast", "Transpose", "Reshape"]);
    expect(constantOf(g.append({ op: "Neg", inputs: [cast] }).outputs[0])).toBeUndefined();
    const narrow = g.append({ op: "Cast", inputs: [g.constant(floats([1]), "f")], attrs: { to: 10 } }).outputs[0];
    expect(constantOf(narrow), "a narrowing cast rounds").toBeUndefined();
  });

  test("an input with a default is no constant", () => {
    const g = graph();
    const x = input(g, [2]);
    x.data = floats([1, 2]);
    expect(constantOf(x)).toBeUndefined();
  });

  test("float16 values: all 65536 patterns by the definition of binary16", () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const got = halfToFloat(all);
    for (let h = 0; h < 65536; h++) {
      const [s, e, m] = [h >> 15, (h >> 10) & 31, h & 1023];
      const want =
        e === 31 ? (m ? Number.NaN : Number.POSITIVE_INFINITY) : e === 0 ? (m / 1024) * 2 ** -14 : (1 + m / 1024) * 2 ** (e - 15);
      if (!Object.is(got[h], s ? -want : want) && !(Number.isNaN(want) && Number.isNaN(got[h]!)))
        throw new Error(`pattern ${h}: ${got[h]} is not ${want}`);
    }
  });
});
