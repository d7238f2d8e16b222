import { error, info, list, plural, type Section } from "./format.ts";

export const PREPARE = {
  "prepare/opset-too-old": (f: { readonly opset: number; readonly least: number }) =>
    error(`The model has opset ${f.opset}; the oldest that can be converted is ${f.least}`, "Export the model again with a newer opset."),
  "prepare/opset-refused": (f: {
    readonly from: number;
    readonly to: number;
    readonly nodes: readonly { readonly node: string; readonly why: string }[];
  }) =>
    error(
      `The model cannot go from opset ${f.from} to ${f.to}: ${list(f.nodes.map((n) => `${n.node}: ${n.why}`))}`,
      "Export the model again with a newer opset, or choose a target that takes its opset.",
    ),
  "prepare/default-inputs": (f: { readonly inputs: readonly string[]; readonly left: readonly string[] }) =>
    info(
      `${plural(f.inputs.length, "graph input")} with a value of its own became a constant: ${list(f.inputs)}`,
      `The inputs of the result are ${list(f.left, 8)}; feeding other weights is no longer possible.`,
    ),
} as const satisfies Section;
