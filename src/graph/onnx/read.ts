import { QcError } from "../../diagnostics.ts";
import type { Attr } from "../attr.ts";
import { type FunctionDef, Graph, type Model } from "../ir.ts";
import { checkOverlap, type OpenExternal } from "./external.ts";
import { readAttr } from "./read-attr.ts";
import {
  buildGraph,
  type Context,
  domainOf,
  emptyParts,
  type GraphParts,
  pushNode,
  readGraph,
  readInfo,
  readSubgraph,
} from "./read-graph.ts";
import { type Entry, readEntry } from "./tensor.ts";
import { Place, Wire } from "./wire.ts";

/** Parses a ModelProto. Tensors are views of `buf`, which must not change afterwards. */
export function parseModel(buf: Uint8Array, file: string, open: OpenExternal | undefined): Model {
  const place = new Place(file, buf.length);
  const ctx: Context = {
    place,
    open,
    external: [],
    nodes: 0,
    values: 0,
    operands: 0,
    subgraphs: 0,
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
        place.limit("functions", model.functions.length + 1);
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
  w.place.piece();
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
        parts.inputs.push({ name: parameter(w), type: undefined, doc: undefined, metadata: [], unknown: [] });
        break;
      case 5:
        parts.outputs.push({ name: parameter(w), type: undefined, doc: undefined, metadata: [], unknown: [] });
        break;
      case 6:
        attributes.push(w.text());
        ctx.place.limit("attributes", attributes.length);
        break;
      case 7:
        pushNode(parts, w, ctx);
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

function parameter(w: Wire): string {
  w.place.piece();
  return w.text();
}
