import { cloneModel } from "../../graph/clone.ts";
import type { Model } from "../../graph/ir.ts";
import { opFacts } from "../../graph/ops/index.ts";
import { asFloat32, floats, type TensorData } from "../../graph/tensor.ts";
import { allGraphs } from "../../graph/walk.ts";
import type { PlanBundle } from "../../plan/types.ts";

/** The prepared model without the channels that a plan takes out; itself when it takes out none. Types of inner values are left to inference. */
export function prunedModel(model: Model, { plan, tensors }: Pick<PlanBundle, "plan" | "tensors">): Model {
  return plan.pruned ? withConstants(model, new Map(plan.pruned.constants.map((c) => [c.value, tensors.get(c.tensor.tensor)!]))) : model;
}

/** Constants with other shapes in their place. */
export function withConstants(model: Model, constants: ReadonlyMap<string, TensorData>): Model {
  const copy = cloneModel(model);
  for (const [name, data] of constants) {
    const v = copy.graph.values.get(name);
    if (!v?.isConstant) throw new Error(`internal: "${name}" is no constant of the graph`);
    const before = v.data!.shape;
    copy.graph.setData(v, data);
    for (const { node, input } of v.uses) {
      const w = opFacts(node)?.weights.find((x) => x.input === input);
      // A depthwise convolution has as many groups as channels.
      if (w && w.groups > 1 && before[0] === w.groups) copy.graph.setAttr(node, "group", data.shape[0]!);
    }
  }
  for (const g of allGraphs(copy.graph))
    for (const v of g.values.values()) if (v.producer && !v.isOutput && v.type?.kind === "tensor") v.type = { ...v.type, shape: undefined };
  return copy;
}

/** A tensor without some indices of some axes. */
export function without(
  t: TensorData,
  removed: ReadonlyMap<number, ReadonlySet<number>>,
  data: ArrayLike<number> = asFloat32(t),
): TensorData {
  const kept = t.shape.map((n, axis) => Array.from({ length: n }, (_, i) => i).filter((i) => !removed.get(axis)?.has(i)));
  const shape = kept.map((k) => k.length);
  const out = new Float32Array(shape.reduce((a, b) => a * b, 1));
  const strides = t.shape.map((_, a) => t.shape.slice(a + 1).reduce((x, y) => x * y, 1));
  const at = new Array<number>(shape.length).fill(0);
  for (let p = 0; p < out.length; p++) {
    let from = 0;
    for (let a = 0; a < at.length; a++) from += kept[a]![at[a]!]! * strides[a]!;
    out[p] = data[from]!;
    for (let a = at.length - 1; a >= 0 && ++at[a]! === shape[a]!; a--) at[a] = 0;
  }
  return floats(out, shape);
}
