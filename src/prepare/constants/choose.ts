import type { Node, Value } from "../../graph/ir.ts";
import { nodeKey } from "../../graph/walk.ts";

/** Bytes by which one folded constant may make the file larger: scalars, shapes and small vectors pass. */
const MAY_GROW = 1024;

export interface Choice {
  /** Results that become constants, by the name of the result in the session; equal results share a name. */
  readonly results: ReadonlyMap<string, readonly Value[]>;
  readonly nodes: number;
  readonly refused: readonly { readonly node: string; readonly why: string }[];
}

/**
 * Which results become constants: those that remaining nodes use. Nodes that work on the same large constants are judged together: what
 * they add to the file against the constants that nothing uses afterwards (the gate blocks of an LSTM, cut out of one tensor and joined
 * in another order, are as large as before). Where that grows, the nodes that grow most stay, and their inputs may become constants
 * instead; so the choice is repeated until nothing changes.
 */
export function choose(nodes: readonly Node[], names: ReadonlyMap<Value, string>, sizeOf: (name: string) => number | undefined): Choice {
  const inside = new Set(nodes);
  const refused: { node: string; why: string }[] = [];
  for (;;) {
    const drop = new Map<Node, string>();
    const results = new Map<string, Value[]>();
    for (const group of groups(inside)) {
      const used = new Map<string, Value[]>();
      for (const n of group) {
        for (const o of n.outputs) {
          if (!o?.uses.some((u) => !inside.has(u.node))) continue;
          const name = names.get(o)!;
          used.set(name, [...(used.get(name) ?? []), o]);
        }
      }
      const added = [...used.keys()].reduce((a, name) => a + (sizeOf(name) ?? Number.POSITIVE_INFINITY), 0);
      if (added <= freedBy(group) + used.size * MAY_GROW)
        for (const [name, values] of used) results.set(name, [...(results.get(name) ?? []), ...values]);
      else for (const [n, why] of offenders(group, inside, (v) => sizeOf(names.get(v)!))) drop.set(n, why);
    }
    if (drop.size === 0) return { results, nodes: inside.size, refused };
    for (const [n, why] of drop) {
      inside.delete(n);
      refused.push({ node: nodeKey(n), why });
    }
  }
}

/** Nodes joined by results and by the constants that they share; small constants do not count. */
function groups(inside: ReadonlySet<Node>): Node[][] {
  const root = new Map<object, object>();
  const find = (x: object): object => {
    let r = x;
    for (let p = root.get(r); p !== undefined && p !== r; p = root.get(r)) r = p;
    root.set(x, r);
    return r;
  };
  for (const n of inside) {
    for (const v of n.inputs) {
      if (v?.producer && inside.has(v.producer)) root.set(find(v.producer), find(n));
      else if (v?.data && v.data.byteLength > MAY_GROW) root.set(find(v), find(n));
    }
  }
  const out = new Map<object, Node[]>();
  for (const n of inside) {
    const r = find(n);
    const list = out.get(r);
    if (list) list.push(n);
    else out.set(r, [n]);
  }
  return [...out.values()];
}

/** Bytes of constants that only these nodes use. */
function freedBy(group: Iterable<Node>): number {
  const inside = new Set(group);
  const seen = new Set<Value>();
  let bytes = 0;
  for (const n of inside) {
    for (const v of n.inputs) {
      if (!v?.isConstant || seen.has(v)) continue;
      seen.add(v);
      if (!v.isOutput && v.uses.every((u) => inside.has(u.node))) bytes += v.data!.byteLength;
    }
  }
  return bytes;
}

/** The nodes of a group that add more than they free when judged alone; else the one that adds most. */
function offenders(group: readonly Node[], inside: ReadonlySet<Node>, sizeOf: (v: Value) => number | undefined): [Node, string][] {
  const out: [Node, string][] = [];
  let worst: { readonly node: Node; readonly grows: number } | undefined;
  for (const n of group) {
    const used = n.outputs.filter((o) => o !== undefined).filter((o) => o.uses.some((u) => !inside.has(u.node)));
    if (used.length === 0) continue;
    const grows = used.reduce((a, o) => a + (sizeOf(o) ?? Number.POSITIVE_INFINITY), 0) - freedBy(cone(n, inside));
    if (grows > MAY_GROW)
      out.push([n, Number.isFinite(grows) ? `it would make the file ${grows} bytes larger` : "the size of its result is not known"]);
    if (!worst || grows > worst.grows) worst = { node: n, grows };
  }
  if (out.length === 0 && worst) out.push([worst.node, "with others on the same constants it would make the file larger"]);
  return out;
}

/** The node and the nodes behind it that serve nothing else. */
function cone(node: Node, inside: ReadonlySet<Node>): Set<Node> {
  const out = new Set([node]);
  for (let grew = true; grew; ) {
    grew = false;
    for (const n of out) {
      for (const v of n.inputs) {
        const p = v?.producer;
        if (!p || out.has(p) || !inside.has(p) || !p.outputs.every((o) => !o || o.uses.every((u) => out.has(u.node)))) continue;
        out.add(p);
        grew = true;
      }
    }
  }
  return out;
}
