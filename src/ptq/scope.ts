import type { Node } from "../graph/ir.ts";

/** Whether a node lies in the body of an If, Loop or Scan: its values cannot be observed from outside. */
export function isInSubgraph(n: Node): boolean {
  return n.graph.parent !== undefined;
}
