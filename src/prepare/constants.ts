import { constantOf } from "../graph/constant.ts";
import { Graph, type Model, type Node, type Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { rowOf, traitOf } from "../graph/ops/index.ts";
import { asIntegers, type TensorData, tensorFrom } from "../graph/tensor.ts";
import { allGraphs, nodeKey } from "../graph/walk.ts";
import type { DType } from "../quant/dtype.ts";
import { DTYPES, elementCount } from "../quant/dtype.ts";
import type { Runtime, Tensor } from "../runtime/types.ts";
import { canReplace, sweep } from "./edit.ts";

/** Bytes by which one folded constant may make the file larger: scalars, shapes and small vectors pass. */
const MAY_GROW = 1024;
/** Elements that a value inside the folding session may have: a bound on memory for hostile graphs (256 MiB of float32). */
const MOST_ELEMENTS = 2 ** 26;

export interface FoldResult {
  readonly folded: number;
  readonly refused: readonly { readonly node: string; readonly why: string }[];
}

/**
 * Constant folding: every node whose inputs are all constant is run once and its outputs become constants. All of them run as one graph in
 * one session. Never folded: random operators, control flow, quantized operators (their constants would widen), nodes that make the file
 * larger by more than `MAY_GROW` bytes (a Cast of stored float16 weights, a Transpose of a tied weight, an expanded mask). Those stay as
 * they are; `constantOf` looks through the casts and transposes among them.
 * Exact: the runtime computes what it would have computed at every run.
 */
export async function foldConstants(model: Model, runtime: Runtime): Promise<FoldResult> {
  const found = candidates(model);
  if (found.nodes.length === 0) return { folded: 0, refused: found.refused };
  const built = buildSession(model, found.nodes);
  const session = await runtime.open(writeModel(built.model), { label: "constant folding" });
  try {
    const sizes = new Map(session.outputs.map((o) => [o.name, bytesOf(o.dtype, o.dims)]));
    const plan = choose(found.nodes, (v) => sizes.get(built.names.get(v)!));
    const refused = [...found.refused, ...plan.refused];
    if (plan.values.length === 0) return { folded: 0, refused };
    const out = await session.run(
      {},
      plan.values.map((v) => built.names.get(v)!),
    );
    for (const v of plan.values) replaceByConstant(v, constantFrom(out[built.names.get(v)!]!));
    return { folded: plan.nodes, refused };
  } finally {
    await session.release();
  }
}

/** Types that cross the runtime's border. */
const CARRIED = new Set<DType>([
  "float32",
  "float64",
  "float16",
  "int8",
  "uint8",
  "int16",
  "uint16",
  "int32",
  "uint32",
  "int64",
  "uint64",
  "bool",
]);
/** Operators that can make much from little; they fold only when the result's size is plain beforehand. */
const GROWING = new Set([
  "ConstantOfShape",
  "Expand",
  "Tile",
  "Range",
  "OneHot",
  "EyeLike",
  "Pad",
  "Resize",
  "Upsample",
  "BlackmanWindow",
  "HammingWindow",
  "HannWindow",
  "MelWeightMatrix",
  "CenterCropPad",
  "Col2Im",
  "DFT",
  "STFT",
]);

interface Candidates {
  readonly nodes: readonly Node[];
  readonly refused: { readonly node: string; readonly why: string }[];
}

function candidates(model: Model): Candidates {
  const nodes: Node[] = [];
  const refused: { node: string; why: string }[] = [];
  /** Upper bound of the elements of each constant value. */
  const bound = new Map<Value, number>();
  const boundOf = (v: Value) => bound.get(v) ?? (v.isConstant && CARRIED.has(v.data!.dtype) ? elementCount(v.data!.shape) : undefined);
  for (const g of allGraphs(model.graph)) {
    for (const n of g.nodes) {
      const inputs = n.inputs.filter((v) => v !== undefined);
      if (inputs.length === 0 || n.outputs.some((o) => o?.isOutput) || n.subgraphs.length > 0) continue;
      const counts = inputs.map(boundOf);
      if (counts.some((c) => c === undefined) || !mayFold(n)) continue;
      const kept = keptView(n);
      if (kept !== undefined) {
        if (kept !== "") refused.push({ node: nodeKey(n), why: kept });
        continue;
      }
      const most = mostElements(n, counts as number[]);
      if (most === undefined || most > MOST_ELEMENTS) {
        refused.push({
          node: nodeKey(n),
          why: most === undefined ? "the size of its result is not known beforehand" : "its result may be too large",
        });
        continue;
      }
      for (const o of n.outputs) if (o) bound.set(o, most);
      nodes.push(n);
    }
  }
  return { nodes, refused };
}

function mayFold(n: Node): boolean {
  const row = rowOf(n);
  const trait = traitOf(n);
  if (!row || row.random || n.domain !== "" || trait === "control" || trait === "container" || trait === "quantized") return false;
  return n.op !== "Constant" && n.op !== "Dropout";
}

/**
 * A view of a stored constant (Cast, Transpose, Reshape …) that would make the file larger is left alone: "" says so without a refusal,
 * since consumers look through it. Known without running anything, so that big weights never enter the session.
 */
function keptView(n: Node): string | undefined {
  const out = n.outputs[0];
  const view = out && constantOf(out);
  if (!view || view.chain.length === 0) return undefined;
  const size = bytesOf(view.dtype, view.shape)!;
  const freed =
    view.root.uses.length === 1 && view.chain.every((c) => c === n || c.outputs[0]!.uses.length === 1) ? view.root.data!.byteLength : 0;
  return size > freed + MAY_GROW ? "" : undefined;
}

function mostElements(n: Node, counts: readonly number[]): number | undefined {
  if (GROWING.has(n.op)) return grown(n);
  if (n.op === "Concat") return counts.reduce((a, b) => a + b, 0);
  if (rowOf(n)!.elementwise && n.inputs.every((v) => !v || v.isConstant)) {
    const shapes = n.inputs.filter((v) => v !== undefined).map((v) => v.data!.shape);
    const rank = Math.max(...shapes.map((s) => s.length));
    let most = 1;
    for (let i = 1; i <= rank; i++) most *= Math.max(...shapes.map((s) => s[s.length - i] ?? 1));
    return most;
  }
  if (traitOf(n) === "same-scale" && n.op !== "Where" && !n.op.startsWith("Gather")) return counts[0];
  return counts.reduce((a, b) => a * Math.max(1, b), 1);
}

/** The size of a growing operator's result when a constant tells it. */
function grown(n: Node): number | undefined {
  const ints = (i: number) => (n.inputs[i]?.isConstant && n.inputs[i].data!.dtype === "int64" ? asIntegers(n.inputs[i].data!) : undefined);
  const product = (list: readonly number[] | undefined) => list?.reduce((a, b) => a * Math.max(1, Math.abs(b)), 1);
  const own = n.inputs[0]?.isConstant ? elementCount(n.inputs[0].data!.shape) : undefined;
  switch (n.op) {
    case "ConstantOfShape":
      return product(ints(0));
    case "Expand":
    case "Tile": {
      const p = product(ints(1));
      return own === undefined || p === undefined ? undefined : own * p;
    }
    case "EyeLike":
      return own;
    case "Range": {
      const [a, b, c] = [0, 1, 2].map((i) => ints(i)?.[0]);
      return a === undefined || b === undefined || !c ? undefined : Math.max(0, Math.ceil((b - a) / c));
    }
    case "Pad": {
      const pads = ints(1);
      const shape = n.inputs[0]?.isConstant ? n.inputs[0].data!.shape : undefined;
      if (!pads || !shape || pads.length !== 2 * shape.length) return undefined;
      return shape.reduce((a, d, i) => a * Math.max(0, d + pads[i]! + pads[i + shape.length]!), 1);
    }
    default:
      return undefined;
  }
}

/** A model of the candidates alone: no inputs, every value of theirs an output. Constants are shared by reference. */
function buildSession(model: Model, nodes: readonly Node[]): { readonly model: Model; readonly names: Map<Value, string> } {
  const graph = new Graph("constants");
  const map = new Map<Value, Value>();
  const names = new Map<Value, string>();
  const of = (v: Value | undefined): Value | undefined => {
    if (!v) return undefined;
    let c = map.get(v);
    if (!c) {
      c = graph.constant(v.data!, "c");
      map.set(v, c);
    }
    return c;
  };
  for (const n of nodes) {
    const outputs = n.outputs.map((o) => (o ? graph.freshName("v") : ""));
    const copy = graph.append({ op: n.op, inputs: n.inputs.map(of), outputs, attrs: Object.fromEntries(n.attrs), domain: n.domain });
    n.outputs.forEach((o, i) => {
      const c = copy.outputs[i];
      if (!o || !c) return;
      map.set(o, c);
      names.set(o, c.name);
      graph.addOutput(c);
    });
  }
  return { model: { ...model, graph, functions: [], metadata: [], irVersion: Math.max(4, model.irVersion) }, names };
}

/** Bytes when every dimension is a number. */
function bytesOf(dtype: DType, dims: readonly (number | string)[]): number | undefined {
  return dims.every((d) => typeof d === "number" && d >= 0)
    ? Math.ceil((elementCount(dims as number[]) * DTYPES[dtype].bits) / 8)
    : undefined;
}

interface Choice {
  readonly values: readonly Value[];
  readonly nodes: number;
  readonly refused: readonly { readonly node: string; readonly why: string }[];
}

/**
 * Which values become constants: those that remaining nodes use. One that would make the file grow keeps its node, whose inputs may then
 * become constants instead; so the choice is repeated until nothing changes.
 */
function choose(nodes: readonly Node[], sizeOf: (v: Value) => number | undefined): Choice {
  const inside = new Set(nodes);
  const refused: { node: string; why: string }[] = [];
  for (;;) {
    const values: Value[] = [];
    const drop: Node[] = [];
    for (const n of inside) {
      const used = n.outputs.filter((o): o is Value => o !== undefined && o.uses.some((u) => !inside.has(u.node)));
      const size = used.reduce((a, o) => a + (sizeOf(o) ?? Number.POSITIVE_INFINITY), 0);
      const freed = used.length > 0 ? freedBy(n, inside) : 0;
      if (size > freed + MAY_GROW) {
        drop.push(n);
        refused.push({
          node: nodeKey(n),
          why: Number.isFinite(size) ? `it would make the file ${size - freed} bytes larger` : "the size of its result is not known",
        });
      } else values.push(...used);
    }
    if (drop.length === 0) return { values, nodes: inside.size, refused };
    for (const n of drop) inside.delete(n);
  }
}

/** Bytes of constants that only this node and the candidates behind it alone use. */
function freedBy(node: Node, inside: ReadonlySet<Node>): number {
  const cone = new Set<Node>([node]);
  const stack = [node];
  let bytes = 0;
  const seen = new Set<Value>();
  while (stack.length > 0) {
    const n = stack.pop()!;
    for (const v of n.inputs) {
      if (!v || seen.has(v) || v.isOutput || !v.uses.every((u) => cone.has(u.node))) continue;
      seen.add(v);
      if (v.isConstant) bytes += v.data!.byteLength;
      else if (v.producer && inside.has(v.producer) && v.producer.outputs.every((o) => !o || o.uses.every((u) => cone.has(u.node)))) {
        cone.add(v.producer);
        stack.push(v.producer);
      }
    }
  }
  return bytes;
}

function constantFrom(t: Tensor): TensorData {
  if (Array.isArray(t.data)) throw new TypeError("internal: a string tensor cannot be folded");
  return tensorFrom(t.data, t.dims, t.dtype);
}

/** `v` becomes a constant of the same name; its node goes when nothing else needs it. */
export function replaceByConstant(v: Value, data: TensorData): void {
  const g = v.graph;
  const name = v.name;
  const c = g.constant(data, `${name}_constant`);
  if (!canReplace(v, c)) throw new Error(`internal: constant "${c.name}" is hidden in a subgraph`);
  g.replaceAllUses(v, c);
  const free = !v.isOutput;
  sweep(v);
  if (free && !g.values.has(name)) g.rename(c, name);
}
