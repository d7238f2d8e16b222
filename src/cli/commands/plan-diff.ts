import { diffPlans } from "../../plan/diff.ts";
import { readPlan } from "../../plan/io.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";

const SIGN = { added: "+", removed: "−", changed: "~" } as const;

export async function run(c: Context<Record<never, never>>): Promise<ExitCode> {
  const [a, b] = [readPlan(c.args[0]!), readPlan(c.args[1]!)];
  const differences = diffPlans(a, b);
  c.print.document({ ok: true, equal: differences.length === 0, differences });
  c.print.out(differences.length === 0 ? "The plans say the same." : table(differences.map((d) => [SIGN[d.kind], d.what, d.at, d.detail])));
  return 0;
}
