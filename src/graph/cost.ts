import { byteCount, elementCount } from "../quant/dtype.ts";
import { intAttr } from "./attr.ts";
import type { Graph, Model, Node, Value } from "./ir.ts";
import { traitOf } from "./ops/index.ts";
import type { ValueType } from "./types.ts";
import { allGraphs, pathOf, pathOfNode } from "./walk.ts";

/** How types are asked for here: by value. A symbolic dimension counts as `symbol` elements. */
export interface Shapes {
  of(v: Value): { readonly shape: readonly number[]; readonly bytes: number } | undefined;
}

/** Shapes from types by path (`Prepared.types`); names of dimensions and unknown ones become `symbol`. */
export function shapesFrom(types: ReadonlyMap<string, ValueType>, symbol = 1): Shapes {
  const known = new Map<Value, { readonly shape: readonly number[]; readonly bytes: number } | undefined>();
  return {
    of(v) {
      if (known.has(v)) return known.get(v);
      const t: ValueType | undefined = v.data
        ? { kind: "tensor", elem: v.data.dtype, shape: v.data.shape }
        : (types.get(pathOf(v)) ?? v.type);
      const shape = t?.kind === "tensor" ? t.shape?.map((d) => (typeof d === "number" && d >= 0 ? d : symbol)) : undefined;
      const out = t?.kind === "tensor" && t.elem && shape ? { shape, bytes: byteCount(t.elem, elementCount(shape)) } : undefined;
      known.set(v, out);
      return out;
    },
  };
}

/**
 * Multiply–accumulate operations of one run of a node; 0 for operators that are no products; undefined when a shape is missing.
 * Conv: |y| · C/g · |k|. ConvTranspose: |x| · M/g · |k|. Gemm, MatMul: |y| · K. LSTM, GRU, RNN: steps · batch · directions · gates·H·(I + H).
 */
export function macsOf(n: Node, shapes: Shapes): number | undefined {
  const trait = traitOf(n);
  if (trait === "recurrent") {
    const [x, w, r] = [n.inputs[0], n.inputs[1], n.inputs[2]].map((v) => v && shapes.of(v)?.shape);
    if (!x || !w || !r || x.length !== 3 || w.length !== 3 || r.length !== 3) return undefined;
    return x[0]! * x[1]! * w[0]! * w[1]! * (w[2]! + r[2]!);
  }
  const quantized = QUANTIZED_PRODUCTS[n.op];
  if (trait === "quantized" && quantized) return quantizedMacs(n, quantized, shapes);
  if (trait !== "compute") return 0;
  const [a, b, y] = [n.inputs[0], n.inputs[1], n.outputs[0]].map((v) => v && shapes.of(v)?.shape);
  if (!a || !b || !y) return undefined;
  const size = (s: readonly number[]) => s.reduce((p, d) => p * d, 1);
  if (n.op === "Conv") return size(y) * size(b.slice(1));
  if (n.op === "ConvTranspose") return size(a) * size(b.slice(1));
  const transA = intAttr(n, "transA", 0) === 1;
  return size(y) * (a[a.length - (transA ? 2 : 1)] ?? 1);
}

/** Where data and weight are among the inputs of quantized products. */
const QUANTIZED_PRODUCTS: Readonly<Record<string, readonly [data: number, weight: number]>> = {
  QLinearConv: [0, 3],
  QLinearMatMul: [0, 3],
  ConvInteger: [0, 1],
  MatMulInteger: [0, 1],
  MatMulNBits: [0, 1],
};

/** As for the float operators; MatMulNBits packs its weight, and says K in an attribute. */
function quantizedMacs(n: Node, [data, weight]: readonly [number, number], shapes: Shapes): number | undefined {
  const [a, b, y] = [n.inputs[data], n.inputs[weight], n.outputs[0]].map((v) => v && shapes.of(v)?.shape);
  if (!a || !b || !y) return undefined;
  const size = (s: readonly number[]) => s.reduce((p, d) => p * d, 1);
  if (n.op === "QLinearConv" || n.op === "ConvInteger") return size(y) * size(b.slice(1));
  return size(y) * (n.op === "MatMulNBits" ? intAttr(n, "K", 0) : (a.at(-1) ?? 1));
}

export interface Memory {
  /** Largest sum of values alive at once when each is freed after its last use. */
  readonly peakBytes: number;
  readonly peakAt: string;
  /** All values, as if none were freed. */
  readonly totalBytes: number;
  /** Values whose shape is not known, by path: they count as nothing. */
  readonly unknown: readonly string[];
}

/**
 * Activations in memory over one run in the order of the nodes, inputs and outputs of the graph included, constants not. A value lives
 * from the node that makes it (graph inputs: from the start) to its last use (graph outputs: to the end); a node's inputs and outputs are
 * alive together. While a node with subgraphs runs, the largest peak among them comes on top.
 */
export function memoryOf(model: Model, shapes: Shapes): Memory {
  const unknown: string[] = [];
  let totalBytes = 0;
  const bytesOf = (v: Value): number => shapes.of(v)?.bytes ?? 0;
  for (const g of allGraphs(model.graph)) {
    for (const v of g.values.values()) {
      if (v.data) continue;
      totalBytes += bytesOf(v);
      if (!shapes.of(v)) unknown.push(pathOf(v));
    }
  }
  const peak = peakOf(model.graph, bytesOf);
  return { peakBytes: peak.bytes, peakAt: peak.at ? pathOfNode(peak.at) : "", totalBytes, unknown };
}

function peakOf(g: Graph, bytesOf: (v: Value) => number): { bytes: number; at: Node | undefined } {
  const last = new Map<Value, number>();
  const end = g.nodes.length;
  const position = new Map(g.nodes.map((n, i) => [n, i]));
  for (const v of g.values.values()) {
    let at = v.producer ? position.get(v.producer)! : -1;
    for (const u of v.uses) at = Math.max(at, position.get(outerNode(u.node, g)) ?? at);
    last.set(v, at);
  }
  for (const v of g.outputs) last.set(v, end);
  const dies = new Map<number, Value[]>();
  for (const [v, at] of last) if (!v.data) dies.set(at, [...(dies.get(at) ?? []), v]);
  let live = g.inputs.filter((v) => !v.data).reduce((s, v) => s + bytesOf(v), 0);
  let best: { bytes: number; at: Node | undefined } = { bytes: live, at: undefined };
  g.nodes.forEach((n, i) => {
    for (const o of n.outputs) if (o) live += bytesOf(o);
    const inner = n.subgraphs
      .map((s) => peakOf(s, bytesOf))
      .reduce((a, p) => (p.bytes > a.bytes ? p : a), { bytes: 0, at: undefined as Node | undefined });
    if (live + inner.bytes > best.bytes) best = { bytes: live + inner.bytes, at: inner.at ?? n };
    for (const v of dies.get(i) ?? []) live -= bytesOf(v);
  });
  return best;
}

/** The node of graph `g` that is, or holds, `n`. */
function outerNode(n: Node, g: Graph): Node {
  let at = n;
  while (at.graph !== g) {
    const parent: Graph | undefined = at.graph.parent;
    const holder: Node | undefined = parent?.nodes.find((m) => m.subgraphs.includes(at.graph));
    if (!holder) return n;
    at = holder;
  }
  return at;
}
