import { expect, test } from "vitest";
import { toHalf } from "../../src/data/item.ts";
import { halve, simulateHalves } from "../../src/export/halve.ts";
import { checkModel } from "../../src/graph/check.ts";
import { cloneModel } from "../../src/graph/clone.ts";
import { halfToFloat, toFloat32 } from "../../src/graph/constant.ts";
import { type Model, newModel } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { floats, tensorFrom, tensorFromBytes } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { valuesByPath } from "../../src/graph/walk.ts";
import { type HalfDType, toHalfBits } from "../../src/quant/half.ts";
import { createRuntime } from "../../src/runtime/index.ts";

const never = () => false;

test("every float16 survives, and rounding is that of the other implementation, ties to even", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const back = toHalfBits(halfToFloat(all), "float16");
  for (let i = 0; i < 65536; i++) if ((i & 0x7c00) !== 0x7c00 || (i & 0x3ff) === 0) expect(back[i], `pattern ${i}`).toBe(i);
  let s = 1;
  const x = Float32Array.from({ length: 20_000 }, (_, i) => {
    s = (s * 48271) % 2147483647;
    return (s / 2147483647 - 0.5) * 2 ** ((i % 60) - 40);
  });
  const ties = Float32Array.from([1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -25, 3 * 2 ** -25, 65519.99, 65520, -65520, Number.NaN]);
  for (const v of [...x, ...ties]) expect(toHalfBits(Float32Array.of(v), "float16")[0], String(v)).toBe(toHalf(v));
});

test("bfloat16 is the nearest upper half of the pattern, ties to even", () => {
  const of = (v: number) => toFloat32(tensorFrom(toHalfBits(Float32Array.of(v), "bfloat16"), [1], "bfloat16"))[0];
  expect([1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, -3.0e38].map(of)).toEqual([1, 1 + 2 ** -6, 1 + 2 ** -7, of(-3.0e38)]);
  expect(of(Number.NaN)).toBeNaN();
  expect(of(3.4e38)).toBe(Number.POSITIVE_INFINITY);
});

/** x -> MatMul w1 (h, also read by Shape) -> Mul 4 (m) -> MatMul w2 -> y; h is an output as well when asked. */
function net(o: { readonly large?: boolean; readonly twoOutputs?: boolean } = {}): Model {
  const m = newModel(21, 10);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", [2, 4]));
  const w = (name: string, scale: number) =>
    g.constant(
      floats(
        Float32Array.from({ length: 16 }, (_, i) => (((i * 7) % 11) - 5) * scale),
        [4, 4],
      ),
      name,
    );
  const h = g.append({ op: "MatMul", name: "first", inputs: [x, w("w1", 0.1)], outputs: ["h"] }).outputs[0]!;
  const four = g.constant(floats([o.large ? 1e6 : 4], []), "four");
  const mul = g.append({ op: "Mul", name: "mul", inputs: [h, four], outputs: ["m"] }).outputs[0]!;
  const y = g.append({ op: "MatMul", name: "second", inputs: [mul, w("w2", o.large ? 1e-6 : 0.1)], outputs: ["y"] }).outputs[0]!;
  g.setType(y, tensorType("float32", [2, 4]));
  g.addOutput(y);
  if (o.twoOutputs) {
    g.setType(h, tensorType("float32", [2, 4]));
    g.addOutput(h);
  }
  return m;
}
const feeds = { x: { dtype: "float32" as const, dims: [2, 4], data: Float32Array.from({ length: 8 }, (_, i) => Math.sin(i + 1)) } };

async function outputs(m: Model): Promise<number[]> {
  const runtime = createRuntime({ workers: 1 });
  try {
    const session = await runtime.open(writeModel(m), { level: "disabled" });
    const y = (await session.run(feeds))["y"]!;
    expect(y.dtype).toBe("float32");
    return [...(y.data as Float32Array)];
  } finally {
    await runtime.close();
  }
}
const halved = (m: Model, to: HalfDType = "float16", keep: (name: string) => boolean = never) => {
  const out = cloneModel(m);
  halve(out, { to, keep: (v) => keep(v.name) });
  expect(checkModel(out)).toEqual([]);
  return out;
};

test("constants and products are float16, inputs and outputs stay float32, and values agree to float16's precision", async () => {
  const m = net({ twoOutputs: true });
  const half = halved(m);
  const ops = half.graph.nodes.map((n) => n.op);
  expect(ops).toEqual(["Cast", "MatMul", "Cast", "Mul", "MatMul", "Cast"]);
  expect(half.graph.outputs.map((v) => v.name)).toEqual(["y", "h"]);
  const used = half.graph.nodes.flatMap((n) => n.inputs).filter((v) => v?.isConstant);
  expect(new Set(used.map((v) => v!.data!.dtype))).toEqual(new Set(["float16"]));
  const [want, got] = [await outputs(m), await outputs(half)];
  // Sums of four products, each operand within 2^-11: 4 roundings at most of numbers below 1.
  for (const [i, v] of want.entries()) expect(Math.abs(got[i]! - v)).toBeLessThan(4 * 2 ** -11);
  expect(got).not.toEqual(want);
});

test("a node with a constant beyond float16 stays float32, and so does what is kept", async () => {
  const m = net({ large: true });
  const half = halved(m, "float16", (name) => name === "m");
  const inputs = (name: string) =>
    half.graph.nodes
      .find((n) => n.name === name)!
      .inputs.map((v) => v?.data?.dtype ?? (v?.type?.kind === "tensor" ? v.type.elem : undefined));
  expect(inputs("first")).toEqual(["float16", "float16"]);
  expect(inputs("mul")[1]).toBe("float32");
  expect(inputs("second")[1]).toBe("float32");
  const [want, got] = [await outputs(m), await outputs(half)];
  for (const [i, v] of want.entries()) expect(Math.abs(got[i]! - v)).toBeLessThan(4 * 2 ** -11);
});

test("Q and DQ take float16 scales; a scale that float16 would move stays float32", () => {
  const build = (scale: number) => {
    const m = net();
    const g = m.graph;
    const h = valuesByPath(m).get("h")!;
    const s = g.constant(floats([scale], []), "s");
    const z = g.constant(tensorFromBytes("int8", [], new Uint8Array(1)), "z");
    const mul = g.nodes.find((n) => n.name === "mul")!;
    const q = g.insertBefore(mul, { op: "QuantizeLinear", name: "q", inputs: [h, s, z] }).outputs[0]!;
    const dq = g.insertBefore(mul, { op: "DequantizeLinear", name: "dq", inputs: [q, s, z] }).outputs[0]!;
    g.replaceUse(mul, 0, dq);
    return halved(m);
  };
  const scaleOf = (m: Model) => m.graph.nodes.find((n) => n.op === "QuantizeLinear")!.inputs[1]!.data!.dtype;
  expect(scaleOf(build(0.02))).toBe("float16");
  expect(scaleOf(build(3e-8))).toBe("float32");
});

test("bfloat16 simulated in float32 differs from float by bfloat16's rounding", async () => {
  const m = net();
  const sim = cloneModel(m);
  simulateHalves(sim, { to: "bfloat16", keep: never });
  const [want, got] = [await outputs(m), await outputs(sim)];
  const worst = Math.max(...want.map((v, i) => Math.abs(got[i]! - v)));
  expect(worst).toBeLessThan(4 * 2 ** -8);
  expect(worst).toBeGreaterThan(2 ** -14);
});
