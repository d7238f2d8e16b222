import type { Diagnostic } from "../../diagnostics.ts";
import type { SparseTensor } from "../attr.ts";
import { Graph, Node, type Value } from "../ir.ts";
import type { TensorData } from "../tensor.ts";
import type { ValueType } from "../types.ts";
import { sortGraph } from "./order.ts";
import { type AttrContext, readAttr } from "./read-attr.ts";
import { dense, readSparse } from "./sparse.ts";
import { type Entry, readEntry, readTensor } from "./tensor.ts";
import { readType } from "./type.ts";
import type { Wire } from "./wire.ts";

/** What the parts of one file share while it is read. */
export interface Context extends AttrContext {
  nodes: number;
  values: number;
  operands: number;
  subgraphs: number;
  readonly problems: Diagnostic[];
  /** The node whose attribute holds a subgraph. */
  readonly holder: Map<Graph, Node>;
}

/** "ai.onnx" is another spelling of the default domain. */
export const domainOf = (d: string) => (d === "ai.onnx" ? "" : d);

/** Many names of one mistake help nobody. */
const MOST_NAMES = 100;

/** ValueInfoProto. */
interface Info {
  readonly name: string;
  readonly type: ValueType | undefined;
  readonly doc: string | undefined;
  readonly metadata: readonly Entry[];
  readonly unknown: readonly Uint8Array[];
}

export function readInfo(w: Wire): Info {
  w.place.piece();
  let name = "";
  let type: ValueType | undefined;
  let doc: string | undefined;
  const metadata: Entry[] = [];
  const unknown: Uint8Array[] = [];
  const depth = w.place.path.length;
  w.place.path.push("value");
  while (w.next()) {
    if (w.field === 1) {
      name = w.text();
      w.place.path[depth] = `value "${name}"`;
    } else if (w.field === 2) type = readType(w.message());
    else if (w.field === 3) doc = w.text();
    else if (w.field === 4) metadata.push(readEntry(w.message()));
    else unknown.push(w.raw());
  }
  w.place.path.length = depth;
  return { name, type, doc, metadata, unknown };
}

/** The fields of a GraphProto or FunctionProto before names are resolved. */
export interface GraphParts {
  readonly inputs: Info[];
  readonly outputs: Info[];
  readonly infos: Info[];
  readonly nodes: Wire[];
  readonly constants: { readonly name: string; readonly data: TensorData; readonly sparse?: SparseTensor }[];
}
/** The limit holds before nodes are read: their list alone can be 40 times the file. */
export function pushNode(parts: GraphParts, w: Wire, ctx: Context): void {
  parts.nodes.push(w.message());
  ctx.place.limit("nodes", ctx.nodes + parts.nodes.length);
}
export const emptyParts = (): GraphParts => ({ inputs: [], outputs: [], infos: [], nodes: [], constants: [] });

export function readGraph(w: Wire, g: Graph, ctx: Context): void {
  const parts = emptyParts();
  const unknown: Uint8Array[] = [];
  const depth = ctx.place.path.length;
  ctx.place.path.push("graph");
  while (w.next()) {
    switch (w.field) {
      case 1:
        pushNode(parts, w, ctx);
        break;
      case 2:
        g.name = w.text();
        break;
      case 5:
        parts.constants.push(readTensor(w.message(), ctx));
        break;
      case 10:
        g.doc = w.text();
        break;
      case 11:
        parts.inputs.push(readInfo(w.message()));
        break;
      case 12:
        parts.outputs.push(readInfo(w.message()));
        break;
      case 13:
        parts.infos.push(readInfo(w.message()));
        break;
      case 15: {
        const { name, sparse } = readSparse(w.message(), ctx);
        parts.constants.push({ name, sparse, data: dense(sparse, name, ctx.place.file) });
        break;
      }
      case 16:
        g.metadata.push(readEntry(w.message()));
        break;
      default:
        unknown.push(w.raw());
    }
  }
  g.unknown = unknown;
  buildGraph(g, parts, ctx);
  ctx.place.path.length = depth;
}

/** A NodeProto whose names are not resolved. */
interface NodeParts {
  readonly node: Node;
  readonly inputs: readonly string[];
  readonly attrs: readonly Wire[];
}

/** First every name of the graph is declared, then nodes are connected: files may list nodes in any order. */
export function buildGraph(g: Graph, parts: GraphParts, ctx: Context): void {
  const { place } = ctx;
  const twice: string[] = [];
  const declare = (name: string, type: ValueType | undefined): Value | undefined => {
    place.limit("values", ++ctx.values);
    if (g.values.has(name)) {
      twice.push(name);
      return undefined;
    }
    return g.value(name, type);
  };
  for (const info of parts.inputs) {
    if (info.name === "") throw place.malformed(0, "a graph input without name");
    const v = declare(info.name, info.type);
    if (v === undefined) continue;
    describe(v, info);
    g.inputs.push(v);
  }
  const inputs = new Set(g.inputs);
  for (const { name, data, sparse } of parts.constants) {
    if (name === "") throw place.malformed(0, "an initializer without name");
    let v = g.values.get(name);
    if (v === undefined) v = declare(name, { kind: "tensor", elem: data.dtype, shape: data.shape })!;
    else if (!inputs.has(v) || v.data !== undefined) {
      twice.push(name);
      continue;
    }
    v.data = data;
    v.sparse = sparse;
  }
  const pending: NodeParts[] = [];
  for (let i = 0; i < parts.nodes.length; i++) {
    place.limit("nodes", ++ctx.nodes);
    const depth = place.path.push(`node ${i}`) - 1;
    pending.push(readNode(parts.nodes[i]!, g, declare, ctx, depth, i));
    place.path.length = depth;
  }
  for (const info of parts.infos) {
    const v = g.values.get(info.name);
    // The type of a constant is that of its data; a name that nothing has can only mislead a later value of that name.
    if (v === undefined) continue;
    if (v.data === undefined) v.type ??= info.type;
    describe(v, info);
  }
  const missing: { value: string; by: string }[] = [];
  for (const { node, inputs: names, attrs } of pending) {
    const depth = place.path.push(labelOf(node, g.nodes.length)) - 1;
    for (const name of names) connect(node, name, missing);
    for (const a of attrs) {
      const [key, attr] = readAttr(a, g, ctx, node);
      if (node.attrs.has(key)) throw a.bad(`attribute "${key}" twice`);
      node.attrs.set(key, attr);
    }
    g.nodes.push(node);
    place.path.length = depth;
  }
  for (const info of parts.outputs) {
    const own = g.values.get(info.name);
    if (own !== undefined) {
      if (own.data === undefined || own.isInput) own.type = info.type ?? own.type;
      describe(own, info);
      g.outputs.push(own);
      continue;
    }
    const outer = find(g.parent, info.name);
    if (outer === undefined) missing.push({ value: info.name, by: "the graph's outputs" });
    // A subgraph that returns an outer value as it is: an output of a graph has to be its own value.
    else g.outputs.push(identity(g, outer, info));
  }
  const graph = g.name;
  if (twice.length > 0) ctx.problems.push({ code: "graph/duplicate-name", graph, names: twice.slice(0, MOST_NAMES) });
  if (missing.length > 0) ctx.problems.push({ code: "graph/unknown-value", graph, values: missing.slice(0, MOST_NAMES) });
  if (twice.length === 0 && missing.length === 0) sortGraph(g, ctx.holder);
}

function describe(v: Value, info: Info): void {
  v.doc ??= info.doc;
  if (v.metadata.length === 0) v.metadata = info.metadata;
  if (v.unknown.length === 0) v.unknown = info.unknown;
}

function find(g: Graph | undefined, name: string): Value | undefined {
  for (; g; g = g.parent) {
    const v = g.values.get(name);
    if (v !== undefined) return v;
  }
  return undefined;
}

function connect(node: Node, name: string, missing: { value: string; by: string }[]): void {
  const v = name === "" ? undefined : find(node.graph, name);
  if (v !== undefined) v.uses.push({ node, input: node.inputs.length });
  else if (name !== "") missing.push({ value: name, by: labelOf(node, node.graph.nodes.length) });
  node.inputs.push(v);
}

function identity(g: Graph, outer: Value, info: Info): Value {
  const node = g.append({
    op: "Identity",
    inputs: [outer],
    outputs: [g.freshName(outer.name)],
    origin: { rule: "captured-output", from: [] },
  });
  const v = node.outputs[0]!;
  v.type = info.type ?? outer.type;
  return v;
}

const labelOf = (n: Node, index: number) => (n.name !== "" ? `node "${n.name}" (${n.op})` : `node ${index} (${n.op})`);

function readNode(
  w: Wire,
  g: Graph,
  declare: (name: string, type: ValueType | undefined) => Value | undefined,
  ctx: Context,
  depth: number,
  index: number,
): NodeParts {
  const { place } = ctx;
  const node = new Node(g, "", "", "", new Map());
  const inputs: string[] = [];
  const outputs: string[] = [];
  const attrs: Wire[] = [];
  const unknown: Uint8Array[] = [];
  while (w.next()) {
    switch (w.field) {
      case 1:
        place.limit("operands", ++ctx.operands);
        inputs.push(w.text());
        break;
      case 2:
        place.limit("operands", ++ctx.operands);
        outputs.push(w.text());
        break;
      case 3:
        node.name = w.text();
        place.path[depth] = `node "${node.name}"`;
        break;
      case 4:
        node.op = w.text();
        break;
      case 5:
        attrs.push(w.message());
        place.limit("attributes", attrs.length);
        break;
      case 6:
        node.doc = w.text();
        break;
      case 7:
        node.domain = domainOf(w.text());
        break;
      case 8:
        node.overload = w.text();
        break;
      case 9:
        node.metadata.push(readEntry(w.message()));
        break;
      default:
        unknown.push(w.raw());
    }
  }
  if (node.op === "") throw w.bad("a node without operator");
  place.path[depth] = labelOf(node, index);
  node.unknown = unknown;
  for (const name of outputs) {
    const v = name === "" ? undefined : declare(name, undefined);
    if (v !== undefined) v.producer = node;
    node.outputs.push(v);
  }
  return { node, inputs, attrs };
}

export function readSubgraph(w: Wire, parent: Graph, ctx: Context, holder: Node | undefined): Graph {
  const g = new Graph("", parent);
  if (holder !== undefined) ctx.holder.set(g, holder);
  let depth = 1;
  for (let p: Graph | undefined = parent; p; p = p.parent) depth++;
  ctx.place.limit("graphDepth", depth);
  ctx.place.limit("subgraphs", ++ctx.subgraphs);
  readGraph(w, g, ctx);
  return g;
}
