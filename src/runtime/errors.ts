import type { Diagnostic } from "../diagnostics.ts";

/** `Non-zero status code returned while running Gather node. Name:'gather_11' Status Message: …` */
const RUN = /while running (\S+) node\. Name:'([^']*)' Status Message: ([\s\S]*)/;
/** `Could not find an implementation for Foo(7) node with name 'x'` */
const KERNEL = /Could not find an implementation for (\S+?)\(\d+\) node with name '([^']*)'/;
/** `Fatal error: com.acme:Foo(-1) is not a registered function/op` */
const UNKNOWN_OP = /Fatal error: (\S+?)\(-?\d+\) is not a registered function\/op/;
/** `Node (conv1) Op (Conv) [ShapeInferenceError] …`, `Node:conv1 Output:…`, `Error Node(conv1) with schema(::Conv:1)` */
const NODE_OP = /Node \(([^)]*)\) Op \(([^)]*)\) ([\s\S]*)/;
const NODE = /(?:Error Node ?\(|In Node, \(|Node:|node name: ?)"?([^)"\s,]+)/;

/** onnxruntime's message on loading, as a diagnostic. */
export function loadDiagnostic(label: string, raw: string): Diagnostic {
  const message = clean(raw);
  const kernel = KERNEL.exec(message);
  if (kernel) return { code: "runtime/no-kernel", label, op: kernel[1]!, node: kernel[2]!, message };
  const unknown = UNKNOWN_OP.exec(message);
  if (unknown) return { code: "runtime/no-kernel", label, op: unknown[1]!, node: NODE.exec(message)?.[1] ?? "", message };
  const at = NODE_OP.exec(message);
  if (at) return { code: "runtime/load-failed", label, node: at[1]!, op: at[2]!, message: at[3]! };
  const node = NODE.exec(message)?.[1];
  return node === undefined ? { code: "runtime/load-failed", label, message } : { code: "runtime/load-failed", label, node, message };
}

/** onnxruntime's message on running, as a diagnostic. */
export function runDiagnostic(label: string, raw: string): Diagnostic {
  const message = clean(raw);
  const at = RUN.exec(message);
  if (at) return { code: "runtime/run-failed", label, op: at[1]!, node: at[2]!, message: at[3]!.trim() };
  return { code: "runtime/run-failed", label, message };
}

/** Without the build machine's source paths, signatures and status prefix. */
export function clean(message: string): string {
  return message
    .replace(/\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : /g, "")
    .replace(/\/onnxruntime_src\/\S+:\d+ .*? (?=[A-Z\w.:]+ (?:==|!=|was|<|>)|Failed|\[)/g, "")
    .replace(/^Load model from .*? failed: ?/s, "")
    .replace(/\s+/g, " ")
    .trim();
}
