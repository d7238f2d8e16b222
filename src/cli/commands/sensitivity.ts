import type { SENSITIVITY } from "../../options.ts";
import { sensitivity } from "../../sensitivity.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";
import { eventPrinter } from "../summary.ts";

export async function run(c: Context<typeof SENSITIVITY>): Promise<ExitCode> {
  const { memory: _, ...options } = c.options;
  const report = await sensitivity(c.args[0]!, { ...options, signal: c.signal, onEvent: eventPrinter(c.print) });
  c.print.end();
  c.print.document(report);
  c.print.out(
    `loss ${report.loss} with every layer in its best quantized scheme: ${report.start.toExponential(3)}, ${report.samples} samples`,
  );
  c.print.out(
    table(
      [
        ["layer", "op", "scheme", "added loss", "bytes saved"],
        ...report.rows.map((r) => [r.unit, r.op, r.scheme, r.added.toExponential(2), String(r.saves)]),
      ],
      [3, 4],
    ),
  );
  if (report.fisher)
    c.print.out(
      `gradient method: ${report.fisher.passes} backward passes, rank correlation ${report.fisher.rankCorrelation?.toFixed(2) ?? "unknown"} over ${report.fisher.rows.length} changes`,
    );
  for (const i of report.interactions ?? [])
    c.print.out(
      `${i.unit} ${i.scheme}: ${i.mean.toExponential(2)} ± ${i.se.toExponential(1)} among others, ${i.alone.toExponential(2)} alone`,
    );
  return 0;
}
