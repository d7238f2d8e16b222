import { mergeStats, readStats, writeStats } from "../../calibrate/index.ts";
import { QcError } from "../../diagnostics.ts";
import type { OUT } from "../../options.ts";
import { checkOutputs } from "../../outputs.ts";
import type { Context, ExitCode } from "../command.ts";

export async function run(c: Context<typeof OUT>): Promise<ExitCode> {
  const { out } = c.options;
  if (out === undefined)
    throw new QcError({ code: "cli/needs-option", command: "stats merge", flag: "-o FILE", why: "the parts stay as they are" });
  checkOutputs([out], c.args);
  const stats = mergeStats(c.args.map(readStats));
  writeStats(stats, out);
  c.print.document({ ok: true, file: out, samples: stats.samples, values: stats.values.size });
  c.print.out(`${"wrote".padEnd(10)} ${out}   ${stats.samples} samples from ${c.args.length} files`);
  return 0;
}
