import { error, list, type Section } from "./format.ts";

export const QAT = {
  "qat/no-path": (f: { readonly nodes: readonly string[] }) =>
    error(
      `No gradient reaches a weight: the way is blocked at ${list(f.nodes)}`,
      "See docs/ops.md for the operators that are differentiated.",
    ),
} as const satisfies Section;
