import { QcError } from "../../diagnostics.ts";
import { qatInsert } from "../../finetune.ts";
import { fileNameOf } from "../../io/path.ts";
import type { QAT_INSERT } from "../../options.ts";
import type { Context, ExitCode } from "../command.ts";
import { eventPrinter } from "../summary.ts";

export async function run(c: Context<typeof QAT_INSERT>): Promise<ExitCode> {
  const { plan, ...options } = c.options;
  if (plan === undefined)
    throw new QcError({ code: "cli/needs-option", command: "qat insert", flag: "--plan", why: "it says what is fake-quantized, and how" });
  const { files, list } = await qatInsert(c.args[0]!, { ...options, plan, signal: c.signal, onEvent: eventPrinter(c.print) });
  c.print.document({ ok: true, files: files.map(fileNameOf), list });
  c.print.out(
    `${"insert".padEnd(10)} ${list.weights.length} weights, ${list.activations.length} activation scales, ${list.biases.length} biases can be trained`,
  );
  c.print.out(`${"wrote".padEnd(10)} ${files.join(", ")}`);
  return 0;
}
