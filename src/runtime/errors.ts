import type { Diagnostic } from "../diagnostics.ts";

/** `Non-zero status code returned while running Gather node. Name:'gather_11' Status Message: …` */
const RUN = /while running (\S+) node\. Name:'([^']*)' Status Message: ([\s\S]*)/;
/** Each names an operator that has no kernel, and the node where it can. */
const NO_KERNEL = [
  /Could not find an implementation for (?<op>\S+?)\(\d+\) node with name '(?<node>[^']*)'/,
  /In Node, \("(?<node>[^"]*)".*Error No Op registered for (?<op>\S+) /,
  /Fatal error: (?<op>\S+?)\(-?\d+\) is not a registered function\/op/,
];
/** Each names the node that an error is about, and its operator where it can. */
const AT_NODE = [
  /In Node, \("(?<node>[^"]*)", (?<op>\w+),.*?, Error (?<message>.*)/,
  /Node \((?<node>[^)]*)\) Op \((?<op>[^)]*)\) (?<message>.*)/,
  /operator \((?<op>\w+)\) in node \((?<node>[^)]*)\)/,
  /(?:Error Node ?\(|Node:|node name: ?)"?(?<node>[^)"\s,]+)/,
];

/** onnxruntime's message on loading, as a diagnostic. */
export function loadDiagnostic(label: string, raw: string): Diagnostic {
  const message = clean(raw);
  for (const pattern of NO_KERNEL) {
    const found = pattern.exec(message)?.groups;
    if (found) return { code: "runtime/no-kernel", label, op: found["op"]!, node: found["node"] ?? "", message };
  }
  for (const pattern of AT_NODE) {
    const found = pattern.exec(message)?.groups;
    if (!found) continue;
    const op = found["op"];
    return {
      code: "runtime/load-failed",
      label,
      node: found["node"]!,
      ...(op === undefined ? {} : { op }),
      message: found["message"] ?? message,
    };
  }
  return { code: "runtime/load-failed", label, message };
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
    .replace(/\/onnxruntime_src\/\S+:\d+ .*?\)(?:::<lambda\(\)>)? (?=[\w[])/g, "")
    .replace(/^Load model from .*? failed: ?/s, "")
    .replace(/\s+/g, " ")
    .trim();
}
