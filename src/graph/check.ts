import type { Diagnostic } from "../diagnostics.ts";
import { byteCount, elementCount } from "../quant/dtype.ts";
import type { Graph, Model, Node, Value } from "./ir.ts";
import { graphPath, namedSubgraphs, nodeKey } from "./walk.ts";

/** What a graph must satisfy at every stage border. Tests name the label. */
export const CONSTRAINTS = {
  G1: "a node uses only values of its own graph and of outer graphs",
  G2: "a value is used only after the node that makes it (no cycles)",
  G3: "each value is made by one node, once",
  G4: "use lists list exactly the inputs of nodes",
  G5: "a value is filed under its own name",
  G6: "every used value and every output is an input, a constant, or made by a node",
  G7: "the model states an opset for the domain of every node",
  G8: "a constant has as many bytes as its type and shape need",
  G9: "a subgraph knows the graph of its node",
  G10: "no inner value hides an outer one that is used below it",
  G11: "a graph output belongs to its graph",
} as const;
export type Constraint = keyof typeof CONSTRAINTS;

/** All violations, outer graphs first. Linear in the size of the model; reads no constant. */
export function checkModel(model: Model): Diagnostic[] {
  const out: Diagnostic[] = [];
  const functions = new Set(model.functions.map((f) => f.domain));
  const opsets = new Set([...model.opsets.keys()].map(canonical));
  checkGraph(model.graph, [], opsets, functions, out);
  for (const f of model.functions) checkGraph(f.body, [], new Set([...f.opsets.keys()].map(canonical)), functions, out);
  return out;
}

const canonical = (domain: string): string => (domain === "ai.onnx" ? "" : domain);

function checkGraph(graph: Graph, outer: readonly Graph[], opsets: ReadonlySet<string>, functions: ReadonlySet<string>, out: Diagnostic[]) {
  const fail = (constraint: Constraint, at: string, detail: string) =>
    out.push({ code: "graph/invalid", constraint, at: graphPath(graph) + at, detail });
  const scope = new Set<Graph>([graph, ...outer]);
  const inputs = new Set(graph.inputs);
  const expected = new Map<Value, number>();
  const made = new Map<Value, Node>();
  const position = new Map(graph.nodes.map((n, i) => [n, i]));

  for (const [name, v] of graph.values) {
    if (v.name !== name || v.graph !== graph) fail("G5", name, `value "${v.name}" is filed as "${name}"`);
    if (v.data && v.data.dtype !== "string" && v.data.byteLength !== byteCount(v.data.dtype, elementCount(v.data.shape)))
      fail(
        "G8",
        name,
        `constant "${name}" has ${v.data.byteLength} bytes, not the ${byteCount(v.data.dtype, elementCount(v.data.shape))} of ${v.data.dtype}[${v.data.shape.join(",")}]`,
      );
    if (v.producer && !position.has(v.producer)) fail("G3", name, `value "${name}" is made by a node that is not in the graph`);
  }
  graph.nodes.forEach((n, at) => {
    const key = nodeKey(n);
    if (!opsets.has(canonical(n.domain)) && !functions.has(n.domain))
      fail("G7", key, `node "${key}" (${n.op}) is of domain "${n.domain}", for which the model states no opset`);
    n.inputs.forEach((v, input) => {
      if (!v) return;
      if (!scope.has(v.graph) || v.graph.values.get(v.name) !== v)
        fail("G1", key, `input ${input} of node "${key}", "${v.name}", is out of scope`);
      if (v.graph === graph) expected.set(v, (expected.get(v) ?? 0) + 1);
      if (!v.uses.some((u) => u.node === n && u.input === input))
        fail("G4", key, `value "${v.name}" does not list its use by node "${key}"`);
      if (v.graph === graph && v.producer && (position.get(v.producer) ?? -1) >= at)
        fail("G2", key, `node "${key}" uses "${v.name}" before it is made`);
      if (!v.producer && !v.data && (v.graph === graph ? !inputs.has(v) : !v.isInput))
        fail("G6", key, `input ${input} of node "${key}", "${v.name}", is made by no node`);
    });
    for (const v of n.outputs) {
      if (!v) continue;
      if (made.has(v)) fail("G3", key, `value "${v.name}" is made twice`);
      made.set(v, n);
      if (v.graph !== graph || graph.values.get(v.name) !== v || v.producer !== n)
        fail("G3", key, `value "${v.name}" does not know that node "${key}" makes it`);
      if (v.data || inputs.has(v)) fail("G3", key, `value "${v.name}" is made by node "${key}" and is an input or a constant`);
    }
  });
  for (const v of graph.outputs) {
    if (v.graph !== graph) fail("G11", v.name, `output "${v.name}" belongs to another graph`);
    else if (!v.producer && !v.data && !inputs.has(v)) fail("G6", v.name, `output "${v.name}" is made by no node`);
  }
  const inner = new Map<Value, number>();
  graph.nodes.forEach((n, at) => {
    for (const [, s] of namedSubgraphs(n)) {
      if (s.parent !== graph) fail("G9", nodeKey(n), `a subgraph of node "${nodeKey(n)}" has lost its outer graph`);
      checkGraph(s, [graph, ...outer], opsets, functions, out);
      for (const [v, hidden] of capturesOf(s, graph)) {
        inner.set(v, (inner.get(v) ?? 0) + hidden.count);
        if (hidden.by) fail("G10", nodeKey(n), `"${v.name}" is hidden by a value of the same name inside node "${nodeKey(n)}"`);
        if (v.producer && (position.get(v.producer) ?? -1) >= at)
          fail("G2", nodeKey(n), `a subgraph of node "${nodeKey(n)}" uses "${v.name}" before it is made`);
      }
    }
  });
  for (const v of graph.values.values()) {
    const want = (expected.get(v) ?? 0) + (inner.get(v) ?? 0);
    if (v.uses.length !== want) fail("G4", v.name, `value "${v.name}" lists ${v.uses.length} uses, not ${want}`);
  }
}

/** Uses of values of `of` inside `graph` and below; `by`: true when a graph on the way has a value of the same name. */
function capturesOf(graph: Graph, of: Graph): Map<Value, { count: number; by: boolean }> {
  const out = new Map<Value, { count: number; by: boolean }>();
  const visit = (g: Graph, path: readonly Graph[]) => {
    for (const n of g.nodes) {
      for (const v of n.inputs) {
        if (v?.graph !== of) continue;
        const seen = out.get(v) ?? { count: 0, by: false };
        seen.count++;
        seen.by ||= path.some((p) => p.values.has(v.name));
        out.set(v, seen);
      }
      for (const s of n.subgraphs) visit(s, [...path, s]);
    }
  };
  visit(graph, [graph]);
  return out;
}
