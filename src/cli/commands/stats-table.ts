import { calibratorOf, chooseRange, readStats } from "../../calibrate/index.ts";
import { writeTable } from "../../calibrate/tables.ts";
import { QcError } from "../../diagnostics.ts";
import type { STATS_TABLE } from "../../options.ts";
import { checkOutputs } from "../../outputs.ts";
import type { Context, ExitCode } from "../command.ts";

/** Codes of a symmetric 8-bit range, which is what such tables are for. */
const LEVELS = 256;

export async function run(c: Context<typeof STATS_TABLE>): Promise<ExitCode> {
  const { calibrator: spec, out } = c.options;
  if (out === undefined) throw new QcError({ code: "cli/needs-option", command: "stats table", flag: "-o FILE", why: "it writes a file" });
  checkOutputs([out], c.args);
  const calibrator = calibratorOf(spec);
  if (calibrator === undefined)
    throw new QcError({ code: "cli/bad-value", flag: "--calibrator", got: spec, want: "minmax, percentile, entropy or mse" });
  const stats = readStats(c.args[0]!);
  const seen = [...stats.values.values()].filter((v) => v.count > 0 && v.inf === 0);
  const ranges = new Map(
    seen.map((v) => {
      const { min, max } = chooseRange(v, calibrator, { levels: LEVELS, symmetric: true, output: false });
      return [v.name, { min, max }];
    }),
  );
  const format = writeTable(ranges, out);
  c.print.document({ ok: true, file: out, format, values: ranges.size });
  c.print.out(`${"wrote".padEnd(10)} ${out}   ${ranges.size} values, ${format}`);
  return 0;
}
