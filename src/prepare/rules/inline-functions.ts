import type { Attr } from "../../graph/attr.ts";
import { cloneGraph } from "../../graph/clone.ts";
import type { FunctionDef, Graph, Model, Node, Value } from "../../graph/ir.ts";
import { allGraphs } from "../../graph/walk.ts";

/** Nodes that calls may become: functions that call others twice grow as powers of two, and a hostile file may call in circles. */
const MOST_NODES = 20_000;

/**
 * Calls of the model's own functions become their bodies, until none is left: exact. A function is a name for nodes that no quantizer
 * would see. Values of a body are named `call/value`; attributes that refer to the call's take its values or the function's defaults.
 */
export function inlineFunctions(model: Model, refused: (node: Node, why: string) => void): number {
  const defs = new Map(model.functions.map((f) => [keyOf(f.domain, f.name, f.overload), f]));
  if (defs.size === 0) return 0;
  const grows = expandedSize(model, defs);
  if (grows > MOST_NODES) {
    for (const n of model.graph.allNodes())
      if (defs.has(keyOf(n.domain, n.op, n.overload))) refused(n, `the calls of this model would become more than ${MOST_NODES} nodes`);
    return 0;
  }
  let count = 0;
  const taken = new Set([...allGraphs(model.graph)].flatMap((g) => [...g.values.keys()]));
  for (let changed = true; changed; ) {
    changed = false;
    for (const g of [...allGraphs(model.graph)]) {
      for (const n of [...g.nodes]) {
        const f = defs.get(keyOf(n.domain, n.op, n.overload));
        const why = f && otherOpset(f, model);
        if (!f) continue;
        if (why !== undefined) refused(n, why);
        else {
          inline(n, f, taken);
          count++;
          changed = true;
        }
      }
    }
  }
  const used = new Set([...model.graph.allNodes()].map((n) => keyOf(n.domain, n.op, n.overload)));
  if (![...used].some((k) => defs.has(k))) model.functions = [];
  if (model.functions.length === 0)
    for (const [domain, version] of domainsOf([...defs.values()])) if (!model.opsets.has(domain)) model.opsets.set(domain, version);
  return count;
}

const keyOf = (domain: string, name: string, overload: string): string => `${domain === "ai.onnx" ? "" : domain}\n${name}\n${overload}`;

/** Opset imports of the functions: the model must state those of domains that only bodies use. */
function domainsOf(defs: readonly FunctionDef[]): Map<string, number> {
  return new Map(defs.flatMap((f) => [...f.opsets]));
}

/** Nodes that all calls of the main graph become, Infinity for circles. */
function expandedSize(model: Model, defs: ReadonlyMap<string, FunctionDef>): number {
  const sizes = new Map<FunctionDef, number>();
  const sizeOf = (g: Graph): number => {
    let total = 0;
    for (const n of g.allNodes()) {
      const f = defs.get(keyOf(n.domain, n.op, n.overload));
      if (!f) {
        total++;
        continue;
      }
      let size = sizes.get(f);
      if (size === undefined) {
        sizes.set(f, Number.POSITIVE_INFINITY); // until known: what a circle meets
        size = sizeOf(f.body);
        sizes.set(f, size);
      }
      total += size;
    }
    return total;
  };
  return sizeOf(model.graph) - [...model.graph.allNodes()].length;
}

function otherOpset(f: FunctionDef, model: Model): string | undefined {
  for (const [domain, version] of f.opsets) {
    const own = model.opsets.get(domain);
    if (own !== undefined && own !== version) return `its function is of opset ${version}, the model of ${own}`;
  }
  return undefined;
}

function inline(call: Node, f: FunctionDef, taken: Set<string>): void {
  const g = call.graph;
  const prefix = call.name !== "" ? call.name : (call.outputs.find((o) => o)?.name ?? call.op);
  const fresh = (hint: string): string => {
    let name = hint;
    for (let i = 1; taken.has(name); i++) name = `${hint}_${i}`;
    taken.add(name);
    return name;
  };
  const map = new Map<Value, Value>();
  f.body.inputs.forEach((v, i) => {
    const given = call.inputs[i];
    if (given) map.set(v, given);
  });
  for (const v of f.body.values.values()) {
    if (!v.data || v.producer || map.has(v)) continue;
    const c = g.value(fresh(`${prefix}/${v.name}`), { kind: "tensor", elem: v.data.dtype, shape: v.data.shape });
    c.data = v.data;
    map.set(v, c);
  }
  const attrOf = (a: Attr): Attr | undefined => (a.kind === "ref" ? (call.attrs.get(a.value) ?? f.attributeDefaults.get(a.value)) : a);
  for (const n of f.body.nodes) {
    const attrs: Record<string, Attr> = {};
    for (const [name, a] of n.attrs) {
      const value = attrOf(a);
      if (value) attrs[name] = graphsCloned(value, g, map, attrOf);
    }
    const made = g.insertBefore(call, {
      op: n.op,
      domain: n.domain,
      inputs: n.inputs.map((v) => v && map.get(v)),
      outputs: n.outputs.map((o) => (o ? fresh(`${prefix}/${o.name}`) : "")),
      attrs,
      name: `${prefix}/${n.name !== "" ? n.name : (n.outputs.find((o) => o)?.name ?? n.op)}`,
      origin: { rule: "inline-functions", from: [prefix] },
    });
    made.overload = n.overload;
    n.outputs.forEach((o, i) => {
      if (o) map.set(o, made.outputs[i]!);
    });
  }
  const results = f.body.outputs.map((o) => map.get(o));
  const renames: [Value, string][] = [];
  call.outputs.forEach((o, i) => {
    const from = results[i];
    if (!o || !from) return;
    // An Identity each: it keeps the caller's name, also where the body hands an input on. drop-identity removes what it can.
    const origin = { rule: "inline-functions", from: [prefix] };
    const end = g.insertBefore(call, {
      op: "Identity",
      inputs: [from],
      outputs: [fresh(`${o.name}_out`)],
      name: `${prefix}/${o.name}`,
      origin,
    }).outputs[0]!;
    end.type = o.type;
    g.replaceAllUses(o, end);
    if (o.isOutput) g.takeOutput(o, end);
    else renames.push([end, o.name]);
  });
  g.remove(call);
  for (const [v, name] of renames) g.rename(v, name);
}

/** Subgraphs of a body's node: copied, with their uses of the body's values mapped and references resolved. */
function graphsCloned(a: Attr, parent: Graph, map: Map<Value, Value>, attrOf: (a: Attr) => Attr | undefined): Attr {
  if (a.kind !== "graph" && a.kind !== "graphs") return a;
  const copy = (s: Graph): Graph => {
    const c = cloneGraph(s, parent, new Map(map));
    for (const n of c.allNodes()) {
      for (const [name, inner] of [...n.attrs]) {
        if (inner.kind !== "ref") continue;
        const value = attrOf(inner);
        if (value) n.attrs.set(name, value);
        else n.attrs.delete(name);
      }
    }
    return c;
  };
  return a.kind === "graph" ? { kind: "graph", value: copy(a.value) } : { kind: "graphs", value: a.value.map(copy) };
}
