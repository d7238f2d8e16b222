import type { Attr } from "./attr.ts";
import type { Graph, Model, Node, Value } from "./ir.ts";
import { asFloat32, asIntegers, type TensorData } from "./tensor.ts";
import type { ValueType } from "./types.ts";
import { namedSubgraphs } from "./walk.ts";

/**
 * Readable, stable text of a model, for snapshots and for people: one line a node; constants are summarized in place (all elements up to
 * eight, else the first three and a checksum); subgraphs are indented below their node.
 */
export function printModel(model: Model): string {
  const opsets = [...model.opsets].map(([d, v]) => (d === "" ? `opset ${v}` : `${d} ${v}`)).join(", ");
  const functions = model.functions.map(
    (f) => `function ${f.domain}.${f.name}${f.overload ? `:${f.overload}` : ""}\n${printGraph(f.body)}`,
  );
  return [`${opsets}, ir ${model.irVersion}`, printGraph(model.graph), ...functions].join("\n");
}

export function printGraph(graph: Graph, indent = ""): string {
  const lines: string[] = [];
  const head = (v: Value) => `${v.name}: ${printType(v.type)}${v.data ? ` = ${printTensor(v.data)}` : ""}`;
  lines.push(`${indent}${graph.name || "graph"}(${graph.inputs.map(head).join(", ")}) -> (${graph.outputs.map(head).join(", ")})`);
  for (const v of graph.values.values()) {
    if (v.producer || v.isInput || !v.data || (v.uses.length > 0 && !v.isOutput)) continue;
    lines.push(`${indent}  ${v.name} = const ${printTensor(v.data)}${v.isOutput ? "" : "  # unused"}`);
  }
  for (const n of graph.nodes) printNode(n, `${indent}  `, lines);
  return lines.join("\n");
}

function printNode(n: Node, indent: string, lines: string[]): void {
  const outs = n.outputs.map((o) => (o ? o.name + (o.type && o.type !== undefined ? `: ${printType(o.type)}` : "") : "_")).join(", ");
  const op = n.domain === "" || n.domain === "ai.onnx" ? n.op : `${n.domain}.${n.op}`;
  const ins = n.inputs.map((v) => (v ? (v.isConstant ? `${v.name}=${printTensor(v.data!)}` : v.name) : "_")).join(", ");
  const attrs = [...n.attrs].filter(([, a]) => a.kind !== "graph" && a.kind !== "graphs").map(([k, a]) => `${k}=${printAttr(a)}`);
  const origin = n.origin ? `  # ${n.origin.rule}` : "";
  lines.push(`${indent}${outs} = ${op}(${ins})${attrs.length > 0 ? ` ${attrs.sort().join(" ")}` : ""}${origin}`);
  for (const [name, s] of [...namedSubgraphs(n)].sort(([a], [b]) => (a < b ? -1 : 1))) {
    lines.push(`${indent}  ${name}:`, printGraph(s, `${indent}    `));
  }
}

export function printType(t: ValueType | undefined): string {
  if (t === undefined) return "?";
  switch (t.kind) {
    case "tensor":
    case "sparse": {
      const shape = t.shape ? `[${t.shape.map((d) => (d === undefined ? "?" : String(d))).join(",")}]` : "[…]";
      return `${t.kind === "sparse" ? "sparse " : ""}${t.elem ?? "?"}${shape}`;
    }
    case "sequence":
    case "optional":
      return `${t.kind}<${printType(t.elem)}>`;
    case "map":
      return `map<${t.key ?? "?"}, ${printType(t.elem)}>`;
    case "opaque":
      return "opaque";
    default:
      return t satisfies never;
  }
}

const MOST = 8;
const text = new TextDecoder();

/** `float32[3] {1, 2, 3}`; long ones `float32[64,3] {0.1, 0.2, 0.3, … #1a2b3c4d}`. */
export function printTensor(t: TensorData): string {
  const head = `${t.dtype}[${t.shape.join(",")}]`;
  if (t.dtype === "string")
    return `${head} {${(t.strings?.() ?? [])
      .slice(0, MOST)
      .map((s) => JSON.stringify(text.decode(s)))
      .join(", ")}}`;
  const values = elements(t);
  if (values && values.length <= MOST) return `${head} {${values.join(", ")}}`;
  return `${head} {${[...(values ?? []).slice(0, 3), `… #${checksum(t.bytes())}`].join(", ")}}`;
}

function elements(t: TensorData): readonly (number | string)[] | undefined {
  const few = t.byteLength > 64 * MOST ? { ...t, bytes: () => t.bytes().subarray(0, 64) } : t;
  if (t.dtype === "float32") return Array.from(asFloat32(few), (x) => Number(x.toPrecision(6)));
  if (t.dtype === "int64" || t.dtype === "uint64") {
    const b = few.bytes().slice();
    return Array.from(t.dtype === "int64" ? new BigInt64Array(b.buffer) : new BigUint64Array(b.buffer), String);
  }
  if (["int32", "int8", "uint8", "bool"].includes(t.dtype)) return asIntegers(few);
  return undefined;
}

/** FNV-1a over the bytes: tells apart contents in a snapshot, no more. */
function checksum(b: Uint8Array): string {
  let h = 0x811c9dc5;
  for (let i = 0; i < b.length; i++) h = Math.imul(h ^ b[i]!, 0x01000193);
  return (h >>> 0).toString(16).padStart(8, "0");
}

function printAttr(a: Attr): string {
  switch (a.kind) {
    case "int":
      return String(a.value);
    case "float":
      return `${Number(a.value.toPrecision(7))}f`;
    case "string":
      return JSON.stringify(text.decode(a.value));
    case "tensor":
      return printTensor(a.value);
    case "ints":
      return `[${a.value.join(",")}]`;
    case "floats":
      return `[${a.value.map((x) => `${Number(x.toPrecision(7))}f`).join(",")}]`;
    case "strings":
      return `[${a.value.map((s) => JSON.stringify(text.decode(s))).join(",")}]`;
    case "tensors":
      return `[${a.value.map(printTensor).join(", ")}]`;
    case "type":
      return printType(a.value);
    case "types":
      return `[${a.value.map(printType).join(", ")}]`;
    case "sparse":
      return `sparse${printTensor(a.value.values)}`;
    case "sparses":
      return `[${a.value.map((s) => `sparse${printTensor(s.values)}`).join(", ")}]`;
    case "ref":
      return `@${a.value}`;
    case "graph":
    case "graphs":
      return "…";
    default:
      return a satisfies never;
  }
}
