import { isFloatCodeDType } from "../quant/float8.ts";
import type { PlanBundle } from "./types.ts";

/**
 * The optimizer level at which a lowered plan is judged: onnxruntime's default, which a user gets who sets nothing. Its optimizer makes
 * QLinearConv of float8 Q/DQ and then refuses it, so that such files run as they are written.
 */
export function deployedLevel({ plan }: PlanBundle): "all" | "disabled" {
  return plan.sites.some((s) => isFloatCodeDType(s.scheme.dtype)) ? "disabled" : "all";
}
