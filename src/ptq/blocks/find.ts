import type { Graph, Value } from "../../graph/ir.ts";
import type { Layer } from "../layers.ts";
import { readBy } from "../segment.ts";

/** Consecutive nodes [from, to) with one value going in and one coming out, and the layers among them. */
export interface Block {
  readonly from: number;
  readonly to: number;
  readonly input: Value;
  readonly output: Value;
  readonly layers: readonly Layer[];
}

/** More layers than this in one piece are no residual block but half a network: samples are too few to learn them together. */
const MOST_LAYERS = 8;
const LEAST_LAYERS = 2;

/**
 * Blocks between places where a single value carries everything: the join points of a residual network. Chains of single layers are cut into
 * pieces of two.
 */
export function findBlocks(graph: Graph, layers: readonly Layer[]): Block[] {
  const nodes = graph.nodes;
  const position = new Map(nodes.map((n, i) => [n, i]));
  const last = new Map<Value, number>();
  nodes.forEach((n, i) => {
    for (const v of readBy(n)) if (!v.isConstant) last.set(v, i);
  });
  for (const v of graph.outputs) last.set(v, nodes.length);
  const made = (v: Value) => (v.producer ? position.get(v.producer)! : -1);
  // Elementary pieces first: from one such place to the next.
  const places: { readonly at: number; readonly value: Value }[] = [];
  for (let cut = 0; cut <= nodes.length; cut++) {
    const live = [...last].filter(([v, end]) => made(v) < cut && end >= cut).map(([v]) => v);
    if (live.length === 1 && live[0] !== places.at(-1)?.value) places.push({ at: cut, value: live[0]! });
  }
  const out: Block[] = [];
  const add = (from: number, to: number) => {
    const [a, b] = [places[from]!, places[to]!];
    const inside = layers.filter((l) => l.index >= a.at && l.index < b.at);
    if (inside.length < LEAST_LAYERS) return false;
    if (inside.length <= MOST_LAYERS) out.push({ from: a.at, to: b.at, input: a.value, output: b.value, layers: inside });
    return true;
  };
  let open = 0;
  for (let i = 1; i < places.length; i++) {
    const inside = layers.filter((l) => l.index >= places[i - 1]!.at && l.index < places[i]!.at).length;
    if (inside >= LEAST_LAYERS) open = i - 1;
    if (add(open, i)) open = i;
  }
  return out;
}
