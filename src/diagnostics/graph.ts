import { error, list, type Section } from "./format.ts";

export const GRAPH = {
  "graph/invalid": (f: { readonly constraint: string; readonly at: string; readonly detail: string }) =>
    error(
      `Invalid graph at "${f.at}": ${f.detail} (${f.constraint})`,
      "Check the model with the tool that exported it, or export it again.",
    ),
  "graph/unknown-value": (f: { readonly graph: string; readonly values: readonly { readonly value: string; readonly by: string }[] }) =>
    error(
      `Graph "${f.graph}" uses values that nothing makes: ${list(f.values.map((v) => `${v.value} (by ${v.by})`))}`,
      "The file is incomplete, or was cut from a larger graph; export it again.",
    ),
  "graph/duplicate-name": (f: { readonly graph: string; readonly names: readonly string[] }) =>
    error(`Graph "${f.graph}" makes values twice: ${list(f.names)}`, "Each name may have one producer; export the model again."),
  "graph/cycle": (f: { readonly graph: string; readonly nodes: readonly string[] }) =>
    error(`Graph "${f.graph}" has a cycle through ${list(f.nodes)}`, "A node cannot depend on its own output; export the model again."),
  "graph/unsupported-type": (f: { readonly at: string; readonly what: string }) =>
    error(`${f.what} at ${f.at} is not known here`, "Convert the model to a type that ONNX 1.20 (IR 13) has."),
} as const satisfies Section;
