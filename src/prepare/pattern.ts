import { constantOf } from "../graph/constant.ts";
import type { Node, Value } from "../graph/ir.ts";

/** What a pattern has seen: named values, and the nodes that it covers. */
export interface Seen {
  readonly values: Map<string, Value>;
  readonly nodes: Set<Node>;
}
/** A pattern looks backwards from a value. On failure it may leave marks behind: callers restore what they saved. */
export type Pattern = (v: Value | undefined, seen: Seen) => boolean;

export function matchAt(p: Pattern, v: Value): Seen | undefined {
  const seen: Seen = { values: new Map(), nodes: new Set() };
  return p(v, seen) ? seen : undefined;
}

/** Any value; the same one wherever the name occurs. */
export const is =
  (name: string): Pattern =>
  (v, seen) => {
    if (!v) return false;
    const known = seen.values.get(name);
    if (known) return known === v;
    seen.values.set(name, v);
    return true;
  };

/** A constant of one element near `x` (relative 1e-3: exporters round √2 and the like to few digits). */
export const num =
  (x: number): Pattern =>
  (v) => {
    const got = scalarOf(v);
    return got !== undefined && Math.abs(got - x) <= 1e-3 * Math.abs(x);
  };
/** A small positive constant: an epsilon. */
export const epsilon: Pattern = (v) => {
  const got = scalarOf(v);
  return got !== undefined && got > 0 && got < 0.1;
};

/** Any constant. */
export const some: Pattern = (v) => constantOf(v) !== undefined;

export function scalarOf(v: Value | undefined): number | undefined {
  const c = constantOf(v);
  return c?.dtype.startsWith("float") && c.shape.every((d) => d === 1) ? c.float32()[0] : undefined;
}

/** The first alternative that fits. */
export const either =
  (...ps: readonly Pattern[]): Pattern =>
  (v, seen) =>
    ps.some((p) => attempt(p, v, seen));

/** A node of one of these operators (`A|B`) with these inputs; further inputs (axes, shapes) may follow. Casts on the way are covered. */
export const op = (name: string, ...args: readonly Pattern[]): Pattern => node(name, args, false);
/** The same with the two inputs in any order. */
export const both = (name: string, a: Pattern, b: Pattern): Pattern => node(name, [a, b], true);

const VIEWS = new Set(["Reshape", "Unsqueeze", "Squeeze", "Expand", "Identity"]);
/** The pattern, or the same value in another shape: at most four such nodes, which are covered. */
export const view =
  (p: Pattern): Pattern =>
  (v, seen) => {
    const passed: Node[] = [];
    for (let at = v; at; at = passed[passed.length - 1]!.inputs[0]) {
      if (attempt(p, at, seen)) {
        for (const n of passed) seen.nodes.add(n);
        return true;
      }
      const n = at.producer;
      if (!n || !VIEWS.has(n.op) || n.domain !== "" || passed.length === 4) return false;
      passed.push(n);
    }
    return false;
  };

function node(name: string, args: readonly Pattern[], commute: boolean): Pattern {
  const names = new Set(name.split("|"));
  return (v, seen) => {
    let n = v?.producer;
    const casts: Node[] = [];
    while (n?.op === "Cast" && !names.has("Cast") && n.domain === "") {
      casts.push(n);
      n = n.inputs[0]?.producer;
    }
    if (!n || !names.has(n.op) || n.domain !== "" || n.outputs[0] !== (casts[casts.length - 1]?.inputs[0] ?? v)) return false;
    const inputs = n.inputs;
    const inOrder: Pattern = (_, s) => args.every((p, i) => p(inputs[i], s));
    const swapped: Pattern = (_, s) => args[0]!(inputs[1], s) && args[1]!(inputs[0], s);
    if (!attempt(inOrder, v, seen) && !(commute && attempt(swapped, v, seen))) return false;
    for (const c of casts) seen.nodes.add(c);
    seen.nodes.add(n);
    return true;
  };
}

function attempt(p: Pattern, v: Value | undefined, seen: Seen): boolean {
  const values = new Map(seen.values);
  const nodes = new Set(seen.nodes);
  if (p(v, seen)) return true;
  seen.values.clear();
  for (const [k, x] of values) seen.values.set(k, x);
  seen.nodes.clear();
  for (const n of nodes) seen.nodes.add(n);
  return false;
}
