import { error, type Section } from "./format.ts";

export const PREPARE = {
  "prepare/opset-too-old": (f: { readonly opset: number; readonly least: number }) =>
    error(`The model has opset ${f.opset}; the oldest that can be converted is ${f.least}`, "Export the model again with a newer opset."),
} as const satisfies Section;
