import { intAttr } from "../graph/attr.ts";
import { constantOf } from "../graph/constant.ts";
import type { Graph, Node, Value } from "../graph/ir.ts";
import { rowOf } from "../graph/ops/index.ts";
import type { Types } from "./types.ts";

/**
 * Ranks that the runtime's inference leaves open: behind a Reshape whose target is computed, all shapes are unknown to it, though the
 * length of the target tells the rank. Fills in shapes of unknown dimensions, in execution order, subgraphs included.
 */
export function inferRanks(graph: Graph, types: Types): void {
  for (const n of graph.nodes) {
    for (const s of n.subgraphs) inferRanks(s, types);
    for (const o of n.outputs) {
      const t = o && types.get(o);
      if (t?.kind !== "tensor" || t.shape !== undefined) continue;
      const rank = rankOfOutput(n, types);
      if (rank !== undefined) types.set(o!, { ...t, shape: new Array<undefined>(rank).fill(undefined) });
    }
  }
}

const rankOf = (v: Value | undefined, types: Types): number | undefined => {
  if (v?.data) return v.data.shape.length;
  const t = v && types.get(v);
  return t?.kind === "tensor" ? t.shape?.length : undefined;
};

function rankOfOutput(n: Node, types: Types): number | undefined {
  if (n.domain !== "" && n.domain !== "ai.onnx") return undefined;
  const at = (i: number) => rankOf(n.inputs[i], types);
  const widest = (): number | undefined => {
    const all = n.inputs.map((v) => (v ? rankOf(v, types) : 0));
    return all.every((r) => r !== undefined) ? Math.max(...all) : undefined;
  };
  if (SAME.has(n.op)) return at(0);
  switch (n.op) {
    case "Reshape":
    case "Expand":
    case "ConstantOfShape": {
      const shape = n.inputs[n.op === "ConstantOfShape" ? 0 : 1];
      const t = shape && types.get(shape);
      const length = shape?.data?.shape[0] ?? (t?.kind === "tensor" && t.shape?.length === 1 ? t.shape[0] : undefined);
      if (typeof length !== "number") return undefined;
      if (n.op !== "Expand") return length;
      const own = at(0);
      return own === undefined ? undefined : Math.max(own, length);
    }
    case "Flatten":
      return 2;
    case "Gather": {
      const [data, indices] = [at(0), at(1)];
      return data === undefined || indices === undefined ? undefined : data - 1 + indices;
    }
    case "Squeeze":
    case "Unsqueeze": {
      const axes = constantOf(n.inputs[1])?.shape[0];
      const own = at(0);
      return axes === undefined || own === undefined ? undefined : n.op === "Squeeze" ? own - axes : own + axes;
    }
    case "MatMul": {
      const [a, b] = [at(0), at(1)];
      return a === undefined || b === undefined || a < 2 || b < 2 ? undefined : Math.max(a, b);
    }
    default:
      if (n.op.startsWith("Reduce")) return intAttr(n, "keepdims", 1) === 1 ? at(0) : undefined;
      return rowOf(n)?.elementwise ? widest() : undefined;
  }
}

/** Operators whose first output has the rank of their first input, elementwise ones aside. */
const SAME = new Set([
  "Transpose",
  "Softmax",
  "LogSoftmax",
  "LayerNormalization",
  "RMSNormalization",
  "InstanceNormalization",
  "GroupNormalization",
  "BatchNormalization",
  "Slice",
  "Pad",
  "Concat",
  "Split",
  "Resize",
  "Tile",
  "Conv",
  "ConvTranspose",
  "MaxPool",
  "AveragePool",
  "GlobalAveragePool",
  "GlobalMaxPool",
  "CumSum",
  "TopK",
  "Trilu",
  "DepthToSpace",
  "SpaceToDepth",
  "GatherElements",
  "ScatterElements",
  "ScatterND",
  "LpNormalization",
  "LRN",
  "Dropout",
]);
