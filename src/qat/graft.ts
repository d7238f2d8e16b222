import type { Attr } from "../graph/attr.ts";
import { cloneGraph } from "../graph/clone.ts";
import type { Graph, Model, Value } from "../graph/ir.ts";

/**
 * Copies the nodes of `source` to the end of `g` under names that begin with `prefix`. Graph inputs of the same name are shared, constants
 * by reference. Gives each value of the source's main graph its copy.
 */
export function graft(g: Graph, source: Model, prefix: string): ReadonlyMap<Value, Value> {
  const map = new Map<Value, Value>();
  for (const v of source.graph.values.values()) {
    if (v.producer) continue;
    const shared = v.isInput ? g.values.get(v.name) : undefined;
    if (shared) map.set(v, shared);
    else if (v.data) map.set(v, g.constant(v.data, `${prefix}${v.name}`));
    else throw new Error(`internal: no input "${v.name}" to share`);
  }
  for (const n of source.graph.nodes) {
    const attrs: Record<string, Attr> = {};
    for (const [k, a] of n.attrs) attrs[k] = a.kind === "graph" ? { kind: "graph", value: cloneGraph(a.value, g, new Map(map)) } : a;
    const copy = g.append({
      op: n.op,
      domain: n.domain,
      name: `${prefix}${n.name}`,
      inputs: n.inputs.map((v) => v && map.get(v)!),
      outputs: n.outputs.map((o) => (o ? g.freshName(`${prefix}${o.name}`) : "")),
      attrs,
    });
    n.outputs.forEach((o, i) => {
      if (o) map.set(o, copy.outputs[i]!);
    });
  }
  return map;
}
