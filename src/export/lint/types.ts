import type { Model, Node } from "../../graph/ir.ts";
import type { Target, TargetName } from "../../plan/target.ts";

/**
 *  reject   the target refuses the file, or fails while building or loading it
 *  meaning  it takes the file and computes something else than ONNX says
 *  slow     it takes the file and runs this place in float, or slower than it could
 */
export type LintKind = "reject" | "meaning" | "slow";

export interface LintFinding {
  /** Number of the rule: stable across versions. */
  readonly rule: string;
  readonly kind: LintKind;
  /** Path of the node; "" when the fault is the model's as a whole. */
  readonly node: string;
  readonly op: string;
  readonly text: string;
  readonly remedy: string;
}

/** What a rule found at one place. */
export interface Hit {
  readonly at: Node | undefined;
  readonly text: string;
}

/** A rule is a value: what it says, where it is known from, how to look. */
export interface LintRule {
  readonly id: string;
  readonly kind: LintKind;
  readonly targets: readonly TargetName[];
  readonly title: string;
  readonly remedy: string;
  readonly source: string;
  check(model: Model, target: Target): Iterable<Hit>;
}
