import type { Graph, Node, Value } from "../graph/ir.ts";
import type { TensorData } from "../graph/tensor.ts";

/** The only consumer of a value that nothing else sees; undefined when it has several, or leaves the graph. */
export function soleUse(v: Value | undefined): { readonly node: Node; readonly input: number } | undefined {
  return v && v.uses.length === 1 && !v.isOutput ? v.uses[0] : undefined;
}

/** True when every use of `from` may see `to` by its name: same or outer graph, and no inner value of that name on the way. */
export function canReplace(from: Value, to: Value): boolean {
  return from.uses.every((u) => {
    for (let g: Graph | undefined = u.node.graph; g; g = g.parent) {
      if (g === to.graph) return true;
      if (g.values.has(to.name)) return false;
    }
    return false;
  });
}

/**
 * Takes a node out whose only output equals its input `by`. The graph's output names stay: when the node's output is one, the input's
 * producer takes the name over. Returns why not when that cannot be.
 */
export function bypassProblem(n: Node, by: Value): string | undefined {
  const out = n.outputs[0]!;
  if (n.outputs.some((o, i) => i > 0 && o && (o.uses.length > 0 || o.isOutput))) return "another output of it is used";
  if (!canReplace(out, by)) return "a subgraph has a value of the same name";
  if (out.isOutput) {
    if (by.graph !== n.graph || !by.producer || by.isInput) return "it hands an input or a constant to a graph output";
    if (by.isOutput) return "it gives one value two output names";
    if (n.graph.outputs.filter((o) => o === out).length > 1) return "its output is listed twice";
    // The input takes over the output's name, so no subgraph that uses it may have that name.
    if (by.uses.some((u) => u.node.graph !== n.graph) || out.uses.some((u) => u.node.graph !== n.graph)) return "a subgraph uses its input";
  }
  return undefined;
}
export function bypass(n: Node, by: Value): void {
  const g = n.graph;
  const out = n.outputs[0]!;
  g.replaceAllUses(out, by);
  if (out.isOutput) {
    const { doc, metadata } = out;
    g.takeOutput(out, by);
    by.doc ??= doc;
    if (by.metadata.length === 0) by.metadata = metadata;
  }
  g.remove(n);
}

/**
 * Gives `node` new constant data at `input`: in place when it is the constant's only use in this graph, else as a constant of its own.
 * A constant that nothing uses any more leaves the graph.
 */
export function setConstant(node: Node, input: number, data: TensorData, hint: string): void {
  const old = node.inputs[input];
  if (old?.isConstant && old.graph === node.graph && soleUse(old)) {
    node.graph.setData(old, data);
    return;
  }
  node.graph.replaceUse(node, input, node.graph.constant(data, hint));
  sweep(old);
}

/** Drops a constant without uses, or the chain of nodes that made it. */
export function sweep(v: Value | undefined): void {
  while (v && v.uses.length === 0 && !v.isOutput && !v.isInput) {
    const p: Node | undefined = v.producer;
    if (!p) {
      if (v.data) v.graph.removeValue(v);
      return;
    }
    if (p.outputs.some((o) => o && (o.uses.length > 0 || o.isOutput))) return;
    const inputs = p.inputs.filter((i) => i !== undefined);
    p.graph.remove(p);
    for (const i of inputs.slice(1)) sweep(i);
    v = inputs[0];
  }
}
