import { existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Attr, SparseTensor } from "../../../src/graph/attr.ts";
import type { Graph, Model, Value } from "../../../src/graph/ir.ts";
import type { TensorData } from "../../../src/graph/tensor.ts";

export const MODELS = resolve(process.env["QC_MODELS"] ?? join(import.meta.dirname, "../../../../shared/models"));
/** The folder with the archive of the ONNX backend tests. */
export const CORPUS = resolve(process.env["QC_CORPUS"] ?? join(import.meta.dirname, "../../../../shared/corpus"));

export function onnxFilesIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile() && e.name.endsWith(".onnx"))
    .map((e) => join(e.parentPath, e.name))
    .sort();
}

const hex = (b: Uint8Array) => Buffer.from(b).toString("hex");

/** A model as plain data: everything that a round trip must keep, with names for references. */
export function plain(m: Model): unknown {
  return {
    ...m,
    opsets: [...m.opsets],
    graph: plainGraph(m.graph),
    functions: m.functions.map((f) => ({
      ...f,
      body: plainGraph(f.body),
      attributeDefaults: [...f.attributeDefaults].map(([k, a]) => [k, plainAttr(a)]),
      opsets: [...f.opsets],
      unknown: f.unknown.map(hex),
    })),
    unknown: m.unknown.map(hex),
  };
}

function plainGraph(g: Graph): unknown {
  return {
    name: g.name,
    doc: g.doc,
    metadata: g.metadata,
    unknown: g.unknown.map(hex),
    inputs: g.inputs.map(plainValue),
    outputs: g.outputs.map(plainValue),
    values: [...g.values.values()].sort((a, b) => (a.name < b.name ? -1 : 1)).map(plainValue),
    nodes: g.nodes.map((n) => ({
      op: n.op,
      name: n.name,
      domain: n.domain,
      overload: n.overload,
      doc: n.doc,
      metadata: n.metadata,
      unknown: n.unknown.map(hex),
      inputs: n.inputs.map((v) => v && [v.name, v.graph === g]),
      outputs: n.outputs.map((v) => v?.name),
      attrs: [...n.attrs].map(([k, a]) => [k, plainAttr(a)]),
    })),
  };
}

function plainValue(v: Value): unknown {
  return {
    name: v.name,
    type: v.type && JSON.parse(JSON.stringify(v.type, (_, x: unknown) => (x instanceof Uint8Array ? hex(x) : x === undefined ? "?" : x))),
    data: v.sparse ? plainSparse(v.sparse) : v.data && plainTensor(v.data),
    doc: v.doc,
    metadata: v.metadata,
    unknown: v.unknown.map(hex),
    uses: v.uses.map((u) => `${u.node.name}/${u.node.op}/${u.input}`).sort(),
  };
}

function plainTensor(t: TensorData): unknown {
  const { name, doc, metadata, unknown } = t.extras ?? {};
  return {
    dtype: t.dtype,
    shape: t.shape,
    data: t.dtype === "string" ? t.strings!().map(hex) : hex(t.bytes()),
    extras: { name: name ?? "", doc, metadata: metadata ?? [], unknown: (unknown ?? []).map(hex) },
  };
}

function plainSparse(s: SparseTensor): unknown {
  return { shape: s.shape, values: plainTensor(s.values), indices: plainTensor(s.indices) };
}

function plainAttr(a: Attr): unknown {
  const value = (): unknown => {
    switch (a.kind) {
      case "tensor":
        return plainTensor(a.value);
      case "tensors":
        return a.value.map(plainTensor);
      case "graph":
        return plainGraph(a.value);
      case "graphs":
        return a.value.map(plainGraph);
      case "sparse":
        return plainSparse(a.value);
      case "sparses":
        return a.value.map(plainSparse);
      case "string":
        return hex(a.value);
      case "strings":
        return a.value.map(hex);
      case "type":
      case "types":
        return JSON.parse(JSON.stringify(a.value, (_, x: unknown) => (x instanceof Uint8Array ? hex(x) : x)));
      default:
        return a.value;
    }
  };
  return { kind: a.kind, value: value(), doc: a.doc, unknown: a.unknown?.map(hex), of: a.kind === "ref" ? a.of : undefined };
}

/** The first place where two plain values differ, or undefined: models are too large for a matcher's own difference. */
export function difference(a: unknown, b: unknown, at = ""): string | undefined {
  if (Object.is(a, b)) return undefined;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null || Array.isArray(a) !== Array.isArray(b))
    return `${at}: ${short(a)} and ${short(b)}`;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  for (const k of keys) {
    const d = difference((a as Record<string, unknown>)[k], (b as Record<string, unknown>)[k], `${at}/${k}`);
    if (d !== undefined) return d;
  }
  return undefined;
}
const short = (x: unknown) => (JSON.stringify(x, (_, v: unknown) => (typeof v === "bigint" ? `${v}n` : v)) ?? "undefined").slice(0, 80);
