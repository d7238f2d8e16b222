import { quantize } from "../../compile.ts";
import { forecast } from "../../forecast.ts";
import { fileNameOf } from "../../io/path.ts";
import type { QUANTIZE } from "../../options.ts";
import { peakMemoryBytes } from "../../runtime/machine.ts";
import type { Context, ExitCode } from "../command.ts";
import { bytes, duration, table } from "../print.ts";
import { eventPrinter, reportLines } from "../summary.ts";

export async function run(c: Context<typeof QUANTIZE>): Promise<ExitCode> {
  const { print } = c;
  const source = c.args[0]!;
  const { dryRun, memory: _, ...options } = c.options;
  const given = { ...options, signal: c.signal, onEvent: eventPrinter(print) };
  if (dryRun) {
    const f = await forecast(source, given);
    print.document({ ok: true, ...f });
    print.out(
      table([
        ["target", f.target, f.recipe],
        ["products", `${f.products.both + f.products.weightOnly} of ${f.products.products}`, `${f.products.both} on both sides`],
        ["sites", `${f.sites.weight + f.sites.activation}`, `${f.sites.weight} weights, ${f.sites.activation} activations`],
        ["bytes", `${bytes(f.bytes.before)} → about ${bytes(f.bytes.after)}`, ""],
        ["time", `about ${duration(f.seconds.total)}`, f.seconds.stages.map((s) => `${s.stage} ${duration(s.seconds)}`).join(" · ")],
        ...Object.entries(f.skips).map(([code, n], i) => [i === 0 ? "stay float" : "", `${n}`, code]),
      ]),
    );
    return 0;
  }
  const start = performance.now();
  const result = await quantize(source, given);
  const { report, files, missed } = result;
  for (const m of missed) print.diagnostic({ code: "check/below-budget", ...m });
  print.document({ ok: missed.length === 0, files: files.map(fileNameOf), missed, report });
  for (const line of reportLines(report)) print.out(line);
  print.out(`${"wrote".padEnd(10)} ${files[0]}   ${bytes(report.bytes.before)} → ${bytes(report.bytes.after)}`);
  print.talk(
    `${"".padEnd(10)} ${files.slice(1).join(", ")}   ${duration((performance.now() - start) / 1000)}, ${bytes(peakMemoryBytes())}`,
  );
  return missed.length > 0 ? 3 : 0;
}
