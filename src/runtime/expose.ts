import { QcError } from "../diagnostics.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Graph, Model, Node, Value } from "../graph/ir.ts";
import { tensorFromBytes } from "../graph/tensor.ts";
import { tensorType, type ValueType } from "../graph/types.ts";
import { holderOf, nodeKey, valueAt } from "../graph/walk.ts";
import { DTYPES, type DType } from "../quant/dtype.ts";

/** Types that the runtime's border cannot carry, and what they are cast to: exact in each case. */
const CAST: Partial<Record<DType, DType>> = {
  bfloat16: "float32",
  float8e4m3fn: "float32",
  float8e4m3fnuz: "float32",
  float8e5m2: "float32",
  float8e5m2fnuz: "float32",
  float8e8m0: "float32",
  float4e2m1: "float32",
  int4: "int8",
  int2: "int8",
  uint4: "uint8",
  uint2: "uint8",
};

export interface Exposed {
  /** A copy of the model with the values as further outputs, each under its path. */
  readonly model: Model;
  readonly exposed: readonly string[];
  readonly skipped: readonly { readonly name: string; readonly why: string }[];
}

/** Types by path, for values whose own is not known (`Prepared.types`). */
export type KnownTypes = ReadonlyMap<string, ValueType>;

/**
 * Makes values (by the path of `pathOf`) outputs of a copy of the model; the constants are shared. A value of a type that cannot leave
 * the runtime is cast. A value inside a subgraph leaves it level by level: stacked over the iterations (axis 0) out of Loop and Scan; out
 * of If as it is, or empty when the other branch ran.
 */
export function exposeValues(model: Model, paths: readonly string[], types?: KnownTypes): Exposed {
  const copy = cloneModel(model);
  const exposed: string[] = [];
  const skipped: { name: string; why: string }[] = [];
  // Looked up before any edit: exposing adds values and may rename some.
  const found = [...new Set(paths)].map((name) => ({ name, value: valueAt(copy, name) }));
  for (const { name, value } of found) if (value !== undefined && value.type === undefined) value.type = types?.get(name);
  // Graph outputs of a foreign type make the engine refuse the whole model.
  for (const v of [...copy.graph.outputs]) castOutput(copy.graph, v);
  for (const { name, value } of found) {
    const why = value === undefined ? "the model has no such value" : exposeOne(copy.graph, value, name);
    if (why === undefined) exposed.push(name);
    else skipped.push({ name, why });
  }
  return { model: copy, exposed, skipped };
}

/** `exposeValues` for values that must all be there: throws when one cannot become an output. */
export function withOutputs(model: Model, paths: readonly string[], types?: KnownTypes): Model {
  const { model: out, skipped } = exposeValues(model, paths, types);
  if (skipped.length > 0) throw new QcError({ code: "runtime/cannot-expose", values: skipped });
  return out;
}

function exposeOne(main: Graph, value: Value, path: string): string | undefined {
  const type = elemOf(value);
  if (value.type !== undefined && value.type.kind !== "tensor") return `it is a ${value.type.kind}, not a tensor`;
  if (type !== undefined && DTYPES[type].kind === "complex") return `its type ${type} cannot leave the runtime`;
  if (value.graph === main) {
    if (!value.isOutput) exposeHere(main, value);
    return undefined;
  }
  const why = blocked(value.graph, type);
  if (why !== undefined) return why;
  let v = value;
  while (v.graph !== main) {
    const { node } = holderOf(v.graph)!;
    v = lift(node, v, node.graph === main ? path : undefined);
  }
  main.addOutput(v);
  return undefined;
}

/** A value of the main graph as an output under its own name. */
function exposeHere(main: Graph, v: Value): void {
  main.addOutput(v);
  castOutput(main, v);
}

/** Puts the Cast for a type that cannot leave between a graph output and its producer; the output keeps its name. */
function castOutput(main: Graph, v: Value): void {
  const type = elemOf(v);
  const to = type && CAST[type];
  if (to === undefined || v.isInput) return;
  const cast = appendUnary(main, "Cast", v, to);
  main.takeOutput(v, cast);
  cast.type = retyped(v, to);
}

/** Why a value of this subgraph cannot leave it; looked up before anything is changed. */
function blocked(graph: Graph, type: DType | undefined): string | undefined {
  for (let g: Graph | undefined = graph; g?.parent; g = g.parent) {
    const node = holderOf(g)?.node;
    if (node === undefined) return "it is not below a node";
    const kind = exitOf(node);
    if (kind === undefined) return `${node.op} "${nodeKey(node)}" hands out no values of its subgraph`;
    if (kind === "branch" && type === undefined) return `its type is not known, which the other branch of "${nodeKey(node)}" needs`;
  }
  return undefined;
}

/** How values get out of a node's subgraph: these three are the control-flow operators of ONNX. */
function exitOf(node: Node): "branch" | "loop" | "scan" | undefined {
  if (node.domain !== "" && node.domain !== "ai.onnx") return undefined;
  return node.op === "If" ? "branch" : node.op === "Loop" ? "loop" : node.op === "Scan" ? "scan" : undefined;
}

/** Makes `v`, a value of a subgraph of `node`, an output of the node; returns that output. */
function lift(node: Node, v: Value, name: string | undefined): Value {
  const body = v.graph;
  const type = elemOf(v);
  const to = type && CAST[type];
  // Always a new value: an input or an existing output of the body cannot be named as an output a second time.
  const inner = to === undefined ? appendUnary(body, "Identity", v) : appendUnary(body, "Cast", v, to);
  inner.type = retyped(v, to ?? type);
  body.addOutput(inner);
  const kind = exitOf(node);
  const states = kind === "loop" ? body.outputs.length - 1 : body.outputs.length;
  // Outputs that the node leaves out at its end get names: onnxruntime wants no gaps here.
  while (node.outputs.length < states - 1) addOutput(node, node.graph.freshName("unused"));
  const out = addOutput(node, name !== undefined && !node.graph.values.has(name) ? name : node.graph.freshName(name ?? inner.name));
  const elem = to ?? type;
  if (elem !== undefined) out.type = { kind: "tensor", elem, shape: undefined };
  if (kind === "branch") for (const other of node.subgraphs) if (other !== body) emptyOutput(other, elem!);
  if (kind === "scan") {
    for (const key of ["scan_output_axes", "scan_output_directions"]) {
      const a = node.attrs.get(key);
      if (a?.kind === "ints") node.attrs.set(key, { kind: "ints", value: [...a.value, 0] });
    }
  }
  return out;
}

function addOutput(node: Node, name: string): Value {
  const v = node.graph.value(name);
  v.producer = node;
  node.outputs.push(v);
  return v;
}

/** The branch that lacks the value hands out a tensor without elements. */
function emptyOutput(branch: Graph, elem: DType): void {
  const node = branch.append({
    op: "Constant",
    inputs: [],
    outputs: [branch.freshName("absent")],
    attrs: { value: { kind: "tensor", value: tensorFromBytes(elem, [0], new Uint8Array(0)) } },
  });
  node.outputs[0]!.type = tensorType(elem, [0]);
  branch.addOutput(node.outputs[0]!);
}

function appendUnary(graph: Graph, op: "Cast" | "Identity", v: Value, to?: DType): Value {
  const node = graph.append({
    op,
    inputs: [v],
    outputs: [graph.freshName(`${v.name}_exposed`)],
    ...(to === undefined ? {} : { attrs: { to: DTYPES[to].code } }),
  });
  return node.outputs[0]!;
}

function retyped(v: Value, elem: DType | undefined): Value["type"] {
  if (elem === undefined) return undefined;
  return { kind: "tensor", elem, shape: v.type?.kind === "tensor" ? v.type.shape : undefined };
}

function elemOf(v: Value): DType | undefined {
  return v.data?.dtype ?? (v.type?.kind === "tensor" ? v.type.elem : undefined);
}
