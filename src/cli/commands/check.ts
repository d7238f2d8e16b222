import { check } from "../../check.ts";
import type { CHECK } from "../../gate-options.ts";
import { writeAtomic } from "../../io/atomic.ts";
import { fileNameOf } from "../../io/path.ts";
import { HEADINGS, rowOf } from "../../verify/gate/format.ts";
import { formatGithub, formatJunit, formatMarkdown } from "../../verify/gate/index.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";
import { eventPrinter } from "../summary.ts";

export async function run(c: Context<typeof CHECK>): Promise<ExitCode> {
  const { print } = c;
  const { memory: _, junit, markdown, github, ...options } = c.options;
  const result = await check(c.args, { ...options, signal: c.signal, onEvent: eventPrinter(print) });
  print.end();
  const { baseline, gate: _gate, ...facts } = result;
  if (baseline !== undefined) {
    print.document({ ok: true, file: options.saveBaseline, baseline });
    print.out(`wrote      ${options.saveBaseline}   ${baseline.data?.n ?? 0} samples`);
    return 0;
  }
  const names = { reference: result.reference.name, candidate: result.candidate.name };
  if (junit !== undefined) writeAtomic(junit, formatJunit(`${names.candidate} against ${names.reference}`, result));
  if (markdown !== undefined) writeAtomic(markdown, formatMarkdown(result, names));
  print.document(facts);
  print.out(table([HEADINGS, ...result.findings.map(rowOf)], [3, 4, 5, 6]));
  if (github) print.out(formatGithub(result, fileNameOf(c.args.at(-1)!)).trimEnd());
  for (const f of result.failed) print.diagnostic({ code: "gate/failed", check: f.check, severity: f.severity, note: f.note });
  const open = result.findings.filter((f) => f.outcome === "skipped" && f.severity !== "P2").map((f) => f.check);
  const judged = open.length === 0 ? "" : `   (not judged: ${open.join(", ")})`;
  print.out(`${"verdict".padEnd(10)} ${result.ok ? "passes" : "fails"}: ${names.candidate} against ${names.reference}${judged}`);
  return result.ok ? 0 : 3;
}
