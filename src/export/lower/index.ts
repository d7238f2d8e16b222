import { QcError } from "../../diagnostics.ts";
import { intsAttr } from "../../graph/attr.ts";
import { cloneModel } from "../../graph/clone.ts";
import { constantOf } from "../../graph/constant.ts";
import { type Model, type Node, opsetOf, type Value } from "../../graph/ir.ts";
import { allNodes, pathOf } from "../../graph/walk.ts";
import { checkPlanAgainst } from "../../plan/check.ts";
import { Resolver } from "../../plan/resolve.ts";
import { printTarget, type Target } from "../../plan/target.ts";
import type { PlanBundle, Rest } from "../../plan/types.ts";
import { requireOpset } from "../../prepare/opset/index.ts";
import { halve, SIMULATED, simulateHalves } from "../halve.ts";
import { legalize } from "../legalize.ts";
import { lowerActivations } from "./activations.ts";
import { TRT_DOMAIN } from "./blockfloat.ts";
import { insertMultipliers, replaceConstants } from "./replace.ts";
import { sweep } from "./sweep.ts";
import { lowerWeights } from "./weights.ts";

export interface LowerOptions {
  /** Rounds to the plan's 16-bit type instead of computing in it: a float32 file with the same numbers, for runtimes without its kernels. */
  readonly simulateRest?: boolean;
  /** The block formats in float32 operators with the same numbers: no runtime here has their kernels. */
  readonly simulateBlocks?: boolean;
}

/**
 * A plan applied to the prepared graph. No policy: every number and every place comes from the plan; equal input gives an equal model.
 * The model is not changed; constants are shared. Total for a checked plan: what the check lets through is lowered.
 */
export function lower(model: Model, bundle: PlanBundle, target: Target, options: LowerOptions = {}): Model {
  const { plan } = bundle;
  if (plan.target !== printTarget(target)) throw new QcError({ code: "plan/wrong-target", want: plan.target, got: printTarget(target) });
  const faults = checkPlanAgainst(bundle, model, target);
  if (faults.length > 0) throw new QcError(faults);
  const out = cloneModel(model);
  if (plan.opset > (opsetOf(out) ?? 1)) requireOpset(out, plan.opset);
  out.irVersion = Math.max(out.irVersion, plan.irVersion);
  const resolve = new Resolver(out);
  const kept = plan.rest && keptValues(plan.rest, resolve);
  replaceConstants(bundle, resolve);
  insertMultipliers(bundle, resolve);
  const kernelShapes = kernelShapesOf(out);
  lowerWeights(bundle, resolve, options.simulateBlocks ?? false);
  lowerActivations(out, bundle, resolve, options.simulateBlocks ?? false);
  for (const [node, shape] of kernelShapes) if (!node.attrs.has("kernel_shape")) node.graph.setAttr(node, "kernel_shape", shape);
  sweep(out);
  for (const n of allNodes(out)) if (target.domains.includes(n.domain) && !out.opsets.has(n.domain)) out.opsets.set(n.domain, 1);
  legalize(out, target);
  sweep(out);
  if (plan.rest && kept) {
    (options.simulateRest ? simulateHalves : halve)(out, { to: plan.rest.to, keep: kept });
    sweep(out);
  }
  return out;
}

/**
 * The values that stay float32: those of the plan, whatever lowering renamed (the value itself) or put in their place (under the old name),
 * and what Q and DQ make of them.
 */
function keptValues(rest: Rest, resolve: Resolver): (v: Value) => boolean {
  const names = new Set(rest.keep.map((k) => k.value));
  const values = new Set(rest.keep.map((k) => resolve.value(k.value)));
  const kept = (v: Value): boolean => {
    const p = v.producer;
    const through = p && (p.op === "DequantizeLinear" || p.op === "QuantizeLinear" || p.domain === TRT_DOMAIN) ? p.inputs[0] : undefined;
    const rounded = p?.origin?.rule === SIMULATED && p.origin.from.some((name) => names.has(name));
    return values.has(v) || names.has(pathOf(v)) || rounded || (through !== undefined && kept(through));
  };
  return kept;
}

/** kernel_shape of convolutions whose weight is a constant now: TensorRT 8.6 cannot take it from a DequantizeLinear. */
function kernelShapesOf(model: Model): Map<Node, readonly number[]> {
  const out = new Map<Node, readonly number[]>();
  for (const n of allNodes(model)) {
    if (n.domain !== "" || (n.op !== "Conv" && n.op !== "ConvTranspose") || intsAttr(n, "kernel_shape")) continue;
    const shape = constantOf(n.inputs[1])?.shape;
    if (shape && shape.length > 2) out.set(n, shape.slice(2));
  }
  return out;
}
