import type { GraphRule } from "../rule.ts";

/**
 * Nodes none of whose outputs is used, and constants without uses, leave the graph: exact. Consumers stand behind producers, so one pass
 * from the end finds whole dead branches. Graph inputs stay, used or not.
 */
export const dropDead: GraphRule = {
  name: "drop-dead",
  tolerance: 0,
  run(g) {
    const keep = new Set(g.outputs);
    let count = 0;
    for (let i = g.nodes.length - 1; i >= 0; i--) {
      const n = g.nodes[i]!;
      if (n.outputs.some((o) => o && (o.uses.length > 0 || keep.has(o)))) continue;
      g.remove(n);
      count++;
    }
    const inputs = new Set(g.inputs);
    for (const v of [...g.values.values()]) {
      if (v.producer || v.uses.length > 0 || inputs.has(v) || keep.has(v)) continue;
      if (v.data) count++;
      g.removeValue(v);
    }
    return count;
  },
};
