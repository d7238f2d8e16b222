import type { Model } from "../../graph/ir.ts";
import { pathOfNode } from "../../graph/walk.ts";
import type { Target } from "../../plan/target.ts";
import { LINT_RULES } from "./rules.ts";
import type { LintFinding } from "./types.ts";

export { LEVEL, type LintSubject, lintDocument, printLintJson, printSarif } from "./print.ts";
export { LINT_RULES } from "./rules.ts";
export type { LintFinding, LintKind, LintRule } from "./types.ts";

/**
 * What a target will reject, compute otherwise than ONNX says, or run slowly. Takes any ONNX file. No finding of kind `reject` means:
 * as far as these rules go, the target takes it. Findings come in the order of the rules, then of the nodes.
 */
export function lintModel(model: Model, target: Target): LintFinding[] {
  const out: LintFinding[] = [];
  for (const r of LINT_RULES) {
    if (!r.targets.includes(target.name)) continue;
    for (const hit of r.check(model, target))
      out.push({
        rule: r.id,
        kind: r.kind,
        node: hit.at ? pathOfNode(hit.at) : "",
        op: hit.at?.op ?? "",
        text: `${r.title}: ${hit.text}`,
        remedy: r.remedy,
      });
  }
  return out;
}
