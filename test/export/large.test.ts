import { expect, test } from "vitest";
import { quantize } from "../../src/compile.ts";
import { newModel } from "../../src/graph/ir.ts";
import { readModel, writeModel } from "../../src/graph/onnx/index.ts";
import { floats } from "../../src/graph/tensor.ts";
import { allNodes } from "../../src/graph/walk.ts";

/** Above 4 M elements codes are made when the file is written: they must be those that the plan means, and read the weight each time. */
test.each(["ort-cpu", "portable"])("codes of a large weight, %s", async (target) => {
  const [K, N] = [2080, 2048];
  const w = Float32Array.from({ length: K * N }, (_, i) => Math.sin(i * 0.7) * (1 + (i % 7)));
  let reads = 0;
  const m = newModel(21);
  const x = m.graph.addInput("x", { kind: "tensor", elem: "float32", shape: ["N", K] });
  const stored = floats(w, [K, N]);
  const weight = m.graph.constant(
    {
      ...stored,
      bytes: () => {
        reads++;
        return stored.bytes();
      },
    },
    "w",
  );
  m.graph.addOutput(m.graph.append({ op: "MatMul", inputs: [x, weight], outputs: ["y"], name: "product" }).outputs[0]!);
  m.graph.outputs[0]!.type = { kind: "tensor", elem: "float32", shape: ["N", N] };
  const { model } = await quantize(writeModel(m), { target, recipe: "int4-weights" });
  expect(reads).toBeGreaterThan(0);
  const once = writeModel(model);
  expect(Buffer.compare(once, writeModel(model))).toBe(0);
  expect(once.byteLength).toBeLessThan(0.2 * 4 * K * N);
  expect([...allNodes(readModel(once))].map((n) => n.op)).toEqual(target === "ort-cpu" ? ["MatMulNBits"] : ["DequantizeLinear", "MatMul"]);
});
