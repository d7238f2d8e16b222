import type { Graph, Model } from "../../graph/ir.ts";

/** Removes nodes without a used output and constants without a use, in subgraphs too, until nothing changes. Inputs and outputs stay. */
export function sweep(model: Model): void {
  const graphs = (g: Graph): Graph[] => [g, ...g.nodes.flatMap((n) => n.subgraphs.flatMap(graphs))];
  for (let changed = true; changed; ) {
    changed = false;
    for (const g of graphs(model.graph).reverse()) {
      for (const n of [...g.nodes].reverse()) {
        if (n.outputs.length === 0 || n.outputs.some((o) => o && (o.uses.length > 0 || isResult(g, o)))) continue;
        g.remove(n);
        changed = true;
      }
      for (const v of [...g.values.values()]) {
        if (v.producer || v.uses.length > 0 || isResult(g, v) || g.inputs.includes(v)) continue;
        g.removeValue(v);
        changed = true;
      }
    }
  }
}

function isResult(g: Graph, v: Graph["outputs"][number]): boolean {
  if (g.outputs.includes(v)) return true;
  // An outer value may be the output of a subgraph without being read there.
  return g.nodes.some((n) => n.subgraphs.some((s) => isResult(s, v)));
}
