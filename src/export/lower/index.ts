import { QcError } from "../../diagnostics.ts";
import { intsAttr } from "../../graph/attr.ts";
import { cloneModel } from "../../graph/clone.ts";
import { constantOf } from "../../graph/constant.ts";
import { type Model, type Node, opsetOf } from "../../graph/ir.ts";
import { allNodes } from "../../graph/walk.ts";
import { checkPlanAgainst } from "../../plan/check.ts";
import { Resolver } from "../../plan/resolve.ts";
import { printTarget, type Target } from "../../plan/target.ts";
import type { PlanBundle } from "../../plan/types.ts";
import { requireOpset } from "../../prepare/opset/index.ts";
import { legalize } from "../legalize.ts";
import { lowerActivations } from "./activations.ts";
import { insertMultipliers, replaceConstants } from "./replace.ts";
import { sweep } from "./sweep.ts";
import { lowerWeights } from "./weights.ts";

/**
 * A plan applied to the prepared graph. No policy: every number and every place comes from the plan; equal input gives an equal model.
 * The model is not changed; constants are shared. Total for a checked plan: what the check lets through is lowered.
 */
export function lower(model: Model, bundle: PlanBundle, target: Target): Model {
  const { plan } = bundle;
  if (plan.target !== printTarget(target)) throw new QcError({ code: "plan/wrong-target", want: plan.target, got: printTarget(target) });
  const faults = checkPlanAgainst(bundle, model, target);
  if (faults.length > 0) throw new QcError(faults);
  const out = cloneModel(model);
  if (plan.opset > (opsetOf(out) ?? 1)) requireOpset(out, plan.opset);
  out.irVersion = Math.max(out.irVersion, plan.irVersion);
  const resolve = new Resolver(out);
  replaceConstants(bundle, resolve);
  insertMultipliers(bundle, resolve);
  const kernelShapes = kernelShapesOf(out);
  lowerWeights(bundle, resolve);
  lowerActivations(out, bundle, resolve);
  for (const [node, shape] of kernelShapes) if (!node.attrs.has("kernel_shape")) node.graph.setAttr(node, "kernel_shape", shape);
  sweep(out);
  if (
    target.domains.includes("com.microsoft") &&
    [...allNodes(out)].some((n) => n.domain === "com.microsoft") &&
    !out.opsets.has("com.microsoft")
  )
    out.opsets.set("com.microsoft", 1);
  legalize(out, target);
  sweep(out);
  return out;
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
