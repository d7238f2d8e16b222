import { error, type Section } from "./format.ts";

export const GRAD = {
  "grad/opset": (f: { readonly opset: number }) =>
    error(`Gradients need opset 18 or later, the graph has ${f.opset}`, "Convert the model first: preparing it raises the opset."),
  "grad/unknown-shape": (f: { readonly value: string; readonly node: string; readonly op: string }) =>
    error(
      `The gradient of ${f.op} "${f.node}" needs the shape of "${f.value}", which is not known`,
      "Give the graph's inputs fixed shapes, or add shapes to the model (value_info).",
    ),
} as const satisfies Section;
