import { type LintFinding, lintModel } from "./export/lint/index.ts";
import type { Model } from "./graph/ir.ts";
import { targetOf } from "./plan/targets/index.ts";

export type { LintFinding } from "./export/lint/index.ts";

/** What `target` (`tensorrt@10:sm89`) will reject, compute otherwise than ONNX says, or run slowly. Any ONNX model; runs nothing. */
export function lint(model: Model, target: string): readonly LintFinding[] {
  return lintModel(model, targetOf(target));
}
