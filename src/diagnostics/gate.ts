import { error, list, type Section, warning } from "./format.ts";

export const GATE = {
  "gate/baseline": (f: { readonly file: string; readonly detail: string }) =>
    error(
      `"${f.file}" is no baseline for this comparison: ${f.detail}`,
      "Make it anew: qc check MODEL --data SET --save-baseline FILE, or for qc bench its --save FILE.",
    ),
  "gate/busy": (f: { readonly share: number; readonly from: string }) =>
    warning(
      `The device was ${(100 * f.share).toFixed(0)} % busy while latency was taken (${f.from})`,
      "Others run there too, or the model fills it: times are those of a full device. Take them when it is idle, or lower --threads.",
    ),
  "gate/failed": (f: { readonly check: string; readonly severity: string; readonly note: string }) =>
    error(`${f.check} fails the gate (${f.severity}): ${f.note}`, "Look at the table; widen the limit in gate.yaml only for a reason."),
  "gate/inputs-differ": (f: {
    readonly label: string;
    readonly have: readonly string[];
    readonly reference: string;
    readonly want: readonly string[];
  }) =>
    error(
      `"${f.label}" takes ${list(f.have)}, and "${f.reference}" takes ${list(f.want)}: they are not two files of one model`,
      "Name two files with the same inputs. qc inspect FILE shows what one takes.",
    ),
  "gate/no-attack": (f: { readonly why: string }) =>
    error(
      `This model cannot be attacked through its gradients: ${f.why}`,
      "Leave --attack out; it needs a float model with a float32 input, and the reference itself, not a baseline.",
    ),
  "gate/other-machine": (f: { readonly file: string; readonly theirs: string; readonly ours: string }) =>
    error(
      `"${f.file}" was measured on another machine (${f.theirs}; this is ${f.ours})`,
      "Times compare only on one machine: measure both here.",
    ),
} as const satisfies Section;
