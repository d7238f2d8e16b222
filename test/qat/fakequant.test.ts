import { afterAll, beforeAll, expect, test } from "vitest";
import { Emit, gradients } from "../../src/grad/index.ts";
import { newModel } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { floats } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { type Affine, FakeQuants } from "../../src/qat/fakequant.ts";
import { INT_DTYPES, type IntDType } from "../../src/quant/dtype.ts";
import { fakeQuantize } from "../../src/quant/encode.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Runtime } from "../../src/runtime/types.ts";
import { normals } from "./net.ts";

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** x̂, dx and ds of one fake quantizer on x [2, 3, 5] for the given output gradient. */
async function run(a: Affine, x: Float32Array, scale: readonly number[], dy: Float32Array) {
  const model = newModel(21, 10);
  const g = model.graph;
  const shape = [2, 3, 5];
  const input = g.addInput("x", tensorType("float32", shape));
  const seed = g.addInput("dy", tensorType("float32", shape));
  const s = g.addInput("s", tensorType("float32", scale.length === 1 ? [] : [scale.length]));
  const fq = new FakeQuants();
  const y = fq.addFakeQuant(input, s, a, "y", (spec) => g.append(spec));
  const found = gradients(model, { of: [{ value: y, seed }], wrt: [input, s], rules: fq.rules });
  const outs = [y, found.of.get(input)!, found.of.get(s)!].map((v) => g.append({ op: "Identity", inputs: [v] }).outputs[0]!);
  for (const v of outs) g.addOutput(v);
  fq.expand(g, found.emit);
  const session = await runtime.open(writeModel(model));
  const f = (data: Float32Array, dims: readonly number[]) => ({ dtype: "float32" as const, dims, data });
  const out = await session.run({
    x: f(x, shape),
    dy: f(dy, shape),
    s: f(Float32Array.from(scale), scale.length === 1 ? [] : [scale.length]),
  });
  await session.release();
  return outs.map((v) => out[v.name]!.data as Float32Array) as [Float32Array, Float32Array, Float32Array];
}

const CASES: readonly [IntDType, boolean, number | undefined, readonly number[], readonly number[]][] = [
  ["uint8", false, undefined, [0.02], [100]],
  ["uint8", false, undefined, [0.01], [0]],
  ["int8", true, undefined, [0.01], [0]],
  ["int8", false, 1, [0.01, 0.02, 0.005], [0, 3, -7]],
  ["uint4", false, undefined, [0.15], [6]],
  ["int4", false, 1, [0.1, 0.2, 0.3], [0, 0, 0]],
  ["int2", false, undefined, [0.8], [0]],
  ["uint16", false, undefined, [0.0001], [30000]],
];

test.each(CASES)("%s narrow %s axis %s: value, straight-through slope and the scale's slope", async (dtype, narrow, axis, scale, zero) => {
  const normal = normals(3);
  const x = Float32Array.from({ length: 30 }, () => normal() * 1.2);
  const dy = Float32Array.from({ length: 30 }, () => normal());
  const [y, dx, ds] = await run({ dtype, narrow, axis, zeroPoint: zero }, x, scale, dy);
  const { min, max } = INT_DTYPES[dtype];
  const least = narrow ? -max : min;
  const want = new Float64Array(scale.length);
  let clipped = 0;
  for (let i = 0; i < 30; i++) {
    const k = axis === undefined ? 0 : Math.floor(i / 5) % 3;
    const [s, z] = [Math.fround(scale[k]!), zero[k]!];
    const v = x[i]! / s;
    const [lo, hi] = [least - z, max - z];
    const q = Math.max(lo, fakeQuantize(x[i]!, dtype, s, z) / s);
    expect(y[i]).toBeCloseTo(q * s, 5);
    const inside = v >= lo && v <= hi;
    if (!inside) clipped++;
    expect(dx[i]! + 0).toBe(inside ? dy[i] : 0);
    // LSQ: round(v) − v inside, the bound outside.
    want[k]! += dy[i]! * (inside ? Math.round(q) - v : v < lo ? lo : hi);
  }
  for (let k = 0; k < want.length; k++)
    expect(Math.abs(ds[k]! - want[k]!)).toBeLessThan(1e-3 * Math.max(1, Math.abs(want[k]!)) + 2e-6 / scale[k]!);
  if (dtype !== "uint16") expect(clipped, "some values must be clipped for the test to mean anything").toBeGreaterThan(0);
});

test("a Relu in front of a quantizer with its zero point at the bottom goes, value and slope stay", async () => {
  const build = (absorb: boolean) => {
    const model = newModel(21, 10);
    const g = model.graph;
    const x = g.addInput("x", tensorType("float32", [64]));
    const seed = g.addInput("dy", tensorType("float32", [64]));
    const relu = g.append({ op: "Relu", inputs: [x], name: "relu" }).outputs[0]!;
    const s = g.constant(floats([0.01], []), "s");
    const fq = new FakeQuants();
    const y = fq.addFakeQuant(relu, s, { dtype: "uint8", narrow: false, axis: undefined, zeroPoint: [0] }, "y", (spec) => g.append(spec));
    if (absorb) fq.absorbRelus(g);
    const found = gradients(model, { of: [{ value: y, seed }], wrt: [x], rules: fq.rules });
    const outs = [y, found.of.get(x)!].map((v) => g.append({ op: "Identity", inputs: [v] }).outputs[0]!);
    for (const v of outs) g.addOutput(v);
    fq.expand(g, new Emit(g, 21));
    return { model, relus: g.nodes.filter((n) => n.op === "Relu").length, names: outs.map((v) => v.name) };
  };
  const normal = normals(9);
  const data = Float32Array.from({ length: 64 }, () => normal() * 2);
  const dy = Float32Array.from({ length: 64 }, () => normal());
  const feeds = { x: { dtype: "float32" as const, dims: [64], data }, dy: { dtype: "float32" as const, dims: [64], data: dy } };
  const [plain, short] = await Promise.all(
    [false, true].map(async (absorb) => {
      const b = build(absorb);
      expect(b.relus).toBe(absorb ? 0 : 1);
      const session = await runtime.open(writeModel(b.model));
      const out = await session.run(feeds);
      return b.names.map((n) => out[n]!.data);
    }),
  );
  expect(short).toEqual(plain);
});
