import { QcError } from "../../diagnostics.ts";
import type { Graph, Node, Value } from "../ir.ts";

/**
 * Puts the nodes of a graph just read into an execution order, keeping the file's order where it is valid already. A node depends on
 * the producers of its inputs and of the values that its subgraphs capture. `holder`: the node that holds each subgraph.
 */
export function sortGraph(g: Graph, holder: ReadonlyMap<Graph, Node>): void {
  const index = new Map<Node, number>();
  for (let i = 0; i < g.nodes.length; i++) index.set(g.nodes[i]!, i);
  let sorted = true;
  for (let i = 0; i < g.nodes.length && sorted; i++)
    for (const v of g.nodes[i]!.outputs) if (v?.uses.some((u) => lift(u.node, g, holder, index) <= i)) sorted = false;
  if (sorted) return;

  const waits = new Int32Array(g.nodes.length);
  const next: number[][] = g.nodes.map(() => []);
  for (let i = 0; i < g.nodes.length; i++)
    for (const v of g.nodes[i]!.outputs)
      for (const u of (v as Value | undefined)?.uses ?? []) {
        const j = lift(u.node, g, holder, index);
        next[i]!.push(j);
        waits[j]!++;
      }
  // Of the nodes that are ready, the one that the file lists first (a binary heap).
  const heap: number[] = [];
  for (let i = 0; i < waits.length; i++) if (waits[i] === 0) push(heap, i);
  const order: Node[] = [];
  while (heap.length > 0) {
    const i = pop(heap);
    order.push(g.nodes[i]!);
    for (const j of next[i]!) if (--waits[j]! === 0) push(heap, j);
  }
  if (order.length < g.nodes.length) {
    const stuck = g.nodes.filter((_, i) => waits[i]! > 0).map((n) => n.name || n.op);
    throw new QcError({ code: "graph/cycle", graph: g.name, nodes: stuck.slice(0, 100) });
  }
  g.nodes.length = 0;
  for (const n of order) g.nodes.push(n);
}

/** Index of the node of `g` that is, or holds, `node`. */
function lift(node: Node, g: Graph, holder: ReadonlyMap<Graph, Node>, index: ReadonlyMap<Node, number>): number {
  let n: Node = node;
  while (n.graph !== g) n = holder.get(n.graph)!;
  return index.get(n)!;
}

function push(heap: number[], x: number): void {
  let i = heap.push(x) - 1;
  while (i > 0) {
    const up = (i - 1) >> 1;
    if (heap[up]! <= x) break;
    heap[i] = heap[up]!;
    i = up;
  }
  heap[i] = x;
}

function pop(heap: number[]): number {
  const top = heap[0]!;
  const x = heap.pop()!;
  const n = heap.length;
  if (n === 0) return top;
  let i = 0;
  for (;;) {
    let down = 2 * i + 1;
    if (down >= n) break;
    if (down + 1 < n && heap[down + 1]! < heap[down]!) down++;
    if (heap[down]! >= x) break;
    heap[i] = heap[down]!;
    i = down;
  }
  heap[i] = x;
  return top;
}
