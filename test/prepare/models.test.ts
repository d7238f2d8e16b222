import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkModel } from "../../src/graph/check.ts";
import { constantOf } from "../../src/graph/constant.ts";
import type { Model } from "../../src/graph/ir.ts";
import { loadModel, writeModel } from "../../src/graph/onnx/index.ts";
import { opFacts } from "../../src/graph/ops/index.ts";
import { printModel } from "../../src/graph/print.ts";
import { allNodes } from "../../src/graph/walk.ts";
import { type Prepared, prepareModel } from "../../src/prepare/index.ts";
import { profileModel } from "../../src/prepare/profile.ts";
import { findRegions } from "../../src/prepare/regions.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Feeds, Runtime } from "../../src/runtime/types.ts";
import { difference, feedsOf, numbers, runModel } from "./build.ts";

const folder = process.env["QC_MODELS"] ?? resolve(import.meta.dirname, "../../../shared/models");
const absent = !existsSync(folder);
if (absent) console.warn(`prepare/models: skipped, no models at "${folder}" (set QC_MODELS)`);

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** Equal outputs, idempotent, valid. Tolerance 1e-4 of the largest output where BatchNormalization is folded, else bit for bit. */
async function lawful(file: string, feeds: (m: Model) => Feeds, tolerance: number): Promise<{ source: Model; p: Prepared }> {
  const source = loadModel(join(folder, file));
  const p = await prepareModel(source, runtime);
  expect(checkModel(p.model)).toEqual([]);
  expect(difference(await runModel(runtime, source, feeds(source)), await runModel(runtime, p.model, feeds(source)))).toBeLessThanOrEqual(
    tolerance,
  );
  const again = await prepareModel(p.model, runtime);
  expect(again.applied).toEqual([]);
  expect(printModel(again.model)).toBe(printModel(p.model));
  // The model as written never grows.
  expect(writeModel(p.model).length).toBeLessThanOrEqual(writeModel(source).length);
  return { source, p };
}
const ops = (p: Prepared): Map<string, number> => {
  const out = new Map<string, number>();
  for (const n of allNodes(p.model)) out.set(n.op, (out.get(n.op) ?? 0) + 1);
  return out;
};
const images = (m: Model): Feeds => feedsOf(m, 5);
const tokens =
  (count: number, vocabulary: number) =>
  (m: Model): Feeds => {
    const next = numbers(3);
    const data = BigInt64Array.from({ length: count }, (_, i) => (i === 0 ? 1n : BigInt(Math.floor(((next() + 1) / 2) * vocabulary))));
    return { [m.graph.inputs[0]!.name]: { dtype: "int64", dims: [1, count], data } };
  };
const audio = (rate: bigint) => (): Feeds => {
  const next = numbers(9);
  return {
    input: { dtype: "float32", dims: [1, 576], data: Float32Array.from({ length: 576 }, () => next() * 0.3) },
    state: { dtype: "float32", dims: [2, 1, 128], data: new Float32Array(256) },
    sr: { dtype: "int64", dims: [], data: BigInt64Array.of(rate) },
  };
};

describe.skipIf(absent)("prepare on real models", () => {
  test("resnet20: 19 BatchNormalizations fold, Slice and Pad shortcuts stay, types without any value_info", async () => {
    const { source, p } = await lawful("cifar/resnet20_cifar10.onnx", images, 1e-4);
    expect([...source.graph.values.values()].filter((v) => v.producer && !v.isOutput && v.type)).toEqual([]);
    expect(ops(p).get("BatchNormalization")).toBeUndefined();
    expect([ops(p).get("Slice"), ops(p).get("Pad"), ops(p).get("Conv")]).toEqual([2, 2, 19]);
    for (const v of p.model.graph.values.values())
      expect(p.types.get(v.name), v.name).toMatchObject({ kind: "tensor", elem: expect.any(String), shape: expect.any(Array) });
    expect(p.refused).toEqual([]);
  });

  test.each([
    ["vww/vww_mobilenetv1_025_96.onnx", 0],
    ["cifar/resnet8_cifar10.onnx", 0],
    ["kws/kws_dscnn.onnx", 1e-4],
    ["anomaly/ad01_autoencoder.onnx", 0],
    ["esrgan/esrgan_slim_x2.onnx", 0],
  ])("%s", async (file, tolerance) => {
    const { p } = await lawful(file, images, tolerance);
    expect(ops(p).get("Identity")).toBeUndefined();
    expect(ops(p).get("BatchNormalization")).toBeUndefined();
  });

  test("UltraFace: 244 weights listed as inputs become constants, the real input and the names of outputs stay", async () => {
    const { source, p } = await lawful("ultraface/version-RFB-320.onnx", images, 1e-4);
    expect(source.graph.inputs.length).toBe(245);
    expect(p.model.graph.inputs.map((v) => v.name)).toEqual(["input"]);
    expect(p.model.graph.outputs.map((v) => v.name)).toEqual(source.graph.outputs.map((v) => v.name));
    // The shape is fixed, so the Shape–Gather–Concat chains of its Reshapes are constants.
    for (const op of ["BatchNormalization", "Shape", "Gather", "Constant"]) expect(ops(p).get(op), op).toBeUndefined();
  });

  test("FastestDet: the empty Pad in front of its average pool goes", async () => {
    const { p } = await lawful("fastestdet/FastestDet.onnx", images, 1e-6);
    expect(ops(p).get("Pad")).toBeUndefined();
  });

  test.each([
    ["silero/silero_vad.onnx", 16000n],
    ["silero/silero_vad.onnx", 8000n],
    ["silero/silero_vad_16k_op15.onnx", 16000n],
  ])("%s at %d Hz: weights inside nested If are constants, LSTM gates too", async (file, rate) => {
    const feeds =
      rate === 8000n
        ? () => ({ ...audio(rate)(), input: { dtype: "float32" as const, dims: [1, 288], data: new Float32Array(288).fill(0.1) } })
        : audio(rate);
    // The engine packs LSTM weights that are constant and sums in another order then: 2e-7 seen.
    const { p } = await lawful(file, feeds, 1e-6);
    for (const n of allNodes(p.model)) {
      const facts = opFacts(n);
      if (facts?.trait === "recurrent")
        expect(
          facts.weights.map((w) => w.input),
          n.name,
        ).toEqual([1, 2]);
      if (n.op === "Conv") expect(constantOf(n.inputs[1]), n.name).toBeDefined();
    }
    expect([...allNodes(p.model)].filter((n) => n.op === "LSTM").length).toBeGreaterThan(0);
    const inner = [...p.types].filter(([path]) => path.includes("_branch/"));
    if (file.includes("op15")) return;
    expect(inner.filter(([, t]) => t.kind === "tensor" && t.elem === "float32").length).toBeGreaterThan(50);
  });

  test("stories: normalizations, rotations, masks and gates are regions", async () => {
    const { p } = await lawful("stories/stories260K.onnx", tokens(12, 512), 0);
    const kinds = new Map<string, number>();
    for (const r of findRegions(p.model)) kinds.set(r.kind, (kinds.get(r.kind) ?? 0) + 1);
    expect(Object.fromEntries(kinds)).toEqual({ "attention-mask": 5, "rms-norm": 11, rope: 10, silu: 5 });
    // The mask of −10⁹ is inside, from its source to the softmax.
    const inside = new Set(
      findRegions(p.model)
        .filter((r) => r.kind === "attention-mask")
        .flatMap((r) => r.nodes.map((n) => n.op)),
    );
    expect([...inside].sort()).toEqual(["Add", "Expand", "Mul", "Softmax", "Trilu"]);
  });

  test("lm: stored float16 stays float16 in the file, and is float32 to whoever asks; the tied tensor is one", async () => {
    const { source, p } = await lawful("lm/lm.onnx", tokens(8, 8192), 0);
    expect(ops(p).get("Cast")).toBe([...allNodes(source)].filter((n) => n.op === "Cast").length);
    const products = [...allNodes(p.model)].map((n) => ({ n, w: opFacts(n)?.weights[0] })).filter((x) => x.w?.kind === "product");
    expect(products.length).toBe(57); // 8 layers of 7, and the head
    const head = products.find(({ w }) => w!.constant.chain.some((c) => c.op === "Transpose"))!.w!;
    const table = [...allNodes(p.model)].map((n) => opFacts(n)?.weights[0]).find((w) => w?.kind === "table")!;
    expect(head.constant.root).toBe(table.constant.root);
    expect([head.constant.root.data!.dtype, head.constant.dtype, head.constant.shape]).toEqual(["float16", "float32", [512, 8192]]);
    const x = head.constant.float32();
    const y = table.constant.float32();
    expect([x[1], x[8192]]).toEqual([y[512], y[1]]);
  });

  test.each([
    // MLPerf Tiny publishes 12.5, 7.5, 2.7 and 0.26 million (resnet8, vww, kws, anomaly); He et al. 41 million for ResNet-20.
    ["cifar/resnet8_cifar10.onnx", 12.5e6],
    ["vww/vww_mobilenetv1_025_96.onnx", 7.5e6],
    ["kws/kws_dscnn.onnx", 2.7e6],
    ["anomaly/ad01_autoencoder.onnx", 0.264e6],
    ["cifar/resnet20_cifar10.onnx", 40.8e6],
  ])("%s costs %d operations", async (file, want) => {
    const p = await profileModel(loadModel(join(folder, file)), runtime);
    expect(p.uncounted).toEqual([]);
    expect(p.memory.unknown).toEqual([]);
    expect(Math.abs(p.macs / want - 1)).toBeLessThan(0.03);
    expect(p.memory.peakBytes).toBeLessThan(p.memory.totalBytes);
  });

  test("with a sample, shapes are those seen, inside branches too", async () => {
    const source = loadModel(join(folder, "silero/silero_vad.onnx"));
    const p = await prepareModel(source, runtime, { feeds: audio(16000n)() });
    const conv = [...p.types].filter(
      ([path, t]) => /then_branch\/.*conv/i.test(path) && t.kind === "tensor" && t.shape?.every((d) => typeof d === "number"),
    );
    expect(conv.length).toBeGreaterThan(0);
  });
});
