import type { Attr } from "../../graph/attr.ts";
import { Graph, type Model, type Node, type Value } from "../../graph/ir.ts";
import { writeModel } from "../../graph/onnx/index.ts";
import { type TensorData, tensorFrom } from "../../graph/tensor.ts";
import { nodeKey } from "../../graph/walk.ts";
import type { DType } from "../../quant/dtype.ts";
import type { Runtime, Tensor } from "../../runtime/types.ts";
import { canReplace, sweep } from "../edit.ts";
import { bytesOf, candidates } from "./candidates.ts";
import { choose } from "./choose.ts";

export interface FoldResult {
  readonly folded: number;
  readonly refused: readonly { readonly node: string; readonly why: string }[];
}

/**
 * Constant folding: every node whose inputs are all constant is run once and its outputs become constants. All of them run as one graph in
 * one session; equal computations run once and share their result. Never folded: random operators, control flow, quantized operators
 * (their constants would widen), nodes that make the file larger (a Cast of stored float16 weights, a Transpose of a tied weight, an
 * expanded mask). Those stay as they are; `constantOf` looks through the casts and transposes among them.
 * Exact: the runtime computes what it would have computed at every run. (A kernel that packs constant weights, such as its LSTM, may then
 * sum in another order: a rounding error of float32.)
 */
export async function foldConstants(model: Model, runtime: Runtime): Promise<FoldResult> {
  const found = candidates(model);
  if (found.nodes.length === 0) return { folded: 0, refused: found.refused };
  const built = buildSession(model, found.nodes);
  const session = await runtime.open(writeModel(built.model), { label: "constant folding" });
  try {
    const sizes = new Map(session.outputs.map((o) => [o.name, bytesOf(o.dtype as DType, o.dims)]));
    const choice = choose(found.nodes, built.names, (name) => sizes.get(name));
    const refused = [...found.refused, ...choice.refused];
    if (choice.results.size === 0) return { folded: 0, refused };
    const out = await session.run({}, [...choice.results.keys()]);
    let folded = 0;
    for (const [name, values] of choice.results) {
      const data = constantFrom(out[name]!);
      // The runtime's border says "no dimensions" for a value of unknown rank too: what was taken for a scalar may not be one.
      if (data.byteLength > sizes.get(name)!)
        refused.push({ node: nodeKey(values[0]!.producer!), why: "the size of its result was not known beforehand" });
      else {
        shareConstant(values, data);
        folded++;
      }
    }
    return { folded: folded === choice.results.size ? choice.nodes : folded, refused };
  } finally {
    await session.release();
  }
}

/**
 * A model of the candidates alone: no inputs, every value of theirs an output. Constants are shared by reference. A node with the operator,
 * attributes and inputs of an earlier one is that one.
 */
function buildSession(model: Model, nodes: readonly Node[]): { readonly model: Model; readonly names: Map<Value, string> } {
  const graph = new Graph("constants");
  const map = new Map<Value, Value>();
  const names = new Map<Value, string>();
  const same = new Map<string, readonly Value[]>();
  const small = new Map<string, Value>();
  let count = 0;
  const of = (v: Value | undefined): Value | undefined => {
    if (!v) return undefined;
    let c = map.get(v);
    if (!c) {
      const key = v.data!.byteLength <= SMALL ? keyOf(v.data!) : undefined;
      c = key === undefined ? undefined : small.get(key);
      if (!c) {
        c = graph.value(`c${count++}`, { kind: "tensor", elem: v.data!.dtype, shape: v.data!.shape });
        c.data = v.data;
        if (key !== undefined) small.set(key, c);
      }
      map.set(v, c);
    }
    return c;
  };
  for (const n of nodes) {
    const inputs = n.inputs.map(of);
    const attrs = [...n.attrs].map(([k, a]) => `${k}=${attrKey(a) ?? `#${count++}`}`).sort();
    const key = `${n.op}(${inputs.map((v) => v?.name ?? "").join()})${n.outputs.length}${attrs.join()}`;
    let outs = same.get(key);
    if (!outs) {
      const outputs = n.outputs.map(() => `v${count++}`);
      const copy = graph.append({ op: n.op, inputs, outputs, attrs: Object.fromEntries(n.attrs), domain: n.domain });
      outs = copy.outputs as Value[];
      same.set(key, outs);
      for (const [i, o] of n.outputs.entries()) if (o) graph.addOutput(outs[i]!);
    }
    n.outputs.forEach((o, i) => {
      if (!o) return;
      map.set(o, outs[i]!);
      names.set(o, outs[i]!.name);
    });
  }
  return { model: { ...model, graph, functions: [], metadata: [], irVersion: Math.max(4, model.irVersion) }, names };
}

/** Constants up to this size are compared by content: slice bounds, axes, shapes. */
const SMALL = 256;
const keyOf = (t: TensorData): string => `${t.dtype}[${t.shape.join()}]${t.bytes().join()}`;
/** undefined for attributes of kinds that are rarely equal. */
function attrKey(a: Attr): string | undefined {
  switch (a.kind) {
    case "int":
    case "float":
      return `${a.kind}${a.value}`;
    case "ints":
    case "floats":
    case "string":
      return `${a.kind}${a.value.join()}`;
    default:
      return undefined;
  }
}

function constantFrom(t: Tensor): TensorData {
  if (Array.isArray(t.data)) throw new TypeError("internal: a string tensor cannot be folded");
  return tensorFrom(t.data, t.dims, t.dtype);
}

/** Equal values become one constant, in the innermost graph that all of them see; their nodes go when nothing else needs them. */
function shareConstant(values: readonly Value[], data: TensorData): void {
  const home = values.map((v) => v.graph).reduce(common);
  const first = values[0]!;
  // One value alone: its uses saw that name before, so no inner value hides it.
  const name = values.length === 1 ? first.name : "";
  const c = home.constant(data, `${first.name}_constant`);
  for (const v of values) {
    if (!canReplace(v, c)) throw new Error(`internal: constant "${c.name}" is hidden in a subgraph`);
    home.replaceAllUses(v, c);
  }
  for (const v of values) sweep(v);
  if (name !== "" && !home.values.has(name)) home.rename(c, name);
}

/** `v` becomes a constant of the same name; its node goes when nothing else needs it. */
export function replaceByConstant(v: Value, data: TensorData): void {
  shareConstant([v], data);
}

/** The innermost graph around both. */
function common(a: Graph, b: Graph): Graph {
  const outer = new Set<Graph>();
  for (let g: Graph | undefined = a; g; g = g.parent) outer.add(g);
  let g = b;
  while (!outer.has(g)) g = g.parent!;
  return g;
}
