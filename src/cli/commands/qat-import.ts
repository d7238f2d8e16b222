import { QcError } from "../../diagnostics.ts";
import { qatImport } from "../../finetune.ts";
import { fileNameOf } from "../../io/path.ts";
import type { QAT_IMPORT } from "../../options.ts";
import type { Context, ExitCode } from "../command.ts";

export async function run(c: Context<typeof QAT_IMPORT>): Promise<ExitCode> {
  const { plan, list, ...options } = c.options;
  for (const [flag, value] of [
    ["--plan", plan],
    ["--list", list],
  ] as const)
    if (value === undefined)
      throw new QcError({ code: "cli/needs-option", command: "qat import", flag, why: "the trained file alone does not say what is what" });
  const { files, plan: bundle } = await qatImport(c.args[0]!, { ...options, plan: plan!, list: list!, signal: c.signal });
  const learned = bundle.plan.sites.filter((s) => s.kind === "weight" && s.codes).length;
  c.print.document({ ok: true, files: files.map(fileNameOf), sites: bundle.plan.sites.length, learned });
  c.print.out(`${"import".padEnd(10)} ${learned} weights as codes, ${bundle.plan.sites.length} sites`);
  c.print.out(`${"wrote".padEnd(10)} ${files.join(", ")}`);
  return 0;
}
