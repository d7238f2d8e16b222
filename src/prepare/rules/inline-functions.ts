import type { FunctionDef, Graph, Model, Node, Value } from "../../graph/ir.ts";
import { allGraphs, nodeKey } from "../../graph/walk.ts";
import { splice } from "../splice.ts";

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
  const prefix = nodeKey(call);
  const given = new Map<Value, Value>();
  f.body.inputs.forEach((v, i) => {
    const x = call.inputs[i];
    if (x) given.set(v, x);
  });
  splice(call, f.body, given, {
    rule: "inline-functions",
    nameOf: (name) => `${prefix}/${name}`,
    taken,
    attrOf: (a) => (a.kind === "ref" ? (call.attrs.get(a.value) ?? f.attributeDefaults.get(a.value)) : a),
  });
}
