import { afterAll, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { lower } from "../../src/export/lower/index.ts";
import type { Model } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { recipeOf } from "../../src/plan/recipes/index.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { castRest } from "../../src/ptq/rest.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { NodeTime, Tensor } from "../../src/runtime/types.ts";
import { planned, tiedNet } from "../plan/nets.ts";
import { Builder, feedsOf } from "../prepare/build.ts";

/**
 * A GPU, or SwiftShader in its place: libvulkan.so.1 on LD_LIBRARY_PATH, and VK_ICD_FILENAMES naming a JSON file whose ICD.library_path is
 * libvk_swiftshader.so (Debian: packages libvulkan1 and chromium-common). Both must be set before the process starts.
 */
const runtime = createRuntime({ workers: 1 });
afterAll(() => runtime.close());
const probe = new Builder(17);
const small = probe.output(probe.node("Relu", [probe.input("x", [1, 4])], {}, "y"));
const adapter = await runtime.open(writeModel(small), { provider: "webgpu" }).then(
  async (s) => {
    await s.release();
    return true;
  },
  () => false,
);

/** x -> MatMul -> Relu -> MatMul, behind it a residual sum. */
function productNet(): Model {
  const b = new Builder(17);
  const x = b.input("x", [1, 6, 64]);
  const h = b.node("Relu", [b.node("MatMul", [x, b.weight("w1", [64, 128])], {}, "a")], {}, "h");
  return b.output(b.node("Add", [b.node("MatMul", [h, b.weight("w2", [128, 64])], {}, "p"), x], {}, "y"));
}

async function run(
  model: Model,
  source: Model,
  provider: "cpu" | "webgpu",
): Promise<{ y: Record<string, Tensor>; nodes: readonly NodeTime[] }> {
  const session = await runtime.open(writeModel(model), { provider, level: "all", profile: true });
  const y = await session.run(feedsOf(source, 9));
  const nodes = await session.profile();
  await session.release();
  return { y, nodes };
}
function worst(a: Record<string, Tensor>, b: Record<string, Tensor>): number {
  let most = 0;
  for (const [k, t] of Object.entries(a))
    (t.data as Float32Array).forEach((v, i) => {
      most = Math.max(most, Math.abs(v - (b[k]!.data as Float32Array)[i]!));
    });
  return most;
}

test.skipIf(!adapter).each([
  ["products", productNet, ["MatMulNBits"]],
  ["a table and products", tiedNet, ["GatherBlockQuantized", "MatMulNBits"]],
] as const)(
  "int4 on WebGPU: %s stay on the device, with no copy between them, and equal the CPU (needs an adapter)",
  async (_, make, ops) => {
    const source = make();
    const { model, bundle } = await planned(runtime, source, "ort-webgpu", "int4-weights", {});
    const lowered = lower(model, bundle, targetOf("ort-webgpu"));
    const [cpu, gpu] = [await run(lowered, source, "cpu"), await run(lowered, source, "webgpu")];
    for (const op of ops) expect(gpu.nodes.map((n) => n.op)).toContain(op);
    expect(gpu.nodes.filter((n) => n.provider !== "WebGpuExecutionProvider").map((n) => n.op)).toEqual([]);
    // Copies of what the caller gives (ids) are no copies between operators; MemcpyToHost would be one.
    expect(gpu.nodes.map((n) => n.op)).not.toContain("MemcpyToHost");
    // float32 sums of at most 128 products below 1, in another order.
    expect(worst(cpu.y, gpu.y)).toBeLessThan(128 * 2 ** -20);
  },
);

test.skipIf(!adapter)("float16 on WebGPU runs on the device, or the device says that it lacks the type (needs an adapter)", async () => {
  const source = productNet();
  const target = targetOf("ort-webgpu");
  const { model, bundle, proposal } = await planned(runtime, source, "ort-webgpu", "int4-weights");
  const recipe = { ...recipeOf("int4-weights"), floatType: "float16" as const };
  const half = lower(model, castRest(bundle, { model, types: proposal.input.types, recipe, target, stats: undefined }), target);
  try {
    const { y, nodes } = await run(half, source, "webgpu");
    expect(nodes.filter((n) => n.provider !== "WebGpuExecutionProvider").map((n) => n.op)).toEqual([]);
    // Two products of 64 and 128 terms in 11 bits.
    expect(worst((await run(lower(model, bundle, target), source, "cpu")).y, y)).toBeLessThan(0.05);
  } catch (e) {
    if (!(e instanceof QcError)) throw e;
    expect(e.message).toContain("f16");
  }
});
