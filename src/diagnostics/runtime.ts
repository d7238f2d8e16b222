import { error, type Section } from "./format.ts";

export const RUNTIME = {
  "runtime/load-failed": (f: { readonly label: string; readonly message: string }) =>
    error(
      `onnxruntime does not load "${f.label}": ${f.message}`,
      "Check that the model runs in onnxruntime by itself; its message names the node.",
    ),
} as const satisfies Section;
