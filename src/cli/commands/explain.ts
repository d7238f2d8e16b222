import { QcError } from "../../diagnostics.ts";
import { explain, namesIn } from "../../explain.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import { nearest } from "../../options.ts";
import { stemOf } from "../../outputs.ts";
import { readPlan } from "../../plan/io.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";
import { signed } from "../summary.ts";

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
  if (e.gains.length > 0) {
    const sorted = [...e.gains].sort((a, b) => b.gainDb - a.gainDb);
    const rows = sorted.slice(0, pattern === undefined ? MOST_ROWS : sorted.length);
    c.print.out(
      `\n${c.print.color.bold("noise of each layer taken away")}\n${indent(table(rows.map((g) => [g.at, g.step, `${signed(g.gainDb)} dB`])))}`,
    );
    more(c, sorted.length - rows.length);
  }
  if (e.reverts.length > 0) {
    const rows = e.reverts.slice(0, pattern === undefined ? MOST_ROWS : e.reverts.length);
    c.print.out(
      `\n${c.print.color.bold("would gain")}\n${indent(table(rows.map((r) => [r.node, WITH[r.to], `${signed(r.gainDb, 2)} dB`, `${r.costBytes} bytes`])))}`,
    );
    more(c, e.reverts.length - rows.length);
  }
  return 0;
}

/** Rows of a ranking when no node was asked for. */
const MOST_ROWS = 12;
const WITH = { a16: "a 16-bit input", w8: "8-bit weights", float: "float" } as const;

function more(c: Context<Record<never, never>>, n: number): void {
  if (n > 0) c.print.out(`  … and ${n} more: qc explain PLAN NODE`);
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
