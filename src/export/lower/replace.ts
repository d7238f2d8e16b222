import type { Resolver } from "../../plan/resolve.ts";
import type { PlanBundle } from "../../plan/types.ts";
import { behind, RULE } from "./emit.ts";

/** Constants with a new content: bias correction, equalization, learned weights. */
export function replaceConstants(bundle: PlanBundle, resolve: Resolver): void {
  for (const r of bundle.plan.replacements) {
    const v = resolve.value(r.value);
    v.graph.setData(v, bundle.tensors.get(r.tensor.tensor)!);
  }
}

/** A Mul by a constant between a value and some of its consumers (smoothing that no neighbour could take). */
export function insertMultipliers(bundle: PlanBundle, resolve: Resolver): void {
  for (const i of bundle.plan.insertions) {
    const v = resolve.value(i.value);
    const graph = v.graph;
    const by = graph.constant(bundle.tensors.get(i.by.tensor)!, `${v.name}_factor`);
    const uses = resolve.uses(i, v);
    const node = behind(
      graph,
      v,
    )({
      op: "Mul",
      name: `${v.name}_smooth`,
      inputs: [v, by],
      outputs: [graph.freshName(`${v.name}_smoothed`)],
      origin: { rule: RULE, from: [v.name] },
    });
    graph.setType(node.outputs[0]!, v.type);
    for (const u of uses) u.node.graph.replaceUse(u.node, u.input, node.outputs[0]!);
  }
}
