import type { Model, Node, Use, Value } from "../../graph/ir.ts";
import { type BlockSite, blockRounded, isBlockSite } from "../../plan/blockfloat.ts";
import type { Resolver } from "../../plan/resolve.ts";
import { readNumbers } from "../../plan/tensors.ts";
import type { PlanBundle, Site } from "../../plan/types.ts";
import { SIMULATED } from "../halve.ts";
import { blockPair } from "./blockfloat.ts";
import { axisAttrs, behind, paramConstants, quantizePair } from "./emit.ts";

/**
 * Q and DQ on the values of the static sites. Sites on one value with equal parameters share their nodes. `all` takes the graph output too:
 * the DQ's output gets the output's name.
 */
export function lowerActivations(model: Model, bundle: PlanBundle, resolve: Resolver, simulated: boolean): void {
  const made = new Map<Value, Map<string, Value>>();
  for (const site of bundle.plan.sites) {
    if (site.kind === "weight" || site.kind === "cast" || (site.kind === "dynamic" && !isBlockSite(site))) continue;
    const target = resolve.value(site.value);
    const uses = resolve.uses(site, target);
    for (const [value, part] of byCurrentValue(uses, target)) {
      const make = (): Value =>
        isBlockSite(site) ? (simulated ? simulatedBlocks : blockPair)(value, bundle, site) : quantized(value, site, bundle);
      const out = pairFor(value, site, bundle, made, make);
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

type ActivationSite = Extract<Site, { kind: "static" | "dynamic" }>;

function pairFor(value: Value, site: ActivationSite, bundle: PlanBundle, made: Map<Value, Map<string, Value>>, make: () => Value): Value {
  const numbers = site.kind === "static" ? [[...readNumbers(bundle, site.scale)], [...readNumbers(bundle, site.zeroPoint)]] : [];
  const key = JSON.stringify([numbers, site.scheme]);
  const known = made.get(value) ?? new Map<string, Value>();
  made.set(value, known);
  const out = known.get(key) ?? make();
  known.set(key, out);
  return out;
}

function quantized(value: Value, site: ActivationSite, bundle: PlanBundle): Value {
  if (site.kind !== "static") throw new Error("internal: a dynamic site without blocks belongs to its weight's form");
  const graph = value.graph;
  const shape = value.type?.kind === "tensor" ? ((value.type.shape ?? []) as number[]) : [];
  const [scale, zeroPoint] = [readNumbers(bundle, site.scale), readNumbers(bundle, site.zeroPoint)];
  const p = paramConstants(graph, value.name, shape, site.scheme, scale, zeroPoint);
  return quantizePair(graph, value, value.name, axisAttrs(site.scheme), p, behind(graph, value));
}

function simulatedBlocks(value: Value, bundle: PlanBundle, site: BlockSite): Value {
  const graph = value.graph;
  const first = behind(graph, value);
  let last: Node | undefined;
  const out = blockRounded(value, bundle, site, {
    opset: bundle.plan.opset,
    node(op, inputs, hint, attrs = {}) {
      const name = graph.freshName(`${value.name}_${hint}`);
      const spec = { op, name, inputs, attrs, outputs: [name], origin: { rule: SIMULATED, from: [value.name] } };
      last = last ? graph.insertAfter(last, spec) : first(spec);
      return last.outputs[0]!;
    },
    constant: (data, hint) => graph.constant(data, `${value.name}_${hint}`),
  });
  graph.setType(out, value.type);
  return out;
}
