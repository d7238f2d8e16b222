import { type Diagnostic, QcError } from "../../diagnostics.ts";
import type { Attr, SparseTensor } from "../attr.ts";
import { type FunctionDef, Graph, type Model, Node, type Value } from "../ir.ts";
import type { TensorData } from "../tensor.ts";
import type { ValueType } from "../types.ts";
import { sortGraph } from "./order.ts";
import { type AttrContext, readAttr } from "./read-attr.ts";
import { checkOverlap, dense, type Entry, type OpenExternal, readEntry, readSparse, readTensor } from "./tensor.ts";
import { readType } from "./type.ts";
import { Place, Wire } from "./wire.ts";

/** What the parts of one file share while it is read. */
interface Context extends AttrContext {
  nodes: number;
  values: number;
  readonly problems: Diagnostic[];
  /** The node whose attribute holds a subgraph. */
  readonly holder: Map<Graph, Node>;
}

/** "ai.onnx" is another spelling of the default domain. */
const domainOf = (d: string) => (d === "ai.onnx" ? "" : d);

/** Many names of one mistake help nobody. */
const MOST_NAMES = 100;

/** Parses a ModelProto. Tensors are views of `buf`, which must not change afterwards. */
export function parseModel(buf: Uint8Array, file: string, open: OpenExternal | undefined): Model {
  const place = new Place(file);
  const ctx: Context = {
    place,
    open,
    external: [],
    nodes: 0,
    values: 0,
    problems: [],
    holder: new Map(),
    subgraph: (w, parent, holder) => readSubgraph(w, parent, ctx, holder),
  };
  const w = new Wire(buf, 0, buf.length, place);
  const model: Model = {
    irVersion: 0,
    producerName: "",
    producerVersion: "",
    domain: "",
    modelVersion: 0,
    doc: undefined,
    opsets: new Map(),
    graph: new Graph(),
    functions: [],
    metadata: [],
    unknown: [],
  };
  const unknown: Uint8Array[] = [];
  let graph: Wire | undefined;
  while (w.next()) {
    switch (w.field) {
      case 1:
        model.irVersion = w.safe("IR version");
        break;
      case 2:
        model.producerName = w.text();
        break;
      case 3:
        model.producerVersion = w.text();
        break;
      case 4:
        model.domain = w.text();
        break;
      case 5:
        model.modelVersion = w.int();
        break;
      case 6:
        model.doc = w.text();
        break;
      case 7:
        if (graph !== undefined) throw w.bad("a second graph");
        graph = w.message();
        break;
      case 8:
        readOpset(w.message(), model.opsets);
        break;
      case 14:
        model.metadata.push(readEntry(w.message()));
        break;
      case 25:
        model.functions.push(readFunction(w.message(), ctx));
        break;
      default:
        unknown.push(w.raw());
    }
  }
  if (graph === undefined) throw w.bad("no graph in it: this is no ONNX model, or it was cut off");
  readGraph(graph, model.graph, ctx);
  model.unknown = unknown;
  if (ctx.problems.length > 0) throw new QcError(ctx.problems);
  checkOverlap(ctx.external);
  return model;
}

function readOpset(w: Wire, into: Map<string, number>): void {
  let domain = "";
  let version = 0;
  while (w.next()) {
    if (w.field === 1) domain = domainOf(w.text());
    else if (w.field === 2) version = w.safe("opset version");
    else throw w.bad(`field ${w.field} in an opset import`);
  }
  const before = into.get(domain);
  if (before !== undefined && before !== version) throw w.bad(`opset "${domain}" imported as ${before} and ${version}`);
  into.set(domain, version);
}

function readFunction(w: Wire, ctx: Context): FunctionDef {
  const body = new Graph();
  const parts: GraphParts = emptyParts();
  const attributes: string[] = [];
  const attributeDefaults = new Map<string, Attr>();
  const opsets = new Map<string, number>();
  const metadata: Entry[] = [];
  const unknown: Uint8Array[] = [];
  const defaults: Wire[] = [];
  let name = "";
  let domain = "";
  let overload = "";
  let doc: string | undefined;
  const depth = ctx.place.path.length;
  ctx.place.path.push("function");
  while (w.next()) {
    switch (w.field) {
      case 1:
        name = w.text();
        ctx.place.path[depth] = `function "${name}"`;
        break;
      case 4:
        parts.inputs.push({ name: w.text(), type: undefined, doc: undefined, metadata: [], unknown: [] });
        break;
      case 5:
        parts.outputs.push({ name: w.text(), type: undefined, doc: undefined, metadata: [], unknown: [] });
        break;
      case 6:
        attributes.push(w.text());
        break;
      case 7:
        parts.nodes.push(w.message());
        break;
      case 8:
        doc = w.text();
        break;
      case 9:
        readOpset(w.message(), opsets);
        break;
      case 10:
        domain = domainOf(w.text());
        break;
      case 11:
        defaults.push(w.message());
        break;
      case 12:
        parts.infos.push(readInfo(w.message()));
        break;
      case 13:
        overload = w.text();
        break;
      case 14:
        metadata.push(readEntry(w.message()));
        break;
      default:
        unknown.push(w.raw());
    }
  }
  body.name = name;
  buildGraph(body, parts, ctx);
  for (const d of defaults) {
    const [key, attr] = readAttr(d, body, ctx);
    attributeDefaults.set(key, attr);
  }
  ctx.place.path.length = depth;
  return { name, domain, overload, body, attributes, attributeDefaults, opsets, ...(doc !== undefined && { doc }), metadata, unknown };
}

/** ValueInfoProto. */
interface Info {
  readonly name: string;
  readonly type: ValueType | undefined;
  readonly doc: string | undefined;
  readonly metadata: readonly Entry[];
  readonly unknown: readonly Uint8Array[];
}

function readInfo(w: Wire): Info {
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
interface GraphParts {
  readonly inputs: Info[];
  readonly outputs: Info[];
  readonly infos: Info[];
  readonly nodes: Wire[];
  readonly constants: { readonly name: string; readonly data: TensorData; readonly sparse?: SparseTensor }[];
}
const emptyParts = (): GraphParts => ({ inputs: [], outputs: [], infos: [], nodes: [], constants: [] });

function readGraph(w: Wire, g: Graph, ctx: Context): void {
  const parts = emptyParts();
  const unknown: Uint8Array[] = [];
  const depth = ctx.place.path.length;
  ctx.place.path.push("graph");
  while (w.next()) {
    switch (w.field) {
      case 1:
        parts.nodes.push(w.message());
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
function buildGraph(g: Graph, parts: GraphParts, ctx: Context): void {
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
    pending.push(readNode(parts.nodes[i]!, g, declare, place, depth, i));
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
  place: Place,
  depth: number,
  index: number,
): NodeParts {
  const node = new Node(g, "", "", "", new Map());
  const inputs: string[] = [];
  const outputs: string[] = [];
  const attrs: Wire[] = [];
  const unknown: Uint8Array[] = [];
  while (w.next()) {
    switch (w.field) {
      case 1:
        inputs.push(w.text());
        break;
      case 2:
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

function readSubgraph(w: Wire, parent: Graph, ctx: Context, holder: Node | undefined): Graph {
  const g = new Graph("", parent);
  if (holder !== undefined) ctx.holder.set(g, holder);
  let depth = 1;
  for (let p: Graph | undefined = parent; p; p = p.parent) depth++;
  ctx.place.limit("graphDepth", depth);
  readGraph(w, g, ctx);
  return g;
}
