import { build } from "../../build.ts";
import { QcError } from "../../diagnostics.ts";
import type { BUILD } from "../../gate-options.ts";
import type { Context, ExitCode } from "../command.ts";
import { duration } from "../print.ts";

export async function run(c: Context<typeof BUILD>): Promise<ExitCode> {
  const { print } = c;
  if (c.options.preset !== undefined && c.args[0] === undefined)
    throw new QcError(
      { code: "cli/missing-argument", name: "a model or a folder of models beside --preset", command: "build" },
      { exitCode: 2 },
    );
  const file = c.args[0] ?? "qc.yaml";
  const result = await build(file, {
    ...c.options,
    signal: c.signal,
    onEvent: (e) => {
      if (e.kind === "diagnostic") print.diagnostic(e.diagnostic);
    },
    onArtifact: (a) => {
      print.out(`${a.state.padEnd(10)} ${a.name}${a.seconds >= 0.05 ? `   ${duration(a.seconds)}` : ""}`);
      for (const m of a.missed) print.diagnostic({ code: "check/below-budget", ...m });
      for (const g of a.gate) print.out(`           below the gate: ${g}`);
    },
  });
  print.document(result);
  if (c.options.check) print.out(result.ok ? "up to date" : "stale: run qc build");
  else print.out(`wrote      ${result.lock}   ${result.calibrations.run} calibrations run, ${result.calibrations.reused} reused`);
  return result.ok ? 0 : 3;
}
