import type { Model, Node, Value } from "../graph/ir.ts";
import { opFacts, traitOf } from "../graph/ops/index.ts";
import { nodeKey } from "../graph/walk.ts";
import type { NodeTime } from "../runtime/types.ts";

/** Time and kernels of one place. */
export interface Spent {
  readonly us: number;
  readonly kernels: number;
}

/** Kernels of one graph by the nodes of the prepared graph that they stand for. */
export interface Attributed {
  /** Kernels that compute, by node: a fused kernel is the product's that it holds. */
  readonly at: ReadonlyMap<string, Spent>;
  /** Conversions of type and layout, by the node (or `input NAME`) whose output they convert. */
  readonly behind: ReadonlyMap<string, Spent>;
  readonly us: number;
  readonly kernels: number;
}

/** Conversions that the engine or lowering put between nodes. */
const CONVERSIONS: ReadonlySet<string> = new Set(["QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput"]);
/** Names that the engine gives to nodes that it makes up. */
const MADE_UP = /^(?:Transpose|Squeeze|Unsqueeze|Cast|ReorderInput|ReorderOutput)(?:_token_\d+)?$/;

/** Node by its own name, longest prefix first where the engine added to it: `conv1_token_7`, `relu1_nchwc`, `gather1/Fusion`. */
class Names {
  readonly #nodes = new Map<string, Node>();
  constructor(model: Model) {
    for (const n of model.graph.nodes) for (const o of n.outputs) if (o) this.#nodes.set(o.name, n);
    // Names of nodes win: most fused kernels have the product's.
    for (const n of model.graph.nodes) this.#nodes.set(nodeKey(n), n);
  }
  find(name: string): Node | undefined {
    if (name === "" || MADE_UP.test(name)) return this.#nodes.get(name);
    for (let end = name.length; end > 0; end = Math.max(name.lastIndexOf("_", end - 1), name.lastIndexOf("/", end - 1))) {
      const found = this.#nodes.get(name.slice(0, end));
      if (found) return found;
    }
    return undefined;
  }
}

/**
 * Of many runs the mean of those between the 5th and the 30th percentile: whatever else a machine does only adds time, and the clock of kernels
 * ticks in whole µs, so that one quantile would be too coarse.
 */
export function undisturbed(x: readonly number[]): number {
  const s = [...x].sort((a, b) => a - b);
  const from = Math.floor(s.length * 0.05);
  const kept = s.slice(from, Math.max(from + 1, Math.ceil(s.length * 0.3)));
  return kept.reduce((a, b) => a + b, 0) / Math.max(1, kept.length);
}

/** A value's maker, clamps looked through: they are fused with what they clamp. */
export function makerOf(v: Value): Node | Value {
  let at = v;
  while (at.producer && traitOf(at.producer) === "clamp" && at.producer.inputs[0]) at = at.producer.inputs[0];
  return at.producer ?? at;
}
export const makerKey = (m: Node | Value): string => ("op" in m ? nodeKey(m) : `input ${m.name}`);

/**
 * Fused kernels back to the nodes that a plan speaks of. The optimized graph's nodes keep the name of a node or of a value of the graph that
 * went in, with something behind it. The group of a kernel: that node, and what lies in front of it and has no kernel of its own (a
 * product whose sum and clamp gave the kernel its name). Nodes that lowering made belong to those that they came from.
 *
 * @param skip runs at the start that do not count
 */
export function attribute(o: {
  readonly prepared: Model;
  readonly lowered: Model;
  readonly optimized: Model;
  readonly times: readonly NodeTime[];
  readonly skip: number;
}): Attributed {
  const owner = ownersOf(o.prepared, o.lowered);
  const names = new Names(o.lowered);
  const spent = new Map(o.times.map((t) => [t.node, undisturbed(t.microseconds.slice(o.skip))]));
  const kernels = o.optimized.graph.nodes.filter((n) => spent.has(n.name));
  const lowered = new Map<Node, Node>();
  for (const k of o.optimized.graph.nodes) {
    if (CONVERSIONS.has(k.op)) continue;
    const found = names.find(k.name) ?? (MADE_UP.test(k.name) ? undefined : k.outputs.map((v) => v && names.find(v.name)).find((n) => n));
    if (found && !CONVERSIONS.has(found.op)) lowered.set(k, found);
  }
  const mapped = new Set(lowered.values());
  const prepared = new Map(o.prepared.graph.nodes.map((n) => [nodeKey(n), n]));
  const keyOf = new Map<Node, string>();
  for (const [k, n] of lowered) {
    const group = groupOf(n, mapped).flatMap((m) => owner.get(m) ?? []);
    const product = group.find((key) => (opFacts(prepared.get(key)!)?.weights.length ?? 0) > 0);
    const key = product ?? group[0];
    if (key !== undefined) keyOf.set(k, key);
  }
  const at = new Map<string, Spent>();
  const behind = new Map<string, Spent>();
  const add = (to: Map<string, Spent>, key: string, us: number) => {
    const old = to.get(key);
    to.set(key, { us: (old?.us ?? 0) + us, kernels: (old?.kernels ?? 0) + 1 });
  };
  let us = 0;
  for (const k of kernels) {
    const t = spent.get(k.name)!;
    us += t;
    const own = keyOf.get(k);
    if (own !== undefined) {
      add(at, own, t);
      continue;
    }
    const source = sourceOf(k, lowered, keyOf);
    if (typeof source === "string") add(at, source, t);
    else if (source) add(behind, makerKey(source), t);
  }
  return { at, behind, us, kernels: kernels.length };

  /** What a conversion converts: the prepared graph's maker of it; of a constant, the node that reads it (its key). */
  function sourceOf(k: Node, lowered: ReadonlyMap<Node, Node>, keyOf: ReadonlyMap<Node, string>): Node | Value | string | undefined {
    const input = k.inputs.find((v) => v && (v.producer || v.isInput));
    if (!input) return readerOf(k, keyOf, new Set());
    if (!input.producer) return o.prepared.graph.values.get(input.name) ?? input;
    const from = lowered.get(input.producer);
    if (!from) return sourceOf(input.producer, lowered, keyOf);
    const key = owner.get(from)?.[0];
    const n = key === undefined ? undefined : prepared.get(key);
    return n?.outputs[0] && makerOf(n.outputs[0]);
  }
}

function readerOf(k: Node, keyOf: ReadonlyMap<Node, string>, seen: Set<Node>): string | undefined {
  if (seen.has(k)) return undefined;
  seen.add(k);
  for (const v of k.outputs)
    for (const u of v?.uses ?? []) {
      const found = keyOf.get(u.node) ?? readerOf(u.node, keyOf, seen);
      if (found !== undefined) return found;
    }
  return undefined;
}

/** A node and those in front of it that have no kernel, up to Q and DQ nodes. */
function groupOf(n: Node, mapped: ReadonlySet<Node>): Node[] {
  const out = [n];
  for (let i = 0; i < out.length; i++)
    for (const v of out[i]!.inputs) {
      const p = v?.producer;
      if (p && p.graph === n.graph && !mapped.has(p) && !CONVERSIONS.has(p.op) && !out.includes(p)) out.push(p);
    }
  return out;
}

/** Nodes of the lowered graph to keys of the prepared graph's nodes; none for Q and DQ nodes. */
function ownersOf(prepared: Model, lowered: Model): Map<Node, readonly string[]> {
  const nodes = new Map(prepared.graph.nodes.map((n) => [nodeKey(n), n]));
  const out = new Map<Node, readonly string[]>();
  for (const n of lowered.graph.nodes) {
    if (nodes.has(nodeKey(n))) out.set(n, [nodeKey(n)]);
    else {
      const from = (n.origin?.from ?? []).flatMap((name) => {
        if (nodes.has(name)) return [name];
        const v = prepared.graph.values.get(name);
        const near = v?.producer ?? v?.uses[0]?.node;
        return near && near.graph === prepared.graph ? [nodeKey(near)] : [];
      });
      if (from.length > 0) out.set(n, from);
    }
  }
  return out;
}
