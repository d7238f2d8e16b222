import { QcError } from "../../diagnostics.ts";
import type { APPLY } from "../../options.ts";
import { apply } from "../../partial.ts";
import type { Context, ExitCode } from "../command.ts";
import { eventPrinter } from "../summary.ts";

export async function run(c: Context<typeof APPLY>): Promise<ExitCode> {
  const { plan, out } = c.options;
  if (plan === undefined)
    throw new QcError({ code: "cli/needs-option", command: "apply", flag: "--plan FILE", why: "it takes no decision of its own" });
  const { file } = await apply(c.args[0]!, {
    plan,
    ...(out === undefined ? {} : { out }),
    signal: c.signal,
    onEvent: eventPrinter(c.print),
  });
  c.print.document({ ok: true, file });
  c.print.out(`${"wrote".padEnd(10)} ${file}`);
  return 0;
}
