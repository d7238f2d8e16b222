import { QcError } from "../../diagnostics.ts";
import { explain, namesIn } from "../../explain.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import { nearest } from "../../options.ts";
import { stemOf } from "../../outputs.ts";
import { readPlan } from "../../plan/io.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";

export async function run(c: Context<Record<never, never>>): Promise<ExitCode> {
  const [path, pattern] = c.args;
  const bundle = readPlan(planPath(path!));
  const e = explain(bundle, pattern);
  if (pattern !== undefined && e.sites.length + e.skips.length + e.replacements.length === 0)
    throw new QcError({ code: "cli/no-such-node", got: pattern, nearest: nearest(pattern, namesIn(bundle.plan)) }, { exitCode: 1 });
  c.print.document({ ok: true, ...e });
  if (pattern === undefined) {
    const { plan } = bundle;
    c.print.out(
      table([
        ["target", plan.target],
        ["recipe", plan.recipe],
        ["calibrator", plan.calibrator ?? "none"],
        ["opset", String(plan.opset)],
        ["seed", String(plan.seed)],
      ]),
    );
  }
  for (const s of e.sites) {
    c.print.out(`\n${c.print.color.bold(s.value)}  ${s.kind}`);
    const rows = [
      ["scheme", s.scheme],
      ["parameters", s.parameters],
      ...(s.range === undefined ? [] : [["range", s.range]]),
      ["read by", s.read],
      ["because", s.because],
    ];
    c.print.out(indent(table(rows)));
  }
  if (e.skips.length > 0)
    c.print.out(
      `\n${c.print.color.bold("stay float")}\n${indent(table(e.skips.map((s) => [s.node, s.op, s.code, s.detail === "" ? s.reason : s.detail])))}`,
    );
  if (e.replacements.length > 0)
    c.print.out(`\n${c.print.color.bold("replaced constants")}\n${indent(table(e.replacements.map((r) => [r.value, r.because])))}`);
  if (e.steps.length > 0)
    c.print.out(
      `\n${c.print.color.bold("steps")}\n${indent(table(e.steps.map((s) => [s.step, `${s.before.toFixed(2)} → ${s.after.toFixed(2)} ${s.unit}`, s.kept ? "kept" : "rolled back", s.detail ?? ""])))}`,
    );
  return 0;
}

const indent = (text: string) => text.replace(/^/gm, "  ");

/** A model stands for the plan beside it; its metadata tell whether it has one. */
function planPath(path: string): string {
  if (!/\.onnx$/i.test(path)) return path;
  const made = loadModel(path).metadata.some(([k]) => k === "qc.plan");
  if (!made)
    throw new QcError(
      { code: "cli/not-built", what: `"${path}" was not made by qc`, missing: `${stemOf(path)}.plan.json` },
      { exitCode: 1 },
    );
  return `${stemOf(path)}.plan.json`;
}
