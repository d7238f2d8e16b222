import { error, type Section } from "./format.ts";

export const GRAPH = {
  "graph/invalid": (f: { readonly constraint: string; readonly at: string; readonly detail: string }) =>
    error(
      `Invalid graph at "${f.at}": ${f.detail} (${f.constraint})`,
      "Check the model with the tool that exported it, or export it again.",
    ),
} as const satisfies Section;
