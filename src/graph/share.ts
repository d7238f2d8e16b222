import type { Graph, Model, Value } from "./ir.ts";
import type { TensorData } from "./tensor.ts";
import { allGraphs } from "./walk.ts";

export interface Shared {
  readonly constants: number;
  readonly bytes: number;
}

/**
 * Constants of equal type, shape and content become one: the first of its graph, or one of an outer graph. For files to be written, after
 * every decision is made: a constant that two nodes share cannot be replaced for one of them. Exact.
 */
export function shareConstants(model: Model, leastBytes = 64): Shared {
  const seen = new Map<Graph, Map<string, Value[]>>();
  const outputs = new Set([...allGraphs(model.graph)].flatMap((g) => g.outputs));
  let constants = 0;
  let bytes = 0;
  for (const g of allGraphs(model.graph)) {
    const mine = new Map<string, Value[]>();
    seen.set(g, mine);
    for (const v of [...g.values.values()]) {
      if (!v.isConstant || v.data!.dtype === "string" || v.data!.byteLength < leastBytes || v.sparse) continue;
      const key = `${v.data!.dtype}[${v.data!.shape.join()}]${sample(v.data!)}`;
      const twin = outputs.has(v) ? undefined : find(seen, g, key, v);
      if (!twin) {
        mine.set(key, [...(mine.get(key) ?? []), v]);
        continue;
      }
      g.replaceAllUses(v, twin);
      g.removeValue(v);
      constants++;
      bytes += v.data!.byteLength;
    }
  }
  return { constants, bytes };
}

function find(seen: ReadonlyMap<Graph, ReadonlyMap<string, readonly Value[]>>, g: Graph, key: string, v: Value): Value | undefined {
  for (let at: Graph | undefined = g; at; at = at.parent) {
    for (const c of seen.get(at)?.get(key) ?? []) {
      if (equalBytes(c.data!, v.data!) && visible(v, c)) return c;
    }
  }
  return undefined;
}

/** True when no graph between a use of `v` and the graph of `c` has another value of that name. */
function visible(v: Value, c: Value): boolean {
  return v.uses.every((u) => {
    for (let g: Graph | undefined = u.node.graph; g && g !== c.graph; g = g.parent) if (g.values.has(c.name)) return false;
    return true;
  });
}

function equalBytes(a: TensorData, b: TensorData): boolean {
  if (a === b) return true;
  const [x, y] = [a.bytes(), b.bytes()];
  if (x.buffer === y.buffer && x.byteOffset === y.byteOffset) return true;
  for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false;
  return true;
}

/** A few bytes of the content, so that most unequal tensors are told apart at once. */
function sample(t: TensorData): string {
  const b = t.bytes();
  const step = Math.max(1, Math.floor(b.length / 16));
  let out = "";
  for (let i = 0; i < b.length; i += step) out += String.fromCharCode(b[i]!);
  return out;
}
