import type { Model, Use, Value } from "../../graph/ir.ts";
import type { Resolver } from "../../plan/resolve.ts";
import { readNumbers } from "../../plan/tensors.ts";
import type { PlanBundle, Site } from "../../plan/types.ts";
import { axisAttrs, behind, paramConstants, quantizePair } from "./emit.ts";

/**
 * Q and DQ on the values of the static sites. Sites on one value with equal parameters share their nodes. `all` takes the graph output too:
 * the DQ's output gets the output's name.
 */
export function lowerActivations(model: Model, bundle: PlanBundle, resolve: Resolver): void {
  const made = new Map<Value, Map<string, Value>>();
  for (const site of bundle.plan.sites) {
    if (site.kind !== "static") continue;
    const target = resolve.value(site.value);
    const uses = resolve.uses(site, target);
    for (const [value, part] of byCurrentValue(uses, target)) {
      const out = pairFor(value, site, bundle, made);
      for (const u of part) u.node.graph.replaceUse(u.node, u.input, out);
      if (site.consumers === "all" && value === target && value.isOutput) {
        model.graph.takeOutput(value, out);
      }
    }
  }
}

/** Uses by the value that they read now: an insertion may stand between. A site without uses (a graph output alone) keeps its own value. */
function byCurrentValue(uses: readonly Use[], target: Value): Map<Value, Use[]> {
  const out = new Map<Value, Use[]>();
  for (const u of uses) {
    const v = u.node.inputs[u.input] ?? target;
    out.set(v, [...(out.get(v) ?? []), u]);
  }
  if (uses.length === 0) out.set(target, []);
  return out;
}

function pairFor(value: Value, site: Extract<Site, { kind: "static" }>, bundle: PlanBundle, made: Map<Value, Map<string, Value>>): Value {
  const scale = readNumbers(bundle, site.scale);
  const zeroPoint = readNumbers(bundle, site.zeroPoint);
  const key = JSON.stringify([[...scale], [...zeroPoint], site.scheme]);
  const known = made.get(value) ?? new Map<string, Value>();
  made.set(value, known);
  const old = known.get(key);
  if (old) return old;
  const graph = value.graph;
  const shape = value.type?.kind === "tensor" ? ((value.type.shape ?? []) as number[]) : [];
  const stem = value.name;
  const p = paramConstants(graph, stem, shape, site.scheme, scale, zeroPoint);
  const out = quantizePair(graph, value, stem, axisAttrs(site.scheme), p, behind(graph, value));
  known.set(key, out);
  return out;
}
