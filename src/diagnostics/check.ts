import { type Section, warning } from "./format.ts";

export const CHECK = {
  "check/too-few": (f: { readonly have: number; readonly need: number; readonly what: string }) =>
    warning(`${f.have} samples cannot show a change of ${f.what}; ${f.need} would`, "Give more held-out samples, or widen the gate."),
} as const satisfies Section;
