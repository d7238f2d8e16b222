import type { PLAN } from "../../options.ts";
import { plan } from "../../partial.ts";
import type { Context, ExitCode } from "../command.ts";
import { eventPrinter } from "../summary.ts";

export async function run(c: Context<typeof PLAN>): Promise<ExitCode> {
  const { memory: _, ...options } = c.options;
  const { plan: bundle, files, coverage } = await plan(c.args[0]!, { ...options, signal: c.signal, onEvent: eventPrinter(c.print) });
  const { sites, skips, target, recipe, calibrator } = bundle.plan;
  c.print.document({ ok: true, files, target, recipe, calibrator, coverage, sites: sites.length, skips: skips.length });
  c.print.out(
    `${"plan".padEnd(10)} ${coverage.both + coverage.weightOnly} of ${coverage.products} products, ${sites.length} sites, ${skips.length} skips${calibrator === undefined ? "" : `, ${calibrator}`}`,
  );
  c.print.out(`${"wrote".padEnd(10)} ${files.join(", ")}`);
  return 0;
}
