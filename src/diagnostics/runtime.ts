import { error, list, type Section } from "./format.ts";

export const RUNTIME = {
  "runtime/load-failed": (f: { readonly label: string; readonly message: string; readonly node?: string; readonly op?: string }) =>
    error(
      `onnxruntime does not load "${f.label}"${place(f)}: ${f.message}`,
      "Check that the model runs in onnxruntime by itself; its message names the node.",
    ),
  "runtime/run-failed": (f: { readonly label: string; readonly message: string; readonly node?: string; readonly op?: string }) =>
    error(
      `onnxruntime cannot run "${f.label}"${place(f)}: ${f.message}`,
      "Check the shapes and values of the sample, and that the model runs in onnxruntime by itself.",
    ),
  "runtime/no-kernel": (f: { readonly label: string; readonly op: string; readonly node: string; readonly message: string }) =>
    error(
      `This onnxruntime has no kernel for "${f.op}" (node "${f.node}" of "${f.label}"): ${f.message}`,
      "Use an opset that this onnxruntime supports, or replace the operator.",
    ),
  "runtime/no-provider": (f: { readonly provider: string; readonly available: readonly string[]; readonly message: string }) =>
    error(
      `The provider "${f.provider}" does not start here: ${f.message}`,
      `This onnxruntime was built with ${list(f.available, 8)}; use --provider cpu, or install the provider's libraries and drivers.`,
    ),
  "runtime/unsupported-io": (f: { readonly label: string; readonly values: readonly string[]; readonly dtype: string }) =>
    error(
      `"${f.label}" has ${f.values.length > 0 ? `${list(f.values)} of type` : "an input or output of type"} ${f.dtype}, which cannot leave onnxruntime`,
      "Put a Cast behind it (to float32, or to int8/uint8 for 4-bit types) and make the cast value the output.",
    ),
  "runtime/bad-feed": (f: { readonly label: string; readonly input: string; readonly detail: string; readonly known: readonly string[] }) =>
    error(`Input "${f.input}" of "${f.label}": ${f.detail}`, `The model's inputs are ${f.known.join(", ") || "none"}.`),
  "runtime/no-output": (f: { readonly label: string; readonly output: string; readonly known: readonly string[] }) =>
    error(`"${f.label}" has no output "${f.output}"`, `Its outputs are ${list(f.known, 12)}.`),
  "runtime/cannot-expose": (f: { readonly values: readonly { readonly name: string; readonly why: string }[] }) =>
    error(
      `${f.values.length} values cannot become outputs: ${list(f.values.map((v) => `${v.name}: ${v.why}`))}`,
      "Leave them out of the list of values to observe.",
    ),
  "runtime/worker-died": (f: { readonly message: string }) =>
    error(`The thread that runs onnxruntime ended: ${f.message}`, "Give the process more memory (--memory), or fewer samples at a time."),
  "runtime/closed": (f: { readonly why: string }) => error(`The runtime was closed: ${f.why}`, "Run the command again."),
} as const satisfies Section;

function place(f: { readonly node?: string; readonly op?: string }): string {
  if (f.node === undefined) return "";
  return ` (node "${f.node}"${f.op === undefined ? "" : `, ${f.op}`})`;
}
