import { error, type Section } from "./format.ts";

export const EXPORT = {
  "export/illegal": (f: { readonly target: string; readonly rule: string; readonly node: string; readonly detail: string }) =>
    error(
      `"${f.node}" is not legal for ${f.target}: ${f.detail} (${f.rule})`,
      "Leave the node in float with --skip, or choose another target.",
    ),
} as const satisfies Section;
