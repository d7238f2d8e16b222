import { QcError } from "../diagnostics.ts";
import type { Graph, Node } from "./ir.ts";
import { capturedBy, nodeKey } from "./walk.ts";

/**
 * Puts the nodes of a graph and of its subgraphs in execution order, moving as little as possible: a node stays behind its predecessor
 * in the old order unless an input of it comes later. Values that subgraphs capture count as inputs of the node that holds them.
 * Throws `graph/invalid` (G2) on a cycle and leaves the graph as it was.
 */
export function sortGraph(graph: Graph): void {
  const order = sorted(graph);
  graph.nodes.splice(0, graph.nodes.length, ...order);
  for (const n of graph.nodes) for (const s of n.subgraphs) sortGraph(s);
}

/** Depth first from each node in the old order, without recursion (chains may have 10^5 nodes). */
function sorted(graph: Graph): Node[] {
  const out: Node[] = [];
  const done = new Set<Node>();
  const open = new Set<Node>();
  for (const root of graph.nodes) {
    const stack: { readonly node: Node; readonly needs: Node[] }[] = [];
    const enter = (node: Node) => {
      if (open.has(node)) {
        const at = nodeKey(node);
        throw new QcError({ code: "graph/invalid", constraint: "G2", at, detail: `node "${at}" needs its own output` });
      }
      open.add(node);
      stack.push({ node, needs: producersOf(node) });
    };
    if (!done.has(root)) enter(root);
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const next = top.needs.pop();
      if (next === undefined) {
        stack.pop();
        open.delete(top.node);
        done.add(top.node);
        out.push(top.node);
      } else if (!done.has(next)) enter(next);
    }
  }
  return out;
}

/** Nodes of the same graph whose outputs `node` or its subgraphs use, last first. */
export function producersOf(node: Node): Node[] {
  const out: Node[] = [];
  const values = node.subgraphs.length > 0 ? [...node.inputs, ...capturedBy(node)] : node.inputs;
  for (let i = values.length - 1; i >= 0; i--) {
    const p = values[i]?.producer;
    if (p && p.graph === node.graph) out.push(p);
  }
  return out;
}
