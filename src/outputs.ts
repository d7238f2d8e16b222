import { QcError } from "./diagnostics.ts";
import type { Model } from "./graph/ir.ts";
import { saveModel } from "./graph/onnx/index.ts";
import { writeAtomic } from "./io/atomic.ts";
import { readFile } from "./io/source.ts";
import { isSameFile, unwritableReason } from "./io/writable.ts";
import type { PlanBundle } from "./plan/types.ts";
import { writePlan } from "./plan/write.ts";
import type { VerifyReport } from "./verify/index.ts";

/** The files of one run. */
export interface OutputNames {
  readonly model: string;
  readonly plan: string;
  readonly report: string;
  /** The report as a page. */
  readonly html: string;
}

/** `net.onnx` and recipe `int8` give `net.int8.onnx`, `net.int8.plan.json`, `net.int8.report.json`. */
export function namesOf(
  source: string,
  recipe: string,
  o: { readonly out?: string | undefined; readonly plan?: string | undefined; readonly report?: string | undefined },
): OutputNames {
  const model = o.out ?? `${stemOf(source)}.${recipe}.onnx`;
  const stem = stemOf(model);
  const report = o.report ?? `${stem}.report.json`;
  return { model, plan: o.plan ?? `${stem}.plan.json`, report, html: htmlNameOf(report) };
}

export function htmlNameOf(report: string): string {
  return `${report.replace(/\.json$/i, "")}.html`;
}

export function stemOf(path: string): string {
  return path.replace(/\.onnx$/i, "");
}

/** Fails before any work when a file could not be written, or would replace what is read. */
export function checkOutputs(paths: readonly string[], inputs: readonly (string | undefined)[]): void {
  for (const path of paths) {
    for (const input of inputs)
      if (input !== undefined && isSameFile(path, input))
        throw new QcError({ code: "cli/would-overwrite", path, what: "an input of this run" });
    const reason = unwritableReason(path);
    if (reason !== undefined) throw new QcError({ code: "cli/unwritable", path, reason }, { exitCode: 1 });
  }
  const same = paths.find((p, i) => paths.slice(0, i).some((q) => isSameFile(p, q)));
  if (same !== undefined) throw new QcError({ code: "cli/would-overwrite", path: same, what: "another output of this run" });
}

/** JSON as it is kept: two spaces, a closing newline; numbers that JSON lacks as strings. */
export function jsonText(value: unknown): string {
  const plain = (_: string, v: unknown) => (typeof v === "bigint" || (typeof v === "number" && !Number.isFinite(v)) ? String(v) : v);
  return `${JSON.stringify(value, plain, 2)}\n`;
}

/** A JSON file of ours; whoever wrote another thing into it gets its place, not a bug report. */
export function readJson(file: string, page: string, revive?: (key: string, v: unknown) => unknown): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(readFile(file)), revive);
  } catch (e) {
    if (e instanceof QcError) throw e;
    throw new QcError(
      { code: "data/config", file, line: undefined, at: "", detail: `is no JSON (${(e as Error).message})`, page },
      { cause: e },
    );
  }
}

/** The model comes last: when it is there, what explains it is there as well. */
export function writeOutputs(names: OutputNames, model: Model, bundle: PlanBundle, report: VerifyReport, page: string): readonly string[] {
  const plan = writePlan(bundle, names.plan);
  writeAtomic(names.report, jsonText(report));
  writeAtomic(names.html, page);
  saveModel(model, names.model);
  return [names.model, ...plan.reverse(), names.report, names.html];
}
