import { cloneModel } from "../graph/clone.ts";
import type { Graph, Model, Value } from "../graph/ir.ts";
import { int64s } from "../graph/tensor.ts";
import { staticShape, tensorType, type ValueType } from "../graph/types.ts";
import { elementCount } from "../quant/dtype.ts";
import { REDUCED } from "./fold.ts";

/**
 * Below this many elements, copying a tensor out and scanning it costs less than the nodes that reduce it (measured: about 1.5 us a
 * node, 8 nodes a value, against 1.5 ns an element).
 */
const WORTH = 8192;

/**
 * The values whose range is best reduced inside the graph: large, float32, of the main graph. Shapes come from the graph or, where it
 * leaves dimensions open, from `types`, which were seen with a sample.
 */
export function reducible(model: Model, values: readonly string[], types: ReadonlyMap<string, ValueType> = new Map()): readonly string[] {
  return values.filter((name) => {
    const v = model.graph.values.get(name);
    const type = staticShape(v?.type) === undefined ? (types.get(name) ?? v?.type) : v?.type;
    const shape = staticShape(type);
    if (v === undefined || v.isInput || shape === undefined || type?.kind !== "tensor" || type.elem !== "float32") return false;
    return elementCount(shape) >= WORTH;
  });
}

/** A copy of the model with minimum, maximum, sum of magnitudes and size of these values, concatenated, as further outputs. */
export function reduceRanges(model: Model, values: readonly string[]): Model {
  const copy = cloneModel(model);
  const g = copy.graph;
  const one = g.constant(int64s([1]), "qc_calibrate_one");
  for (const [kind, op] of [
    ["min", "ReduceMin"],
    ["max", "ReduceMax"],
    ["magnitude", "ReduceL1"],
    ["size", "Size"],
  ] as const) {
    const parts = values.map((name) => {
      const all = single(g, op, [g.values.get(name)!], op === "Size" ? {} : { keepdims: 0 });
      return single(g, "Reshape", [all, one]);
    });
    const out = g.append({ op: "Concat", inputs: parts, outputs: [REDUCED[kind]], attrs: { axis: 0 } }).outputs[0]!;
    out.type = tensorType(kind === "size" ? "int64" : "float32", [values.length]);
    g.addOutput(out);
  }
  return copy;
}

function single(g: Graph, op: string, inputs: readonly Value[], attrs: Readonly<Record<string, number>> = {}): Value {
  return g.append({ op, inputs, attrs }).outputs[0]!;
}
