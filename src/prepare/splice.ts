import type { Attr } from "../graph/attr.ts";
import { cloneGraph } from "../graph/clone.ts";
import type { Graph, Node, Value } from "../graph/ir.ts";
import { nodeKey } from "../graph/walk.ts";

export interface Splice {
  readonly rule: string;
  /** Name in the outer graph for a value or node of the body. */
  nameOf(name: string): string;
  /** Names that are in use; those made here are added. */
  readonly taken: Set<string>;
  /** Attributes of the body as the caller has them; undefined leaves one out. */
  attrOf(a: Attr): Attr | undefined;
}

/**
 * Puts a copy of a body's nodes in the place of the node that runs it. `given` maps the body's inputs. Values of outer graphs stay what
 * they are. The node's outputs keep their names: an Identity each, which drop-identity takes out where it can.
 */
export function splice(call: Node, body: Graph, given: ReadonlyMap<Value, Value>, o: Splice): void {
  const g = call.graph;
  const origin = { rule: o.rule, from: [nodeKey(call)] };
  const fresh = (hint: string): string => {
    let name = hint;
    for (let i = 1; o.taken.has(name); i++) name = `${hint}_${i}`;
    o.taken.add(name);
    return name;
  };
  const map = new Map(given);
  const of = (v: Value | undefined): Value | undefined => v && (map.get(v) ?? (v.graph === body ? undefined : v));
  for (const v of body.values.values()) {
    if (!v.data || v.producer || map.has(v)) continue;
    const c = g.value(fresh(o.nameOf(v.name)), { kind: "tensor", elem: v.data.dtype, shape: v.data.shape });
    c.data = v.data;
    map.set(v, c);
  }
  for (const n of body.nodes) {
    const attrs: Record<string, Attr> = {};
    for (const [name, a] of n.attrs) {
      const value = o.attrOf(a);
      if (value) attrs[name] = graphsCloned(value, g, map, o);
    }
    const made = g.insertBefore(call, {
      op: n.op,
      domain: n.domain,
      inputs: n.inputs.map(of),
      outputs: n.outputs.map((v) => (v ? fresh(o.nameOf(v.name)) : "")),
      attrs,
      name: o.nameOf(nodeKey(n)),
      origin,
    });
    made.overload = n.overload;
    n.outputs.forEach((v, i) => {
      if (!v) return;
      made.outputs[i]!.type = v.type;
      map.set(v, made.outputs[i]!);
    });
  }
  const results = body.outputs.map(of);
  const renames: [Value, string][] = [];
  call.outputs.forEach((out, i) => {
    const from = results[i];
    if (!out || !from) return;
    const spec = { op: "Identity", inputs: [from], outputs: [fresh(`${out.name}_out`)], name: o.nameOf(out.name), origin };
    const end = g.insertBefore(call, spec).outputs[0]!;
    end.type = out.type;
    g.replaceAllUses(out, end);
    if (out.isOutput) g.takeOutput(out, end);
    else renames.push([end, out.name]);
  });
  g.remove(call);
  for (const [v, name] of renames) g.rename(v, name);
}

/** Subgraphs of a body's node: copied, with their uses of the body's values mapped and references resolved. */
function graphsCloned(a: Attr, parent: Graph, map: Map<Value, Value>, o: Splice): Attr {
  if (a.kind !== "graph" && a.kind !== "graphs") return a;
  const copy = (s: Graph): Graph => {
    const c = cloneGraph(s, parent, new Map(map));
    for (const n of c.allNodes()) {
      for (const [name, inner] of [...n.attrs]) {
        if (inner.kind !== "ref") continue;
        const value = o.attrOf(inner);
        if (value) n.attrs.set(name, value);
        else n.attrs.delete(name);
      }
    }
    return c;
  };
  return a.kind === "graph" ? { kind: "graph", value: copy(a.value) } : { kind: "graphs", value: a.value.map(copy) };
}
