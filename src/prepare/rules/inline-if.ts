import type { Graph, Node } from "../../graph/ir.ts";
import { allGraphs } from "../../graph/walk.ts";
import { matched, nodeRule } from "../rule.ts";
import { splice } from "../splice.ts";

/**
 * An If whose condition is a constant becomes the branch that it runs: exact. Exporters write them where a rank or a dimension decides
 * (`squeeze`), and folding the shape settles it.
 */
export const inlineIf = nodeRule<{ readonly node: Node; readonly branch: Graph }>({
  name: "inline-if",
  ops: ["If"],
  tolerance: 0,
  match(n) {
    const c = n.inputs[0];
    if (!c?.isConstant || c.data!.dtype !== "bool" || c.data!.byteLength !== 1) return undefined;
    const a = n.attrs.get(c.data!.bytes()[0] !== 0 ? "then_branch" : "else_branch");
    return a?.kind === "graph" ? matched({ node: n, branch: a.value }) : undefined;
  },
  apply({ node, branch }, ctx) {
    const own = new Set(node.subgraphs.flatMap((s) => [...allGraphs(s)]));
    const taken = new Set([...allGraphs(ctx.model.graph)].filter((g) => !own.has(g)).flatMap((g) => [...g.values.keys()]));
    // Graphs below the branch keep their names, and must not hide what is moved out of it.
    for (const g of allGraphs(branch)) if (g !== branch) for (const name of g.values.keys()) taken.add(name);
    splice(node, branch, new Map(), { rule: "inline-if", nameOf: (name) => name, taken, attrOf: (a) => a });
  },
});
