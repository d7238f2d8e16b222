import type { CALIBRATE } from "../../options.ts";
import { calibrate } from "../../partial.ts";
import type { Context, ExitCode } from "../command.ts";
import { eventPrinter } from "../summary.ts";

export async function run(c: Context<typeof CALIBRATE>): Promise<ExitCode> {
  const { memory: _, ...options } = c.options;
  const { stats, file } = await calibrate(c.args[0]!, { ...options, signal: c.signal, onEvent: eventPrinter(c.print) });
  c.print.document({ ok: true, file, samples: stats.samples, values: stats.values.size, model: stats.model, prepare: stats.prepare });
  c.print.out(`${"wrote".padEnd(10)} ${file}   ${stats.values.size} values over ${stats.samples} samples`);
  return 0;
}
