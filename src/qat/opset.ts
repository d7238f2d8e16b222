import { cloneModel } from "../graph/clone.ts";
import type { Model } from "../graph/ir.ts";
import { requireOpset } from "../prepare/opset/index.ts";

/** Gradients are written for this opset. */
export const TRAIN_OPSET = 18;

/** A copy at the opset of the gradients or above, meaning the same, with the same names: the plan's model keeps its own. */
export function raisedForTraining(model: Model): Model {
  const copy = cloneModel(model);
  if ((copy.opsets.get("") ?? 1) < TRAIN_OPSET) requireOpset(copy, TRAIN_OPSET);
  return copy;
}
