import { CALIBRATE } from "./diagnostics/calibrate.ts";
import { CHECK } from "./diagnostics/check.ts";
import { CLI } from "./diagnostics/cli.ts";
import { COSTS } from "./diagnostics/costs.ts";
import { DATA } from "./diagnostics/data.ts";
import { EXPORT } from "./diagnostics/export.ts";
import { GATE } from "./diagnostics/gate.ts";
import { GRAD } from "./diagnostics/grad.ts";
import { GRAPH } from "./diagnostics/graph.ts";
import { IO } from "./diagnostics/io.ts";
import { PLAN } from "./diagnostics/plan.ts";
import { PREPARE } from "./diagnostics/prepare.ts";
import { QAT } from "./diagnostics/qat.ts";
import { RUNTIME } from "./diagnostics/runtime.ts";

/**
 * Everything qc can tell a user. The table turns facts into `text` (what is wrong, with every fact quoted) and `note` (what to do now);
 * the rest of the code passes facts.
 */
const TABLE = {
  ...GRAPH,
  ...IO,
  ...RUNTIME,
  ...DATA,
  ...PREPARE,
  ...GRAD,
  ...CALIBRATE,
  ...PLAN,
  ...COSTS,
  ...EXPORT,
  ...QAT,
  ...CHECK,
  ...GATE,
  ...CLI,
};

export type DiagnosticCode = keyof typeof TABLE;
/** A row may take no facts at all. */
type Facts<K extends DiagnosticCode> = Parameters<(typeof TABLE)[K]> extends readonly [infer F] ? F : unknown;
export type Diagnostic = { [K in DiagnosticCode]: { readonly code: K } & Facts<K> }[DiagnosticCode];

export interface Explained {
  readonly severity: "error" | "warning" | "info";
  readonly text: string;
  readonly note: string;
}

export function explain(d: Diagnostic): Explained {
  const row = TABLE[d.code] as (facts: Diagnostic) => Explained;
  return row(d);
}

/** A failure with one or more diagnostics, all collected before failing. `exitCode` 1 failed, 2 wrong usage. */
export class QcError extends Error {
  readonly diagnostics: readonly Diagnostic[];
  readonly exitCode: 1 | 2;
  constructor(diagnostics: Diagnostic | readonly Diagnostic[], options?: ErrorOptions & { readonly exitCode?: 1 | 2 }) {
    const all = Array.isArray(diagnostics) ? (diagnostics as readonly Diagnostic[]) : [diagnostics as Diagnostic];
    super(all.map((d) => `${explain(d).text}\n${explain(d).note}`).join("\n"), options);
    this.name = "QcError";
    this.diagnostics = all;
    this.exitCode = options?.exitCode ?? (all.every((d) => d.code.startsWith("cli/")) ? 2 : 1);
  }
}

/** Where warnings go: collected by the caller, printed by the CLI, listed in the report. */
export type Report = (d: Diagnostic) => void;
