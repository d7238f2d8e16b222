import type { Attr } from "./attr.ts";
import { type FunctionDef, Graph, type Model, Node, type Value } from "./ir.ts";

/**
 * A copy of a model that can be edited without touching the original. Constants are shared by reference (they are never written to);
 * graphs, nodes, values and use lists are new. Names and orders are the same, so equal edits give equal files.
 */
export function cloneModel(model: Model): Model {
  return {
    ...model,
    opsets: new Map(model.opsets),
    graph: cloneGraph(model.graph),
    functions: model.functions.map((f): FunctionDef => ({ ...f, body: cloneGraph(f.body) })),
    metadata: [...model.metadata],
  };
}

/** A copy of a graph and its subgraphs. Values of outer graphs that are not in `outer` are used as they are. */
export function cloneGraph(graph: Graph, parent?: Graph, outer: Map<Value, Value> = new Map()): Graph {
  const to = new Graph(graph.name, parent);
  to.doc = graph.doc;
  to.metadata = [...graph.metadata];
  to.unknown = graph.unknown;
  const map = outer;
  for (const v of graph.values.values()) {
    const c = to.value(v.name, v.type);
    c.data = v.data;
    c.doc = v.doc;
    c.metadata = v.metadata;
    c.unknown = v.unknown;
    c.sparse = v.sparse;
    map.set(v, c);
  }
  const of = (v: Value): Value => map.get(v) ?? v;
  for (const v of graph.inputs) to.inputs.push(of(v));
  for (const v of graph.outputs) to.outputs.push(of(v));
  for (const n of graph.nodes) {
    const c = new Node(to, n.op, n.domain, n.name, new Map());
    c.overload = n.overload;
    c.doc = n.doc;
    c.metadata = [...n.metadata];
    c.unknown = n.unknown;
    c.origin = n.origin;
    n.inputs.forEach((v, input) => {
      const w = v && of(v);
      w?.uses.push({ node: c, input });
      c.inputs.push(w);
    });
    for (const v of n.outputs) {
      const w = v && of(v);
      if (w) w.producer = c;
      c.outputs.push(w);
    }
    for (const [name, a] of n.attrs) c.attrs.set(name, cloneAttr(a, to, map));
    to.nodes.push(c);
  }
  return to;
}

function cloneAttr(a: Attr, parent: Graph, map: Map<Value, Value>): Attr {
  if (a.kind === "graph") return { kind: "graph", value: cloneGraph(a.value, parent, map) };
  if (a.kind === "graphs") return { kind: "graphs", value: a.value.map((g) => cloneGraph(g, parent, map)) };
  return a;
}
