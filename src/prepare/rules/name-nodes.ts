import type { Graph } from "../../graph/ir.ts";
import { nodeKey } from "../../graph/walk.ts";
import type { GraphRule } from "../rule.ts";

/**
 * Every node gets a name of its own, since plans and reports speak of nodes by name: a node without one takes the name of its first
 * output, a second node of the same name takes a number. Exact.
 */
export const nameNodes: GraphRule = {
  name: "name-nodes",
  tolerance: 0,
  run(g: Graph) {
    if (g.parent) return 0; // once for the whole model
    let count = 0;
    const taken = new Set<string>();
    const later: (() => void)[] = [];
    for (const n of g.allNodes()) {
      if (n.name !== "" && !taken.has(n.name)) {
        taken.add(n.name);
        continue;
      }
      later.push(() => {
        const base = nodeKey(n);
        let name = base;
        for (let i = 1; taken.has(name); i++) name = `${base}_${i}`;
        taken.add(name);
        n.name = name;
        count++;
      });
    }
    for (const f of later) f();
    return count;
  },
};
