import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Emit, gradients } from "../../src/grad/index.ts";
import { cloneModel } from "../../src/graph/clone.ts";
import type { Value } from "../../src/graph/ir.ts";
import { loadModel, writeModel } from "../../src/graph/onnx/index.ts";
import { asFloat32, floats } from "../../src/graph/tensor.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { raisedForTraining } from "../../src/qat/opset.ts";
import { shapesOf } from "../../src/qat/shapes.ts";
import { weightParams } from "../../src/qat/weights.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Feeds, Runtime, Tensor } from "../../src/runtime/types.ts";
import { Rng } from "./check.ts";

const folder = process.env["QC_MODELS"] ?? resolve(import.meta.dirname, "../../../shared/models");

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const image = (dims: readonly number[], scale = 1): Tensor => {
  const r = new Rng(3);
  return { dtype: "float32", dims, data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => scale * r.next()) };
};
const ids = (n: number, most: number): Tensor => {
  const r = new Rng(4);
  return { dtype: "int64", dims: [1, n], data: BigInt64Array.from({ length: n }, () => BigInt(r.int(1, most - 1))) };
};

/** File, one sample, and the operators at which gradients stop (none: every weight is reached). */
const MODELS: readonly (readonly [string, Feeds, readonly string[]])[] = [
  ["cifar/resnet8_cifar10.onnx", { input: image([2, 32, 32, 3], 255) }, []],
  ["cifar/resnet20_cifar10.onnx", { input: image([2, 3, 32, 32], 2) }, []],
  ["vww/vww_mobilenetv1_025_96.onnx", { input: image([1, 96, 96, 3]) }, []],
  ["kws/kws_dscnn.onnx", { input: image([2, 49, 10, 1], 30) }, []],
  ["fastestdet/FastestDet.onnx", { "input.1": image([1, 3, 352, 352]) }, []],
  ["anomaly/ad01_autoencoder.onnx", { input: image([2, 640], 10) }, []],
  ["esrgan/esrgan_slim_x2.onnx", { input: image([1, 24, 24, 3]) }, []],
  ["ultraface/version-RFB-320.onnx", { input: image([1, 3, 240, 320]) }, []],
  ["stories/stories260K.onnx", { input_ids: ids(12, 512) }, []],
  [
    "silero/silero_vad_16k_op15.onnx",
    {
      input: image([1, 576]),
      state: image([2, 1, 128]),
      sr: { dtype: "int64", dims: [], data: BigInt64Array.of(16000n) },
    },
    ["If"],
  ],
];

test.skipIf(!existsSync(folder)).each(MODELS)(
  "%s: the gradient of the whole network along a random direction",
  async (file, given, stops) => {
    const path = join(folder, file);
    if (!existsSync(path)) return;
    const source = loadModel(path);
    const feeds = Object.fromEntries(
      source.graph.inputs.filter((v) => !v.data).map((v, i) => [v.name, given[v.name] ?? Object.values(given)[i]!]),
    );
    const prepared = await prepareModel(source, runtime, { feeds });
    const model = raisedForTraining(prepared.model);
    const types = await shapesOf(model, runtime, feeds);
    const forward = cloneModel(model);
    const weightsOf = (m: typeof model) => weightParams(m.graph).filter((p) => p.shape.length > 0);
    const params = weightsOf(model);
    expect(params.length).toBeGreaterThan(0);

    // Σ random · outputs, and its gradient by every weight.
    const session = await runtime.open(writeModel(forward));
    const base = await session.run(feeds);
    await session.release();
    const rng = new Rng(9);
    const outs = Object.entries(base).filter(([, t]) => t.dtype === "float32");
    const weights = new Map(outs.map(([name, t]) => [name, Float32Array.from(t.data as Float32Array, () => rng.normal())]));
    const seeds = outs.map(([name, t]) => ({
      value: model.graph.values.get(name)!,
      seed: model.graph.constant(floats(weights.get(name)!, t.dims), "seed"),
    }));
    const found = gradients(model, { of: seeds, wrt: params.map((p) => p.value), emit: new Emit(model.graph, 18, types) });
    expect([...new Set(found.blocked.map((b) => b.node.op))].sort()).toEqual(stops);
    for (const b of found.blocked) expect(b.why).not.toBe("");
    const reached = params.filter((p) => found.of.has(p.value));
    if (stops.length === 0) expect(params.filter((p) => !found.of.has(p.value)).map((p) => p.name)).toEqual([]);
    if (reached.length === 0) return;
    const named = new Map<string, Value>();
    model.graph.outputs.splice(0, model.graph.outputs.length);
    for (const p of reached) {
      const copy = model.graph.append({ op: "Identity", inputs: [found.of.get(p.value)!] }).outputs[0]!;
      model.graph.addOutput(copy);
      named.set(p.name, copy);
    }
    const back = await runtime.open(writeModel(model), { level: "basic" });
    const grads = await back.run(feeds);
    await back.release();

    // Central difference along a direction in proportion to each weight's size.
    const direction = new Map<string, Float32Array>();
    let slope = 0;
    let size = 0;
    for (const p of reached) {
      const g = grads[named.get(p.name)!.name]!;
      expect(g.dims.join(), p.name).toBe(p.shape.join());
      const rms = Math.sqrt(p.init.reduce((a, b) => a + b * b, 0) / p.init.length);
      const d = Float32Array.from(p.init, () => rms * rng.normal());
      direction.set(p.name, d);
      const data = g.data as Float32Array;
      for (let i = 0; i < d.length; i++) {
        slope += data[i]! * d[i]!;
        size += (data[i]! * d[i]!) ** 2;
      }
    }
    const at = async (h: number) => {
      const moved = cloneModel(forward);
      for (const [name, d] of direction) {
        const v = moved.graph.values.get(name)!;
        const w = asFloat32(v.data!);
        v.graph.setData(
          v,
          floats(
            w.map((x, i) => x + h * d[i]!),
            v.data!.shape,
          ),
        );
      }
      const s = await runtime.open(writeModel(moved));
      const out = await s.run(feeds);
      await s.release();
      let sum = 0;
      for (const [name, w] of weights) {
        const y = out[name]!.data as Float32Array;
        for (let i = 0; i < w.length; i++) sum += w[i]! * y[i]!;
      }
      return sum;
    };
    // The step is a compromise of kinks (large) and float32 sums (small); the best of four must agree to 3 % of the gradient's length.
    const errors: number[] = [];
    for (const h of [1e-2, 1e-3, 1e-4, 1e-5])
      errors.push(Math.abs((await at(h)) - (await at(-h)) - 2 * h * slope) / (2 * h * Math.sqrt(size)));
    expect(Math.min(...errors), errors.map((e) => e.toPrecision(3)).join(" ")).toBeLessThan(0.03);
  },
);
