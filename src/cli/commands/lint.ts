import { QcError } from "../../diagnostics.ts";
import { LEVEL, type LintFinding, lintDocument, printSarif } from "../../export/lint/index.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import { writeAtomic } from "../../io/atomic.ts";
import { lint } from "../../lint.ts";
import type { LINT } from "../../options.ts";
import { checkOutputs } from "../../outputs.ts";
import { targetOf } from "../../plan/targets/index.ts";
import { VERSION } from "../../version.ts";
import { askBuilder, type BuilderAnswer, productsIn, type RunsIn } from "../builder.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";

export async function run(c: Context<typeof LINT>): Promise<ExitCode> {
  const path = c.args[0]!;
  const { target: spec, withBuilder, sarif } = c.options;
  const target = targetOf(spec);
  if (withBuilder && target.name !== "tensorrt") throw new QcError({ code: "cli/builder-target", target: spec }, { exitCode: 2 });
  if (sarif !== undefined) checkOutputs([sarif], [path]);
  const model = loadModel(path);
  const findings = lint(model, spec);
  const subject = { file: path, target: spec, tool: "qc", version: VERSION };
  const asked = withBuilder ? await askBuilder(path, target.arch, c.signal) : undefined;
  const products = asked?.taken ? productsIn(model, asked.kernels) : [];
  if (sarif !== undefined) writeAtomic(sarif, printSarif(findings, subject));
  const errors = findings.filter((f) => LEVEL[f.kind] === "error").length;
  const ok = errors === 0 && asked?.taken !== false;
  c.print.document({
    ok,
    ...lintDocument(findings, subject),
    ...(asked && { builder: { name: asked.builder, taken: asked.taken, errors: asked.errors, warnings: asked.warnings, products } }),
  });
  printFindings(c, findings);
  if (asked) printBuilder(c, asked, products);
  const slow = findings.length - errors;
  c.print.out(
    `${c.print.color.bold(spec)}: ${errors === 0 ? "no error" : plural(errors, "error")}, ${plural(slow, "place")} slower than need be`,
  );
  return ok ? 0 : 3;
}

const plural = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`;
/** Places of one rule that are shown; `--json` has all. */
const SHOWN = 5;

/** Each rule once, with its places and what to do. */
function printFindings(c: Context<typeof LINT>, findings: readonly LintFinding[]): void {
  const { color, out } = c.print;
  for (const rule of new Set(findings.map((f) => f.rule))) {
    const group = findings.filter((f) => f.rule === rule);
    const { kind, remedy } = group[0]!;
    const paint = LEVEL[kind] === "error" ? color.red : color.yellow;
    for (const f of group.slice(0, SHOWN))
      out(`${paint(`${rule} ${kind}`)}  ${[f.op, f.node].filter((s) => s !== "").join(" ")}  ${f.text}`);
    if (group.length > SHOWN) out(`  and ${group.length - SHOWN} more`);
    out(`  → ${remedy}`);
  }
}

function printBuilder(c: Context<typeof LINT>, b: BuilderAnswer, products: readonly RunsIn[]): void {
  const { color, out } = c.print;
  out(`${color.bold(b.builder)} ${b.taken ? "takes it" : color.red("refuses it")}`);
  for (const e of b.errors) out(`  ${color.red("refused")} ${[e.op, e.node].filter((s) => s !== "").join(" ")}  ${e.text}`);
  for (const w of b.warnings) out(`  ${color.yellow("warning")} ${w}`);
  if (products.length > 0) out(table(products.map((p) => [`  ${p.op}`, p.node, p.types ?? "no kernel of its own", p.kernel ?? ""])));
}
