import { error, type Section } from "./format.ts";

export const GATE = {
  "gate/baseline": (f: { readonly file: string; readonly detail: string }) =>
    error(
      `"${f.file}" is no baseline for this comparison: ${f.detail}`,
      "Make it anew with qc check MODEL --data SET --save-baseline FILE.",
    ),
  "gate/failed": (f: { readonly check: string; readonly severity: string; readonly note: string }) =>
    error(`${f.check} fails the gate (${f.severity}): ${f.note}`, "Look at the table; widen the limit in gate.yaml only for a reason."),
  "gate/other-machine": (f: { readonly file: string; readonly theirs: string; readonly ours: string }) =>
    error(
      `"${f.file}" was measured on another machine (${f.theirs}; this is ${f.ours})`,
      "Times compare only on one machine: measure both here.",
    ),
} as const satisfies Section;
