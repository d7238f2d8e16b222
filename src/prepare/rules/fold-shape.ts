import type { Node } from "../../graph/ir.ts";
import { int64s, type TensorData, tensorFrom } from "../../graph/tensor.ts";
import { replaceByConstant } from "../constants/index.ts";
import { matched, nodeRule } from "../rule.ts";

/**
 * Shape and Size of a value whose shape is the same for every sample: exact. That is so when every graph input has a fixed shape, which
 * the runtime enforces, and the runtime derived this one from them; a shape that the file merely claims is not enough.
 */
export const foldShape = nodeRule<{ readonly node: Node; readonly data: TensorData }>({
  name: "fold-shape",
  ops: ["Shape", "Size"],
  tolerance: 0,
  match(n, ctx) {
    const x = n.inputs[0];
    const out = n.outputs[0];
    if (!x || !out || out.isOutput || n.graph.parent || n.attrs.has("start") || n.attrs.has("end")) return undefined;
    const shape = ctx.fixedShape(x);
    if (!shape) return undefined;
    const data = n.op === "Shape" ? int64s(shape) : tensorFrom(BigInt64Array.of(BigInt(shape.reduce((a, b) => a * b, 1))), []);
    return matched({ node: n, data });
  },
  apply: ({ node, data }) => replaceByConstant(node.outputs[0]!, data),
});
