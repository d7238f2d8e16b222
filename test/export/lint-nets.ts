import { type Model, newModel } from "../../src/graph/ir.ts";
import { floats, tensorFromBytes } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";

/** A Conv whose bias comes from int32 codes through `bias_dq`, as onnxruntime's quantizer writes it. */
export function withBias(): Model {
  const m = newModel(13, 8);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", [1, 2, 6, 6]));
  const w = g.constant(
    floats(
      Float32Array.from({ length: 72 }, (_, i) => (i % 7) - 3),
      [4, 2, 3, 3],
    ),
    "w",
  );
  const codes = g.constant(tensorFromBytes("int32", [4], new Uint8Array(new Int32Array([1, -2, 3, 4]).buffer)), "bias_quantized");
  const scale = g.constant(floats([0.01], []), "bias_scale");
  const bias = g.append({ op: "DequantizeLinear", name: "bias_dq", inputs: [codes, scale], outputs: ["bias"] }).outputs[0]!;
  const y = g.append({ op: "Conv", name: "conv", inputs: [x, w, bias], outputs: ["y"], attrs: { kernel_shape: [3, 3] } }).outputs[0]!;
  g.setType(y, tensorType("float32", [1, 4, 4, 4]));
  g.addOutput(y);
  return m;
}
