import type { Graph, Model, Node, Value } from "./ir.ts";

/** The graph and every graph below it, outer before inner. */
export function* allGraphs(graph: Graph): Generator<Graph> {
  yield graph;
  for (const n of graph.nodes) for (const s of n.subgraphs) yield* allGraphs(s);
}

/** Every node of the main graph and of its subgraphs, outer before inner. Function bodies are not visited. */
export function allNodes(model: Model): Generator<Node> {
  return model.graph.allNodes();
}

/** The subgraphs of a node with the attribute that holds each: `then_branch`, or `name.0`, `name.1` for a list. */
export function* namedSubgraphs(node: Node): Generator<readonly [string, Graph]> {
  for (const [name, a] of node.attrs) {
    if (a.kind === "graph") yield [name, a.value];
    else if (a.kind === "graphs") for (let i = 0; i < a.value.length; i++) yield [`${name}.${i}`, a.value[i]!];
  }
}

/** What a node is called in plans and messages: its name, else the name of its first output. */
export function nodeKey(node: Node): string {
  return node.name !== "" ? node.name : (node.outputs.find((o) => o)?.name ?? `${node.op}#${node.graph.nodes.indexOf(node)}`);
}

/** The node and attribute that hold a subgraph; undefined for the main graph and function bodies. */
export function holderOf(graph: Graph): { readonly node: Node; readonly attr: string } | undefined {
  for (const node of graph.parent?.nodes ?? []) for (const [attr, s] of namedSubgraphs(node)) if (s === graph) return { node, attr };
  return undefined;
}

/** `""` for the main graph, else `node/attribute/` for each level. */
export function graphPath(graph: Graph): string {
  const at = holderOf(graph);
  return at ? `${graphPath(at.node.graph)}${nodeKey(at.node)}/${at.attr}/` : "";
}

/** The key of a value in plans and stats: its name, or `node/attribute/…/name` inside a subgraph. */
export function pathOf(value: Value): string {
  return graphPath(value.graph) + value.name;
}

/** The key of a node in plans: like `pathOf`. */
export function pathOfNode(node: Node): string {
  return graphPath(node.graph) + nodeKey(node);
}

/** All values of the main graph and its subgraphs by path. Build it once when many paths are looked up. */
export function valuesByPath(model: Model): Map<string, Value> {
  const out = new Map<string, Value>();
  eachGraph(model.graph, "", (g, prefix) => {
    for (const v of g.values.values()) if (!out.has(prefix + v.name)) out.set(prefix + v.name, v);
  });
  return out;
}

/** All nodes of the main graph and its subgraphs by path. */
export function nodesByPath(model: Model): Map<string, Node> {
  const out = new Map<string, Node>();
  eachGraph(model.graph, "", (g, prefix) => {
    for (const n of g.nodes) if (!out.has(prefix + nodeKey(n))) out.set(prefix + nodeKey(n), n);
  });
  return out;
}

/** Calls `visit` with each graph and the prefix of its paths, outer before inner. */
export function eachGraph(graph: Graph, prefix: string, visit: (graph: Graph, prefix: string) => void): void {
  visit(graph, prefix);
  for (const n of graph.nodes) for (const [attr, s] of namedSubgraphs(n)) eachGraph(s, `${prefix}${nodeKey(n)}/${attr}/`, visit);
}

/** The value at a path of `pathOf`; undefined when there is none. */
export function valueAt(model: Model, path: string): Value | undefined {
  return find(model.graph, path, (g, rest) => g.values.get(rest));
}

/** The node at a path of `pathOfNode`; undefined when there is none. */
export function nodeAt(model: Model, path: string): Node | undefined {
  return find(model.graph, path, (g, rest) => g.nodes.find((n) => nodeKey(n) === rest));
}

/** Names may contain slashes themselves, so every node whose key starts the path is tried; outer names win. */
function find<T>(graph: Graph, path: string, here: (g: Graph, rest: string) => T | undefined): T | undefined {
  const found = here(graph, path);
  if (found !== undefined) return found;
  for (const n of graph.nodes) {
    if (n.attrs.size === 0) continue;
    for (const [attr, s] of namedSubgraphs(n)) {
      const prefix = `${nodeKey(n)}/${attr}/`;
      if (!path.startsWith(prefix)) continue;
      const inner = find(s, path.slice(prefix.length), here);
      if (inner !== undefined) return inner;
    }
  }
  return undefined;
}

/** Values of outer graphs that nodes inside the subgraphs of `node` use, each once, in order of use. */
export function capturedBy(node: Node): Value[] {
  const out = new Set<Value>();
  for (const s of node.subgraphs) {
    const inside = new Set<Graph>(allGraphs(s));
    for (const g of inside) {
      for (const n of g.nodes) for (const v of n.inputs) if (v && !inside.has(v.graph)) out.add(v);
      for (const v of g.outputs) if (!inside.has(v.graph)) out.add(v);
    }
  }
  return [...out];
}
