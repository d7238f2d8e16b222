import { error, type Section } from "./format.ts";

export const CLI = {
  "cli/unknown-value": (f: {
    readonly flag: string;
    readonly got: string;
    readonly allowed: readonly string[];
    readonly nearest?: string;
  }) =>
    error(
      `Invalid value "${f.got}" for ${f.flag}`,
      f.nearest === undefined ? `Use one of: ${f.allowed.join(", ")}.` : `Did you mean "${f.nearest}"?`,
    ),
} as const satisfies Section;
