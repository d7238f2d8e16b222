import { readStats } from "../../calibrate/index.ts";
import { openData } from "../../data/index.ts";
import { QcError } from "../../diagnostics.ts";
import type { REPORT } from "../../gate-options.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import { writeAtomic } from "../../io/atomic.ts";
import { fileNameOf, isFile } from "../../io/path.ts";
import { checkOutputs, htmlNameOf, readJson } from "../../outputs.ts";
import { pageOf } from "../../page.ts";
import { readPlan } from "../../plan/io.ts";
import { inputsOf } from "../../source.ts";
import type { VerifyReport } from "../../verify/types.ts";
import type { Context, ExitCode } from "../command.ts";
import { bytes } from "../print.ts";

export async function run(c: Context<typeof REPORT>): Promise<ExitCode> {
  const path = c.args[0]!;
  const { options } = c;
  const out = options.out ?? htmlNameOf(path);
  checkOutputs([out], [path, options.stats, options.model]);
  const report = readJson(path, "docs/report.schema.json", numberAgain) as VerifyReport;
  if (report?.schema !== "qc.report/1")
    throw new QcError({
      code: "data/config",
      file: path,
      line: undefined,
      at: "schema",
      detail: "is not qc.report/1: it is no report of qc quantize",
      page: "docs/report.schema.json",
    });
  const beside = path.replace(/\.report\.json$/, ".plan.json");
  const planFile = options.plan ?? (beside !== path && isFile(beside) ? beside : undefined);
  const data =
    options.data === undefined || options.model === undefined
      ? undefined
      : await openData(options.data, inputsOf(loadModel(options.model)), { seed: report.seed, report: c.print.diagnostic });
  const page = await pageOf({
    title: fileNameOf(path).replace(/(\.report)?\.json$/, ""),
    report,
    plan: planFile === undefined ? undefined : readPlan(planFile).plan,
    stats: options.stats === undefined ? undefined : readStats(options.stats),
    data,
  });
  writeAtomic(out, page);
  c.print.document({ ok: true, file: out, bytes: page.length });
  c.print.out(`${"wrote".padEnd(10)} ${out}   ${bytes(page.length)}`);
  return 0;
}

/** The report writes infinite numbers as strings. */
function numberAgain(_key: string, v: unknown): unknown {
  return v === "Infinity" ? Infinity : v === "-Infinity" ? -Infinity : v === "NaN" ? Number.NaN : v;
}
