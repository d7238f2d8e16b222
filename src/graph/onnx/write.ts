import { DTYPES } from "../../quant/dtype.ts";
import type { Attr, SparseTensor } from "../attr.ts";
import type { FunctionDef, Graph, Model, Node, Value } from "../ir.ts";
import type { ExternalRef, TensorData } from "../tensor.ts";
import { Sink } from "./sink.ts";
import { writeType } from "./type.ts";

export interface WriteOptions {
  /** Where a constant's bytes go; undefined: into the model. */
  readonly placeOf?: (v: Value) => ExternalRef | undefined;
  /** Leaves the elements of all tensors out (for the structure's hash). The result is no valid model. */
  readonly withoutData?: boolean;
}

/** A ModelProto, fields in ascending order. */
export function encodeModel(m: Model, options: WriteOptions = {}): Sink {
  const s = new Sink();
  s.int(1, m.irVersion);
  if (m.producerName !== "") s.text(2, m.producerName);
  if (m.producerVersion !== "") s.text(3, m.producerVersion);
  if (m.domain !== "") s.text(4, m.domain);
  if (m.modelVersion !== 0) s.int(5, m.modelVersion);
  if (m.doc !== undefined) s.text(6, m.doc);
  s.message(7, () => writeGraph(s, m.graph, options));
  writeOpsets(s, 8, m.opsets);
  writeEntries(s, 14, m.metadata);
  for (const f of m.functions) s.message(25, () => writeFunction(s, f, options));
  for (const u of m.unknown) s.raw(u);
  return s;
}

function writeOpsets(s: Sink, field: number, opsets: ReadonlyMap<string, number>): void {
  for (const [domain, version] of opsets)
    s.message(field, () => {
      if (domain !== "") s.text(1, domain);
      s.int(2, version);
    });
}

function writeEntries(s: Sink, field: number, entries: readonly (readonly [string, string])[]): void {
  for (const [key, value] of entries)
    s.message(field, () => {
      s.text(1, key);
      s.text(2, value);
    });
}

function writeGraph(s: Sink, g: Graph, options: WriteOptions): void {
  const inputs = new Set(g.inputs);
  const outputs = new Set(g.outputs);
  for (const n of g.nodes) s.message(1, () => writeNode(s, n, options));
  if (g.name !== "") s.text(2, g.name);
  for (const v of g.initializers)
    if (v.sparse === undefined) s.message(5, () => writeTensor(s, v.data!, v.name, options, options.placeOf?.(v)));
  if (g.doc !== undefined) s.text(10, g.doc);
  for (const v of g.inputs) s.message(11, () => writeInfo(s, v));
  for (const v of g.outputs) s.message(12, () => writeInfo(s, v));
  for (const v of g.values.values()) if (needsInfo(v) && !inputs.has(v) && !outputs.has(v)) s.message(13, () => writeInfo(s, v));
  for (const v of g.initializers) if (v.sparse !== undefined) s.message(15, () => writeSparse(s, v.sparse!, v.name, options));
  writeEntries(s, 16, g.metadata);
  for (const u of g.unknown) s.raw(u);
}

/** The type of a constant stands with its data. */
function needsInfo(v: Value): boolean {
  const said = v.doc !== undefined || v.metadata.length > 0 || v.unknown.length > 0;
  return said || (v.producer !== undefined && v.type !== undefined);
}

function writeInfo(s: Sink, v: Value): void {
  s.text(1, v.name);
  const { type } = v;
  if (type !== undefined) s.message(2, () => writeType(s, type));
  if (v.doc !== undefined) s.text(3, v.doc);
  writeEntries(s, 4, v.metadata);
  for (const u of v.unknown) s.raw(u);
}

function writeNode(s: Sink, n: Node, options: WriteOptions): void {
  for (const v of n.inputs) s.text(1, v?.name ?? "");
  for (const v of n.outputs) s.text(2, v?.name ?? "");
  if (n.name !== "") s.text(3, n.name);
  s.text(4, n.op);
  for (const [name, a] of n.attrs) s.message(5, () => writeAttr(s, name, a, options));
  if (n.doc !== undefined) s.text(6, n.doc);
  if (n.domain !== "") s.text(7, n.domain);
  if (n.overload !== "") s.text(8, n.overload);
  writeEntries(s, 9, n.metadata);
  for (const u of n.unknown) s.raw(u);
}

/** AttributeProto.type of each kind. */
const TYPE = {
  float: 1,
  int: 2,
  string: 3,
  tensor: 4,
  graph: 5,
  floats: 6,
  ints: 7,
  strings: 8,
  tensors: 9,
  graphs: 10,
  sparse: 11,
  sparses: 12,
  type: 13,
  types: 14,
} as const;

function writeAttr(s: Sink, name: string, a: Attr, options: WriteOptions): void {
  s.text(1, name);
  const tensor = (field: number, t: TensorData) => s.message(field, () => writeTensor(s, t, t.extras?.name ?? "", options, undefined));
  switch (a.kind) {
    case "float":
      s.float(2, a.value);
      break;
    case "int":
      s.int(3, a.value);
      break;
    case "string":
      s.bytes(4, a.value);
      break;
    case "tensor":
      tensor(5, a.value);
      break;
    case "graph":
      s.message(6, () => writeGraph(s, a.value, options));
      break;
    case "floats":
      // Not packed: onnx.proto declares these without [packed], and old readers insist.
      for (const x of a.value) s.float(7, x);
      break;
    case "ints":
      for (const x of a.value) s.int(8, x);
      break;
    case "strings":
      for (const x of a.value) s.bytes(9, x);
      break;
    case "tensors":
      for (const t of a.value) tensor(10, t);
      break;
    case "graphs":
      for (const g of a.value) s.message(11, () => writeGraph(s, g, options));
      break;
    case "type":
      s.message(14, () => writeType(s, a.value));
      break;
    case "types":
      for (const t of a.value) s.message(15, () => writeType(s, t));
      break;
    case "ref":
    case "sparse":
    case "sparses":
      break;
    default:
      a satisfies never;
  }
  if (a.doc !== undefined) s.text(13, a.doc);
  if (a.kind === "ref") {
    if (a.of !== 0) s.int(20, a.of);
    s.text(21, a.value);
  } else s.int(20, TYPE[a.kind]);
  if (a.kind === "sparse") s.message(22, () => writeSparse(s, a.value, "", options));
  if (a.kind === "sparses") for (const t of a.value) s.message(23, () => writeSparse(s, t, "", options));
  for (const u of a.unknown ?? []) s.raw(u);
}

function writeTensor(s: Sink, t: TensorData, name: string, options: WriteOptions, place: ExternalRef | undefined): void {
  s.packedInts(1, t.shape);
  s.int(2, DTYPES[t.dtype].code);
  if (t.dtype === "string") {
    if (!options.withoutData) for (const x of t.strings!()) s.bytes(6, x);
  }
  if (name !== "") s.text(8, name);
  if (t.dtype !== "string" && place === undefined && !options.withoutData) s.payload(9, t.byteLength, () => t.bytes(), `tensor "${name}"`);
  if (t.extras?.doc !== undefined) s.text(12, t.extras.doc);
  if (place !== undefined && !options.withoutData) {
    writeEntries(s, 13, [
      ["location", place.location],
      ["offset", String(place.offset)],
      ["length", String(place.length)],
    ]);
    s.int(14, 1);
  }
  writeEntries(s, 16, t.extras?.metadata ?? []);
  for (const u of t.extras?.unknown ?? []) s.raw(u);
}

function writeSparse(s: Sink, t: SparseTensor, name: string, options: WriteOptions): void {
  s.message(1, () => writeTensor(s, t.values, name === "" ? (t.values.extras?.name ?? "") : name, options, undefined));
  s.message(2, () => writeTensor(s, t.indices, t.indices.extras?.name ?? "", options, undefined));
  for (const d of t.shape) s.int(3, d);
  for (const u of t.unknown ?? []) s.raw(u);
}

function writeFunction(s: Sink, f: FunctionDef, options: WriteOptions): void {
  const g = f.body;
  s.text(1, f.name);
  for (const v of g.inputs) s.text(4, v.name);
  for (const v of g.outputs) s.text(5, v.name);
  for (const a of f.attributes) s.text(6, a);
  for (const n of g.nodes) s.message(7, () => writeNode(s, n, options));
  if (f.doc !== undefined) s.text(8, f.doc);
  writeOpsets(s, 9, f.opsets);
  if (f.domain !== "") s.text(10, f.domain);
  for (const [name, a] of f.attributeDefaults) s.message(11, () => writeAttr(s, name, a, options));
  for (const v of g.values.values()) if (needsInfo(v) || v.type !== undefined) s.message(12, () => writeInfo(s, v));
  if (f.overload !== "") s.text(13, f.overload);
  writeEntries(s, 14, f.metadata);
  for (const u of f.unknown) s.raw(u);
}

/** A TensorProto by itself. */
export function encodeTensor(t: TensorData, name: string): Sink {
  const s = new Sink();
  writeTensor(s, t, name, {}, undefined);
  return s;
}
