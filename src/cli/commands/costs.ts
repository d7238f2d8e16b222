import { costs } from "../../costs.ts";
import type { COSTS } from "../../options.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";
import { eventPrinter } from "../summary.ts";

/** Nodes that the summary names. */
const NAMED = 12;

export async function run(c: Context<typeof COSTS>): Promise<ExitCode> {
  const { print } = c;
  const { memory: _, ...options } = c.options;
  const t = await costs(c.args[0]!, { ...options, signal: c.signal, onEvent: eventPrinter(print) });
  print.end();
  print.document(t);
  const schemes = [...new Set(t.nodes.flatMap((r) => Object.keys(r.us)))].filter((s) => s !== "codes").sort();
  const us = (x: number | undefined) => (x === undefined ? "" : x.toFixed(1));
  const best = (r: (typeof t.nodes)[number]) => Math.min(...Object.entries(r.us).flatMap(([s, x]) => (s === "float" ? [] : [x])));
  const gain = (r: (typeof t.nodes)[number]) => (r.us["float"] ?? 0) - best(r);
  const rows = t.nodes.filter((r) => Object.keys(r.us).length > 1).sort((a, b) => Math.abs(gain(b)) - Math.abs(gain(a)));
  print.out(
    table(
      [
        ["node", "op", ...schemes.map((s) => `${s} µs`), "codes µs", "to codes", "to float"],
        ...rows
          .slice(0, NAMED)
          .map((r) => [r.node, r.op, ...schemes.map((s) => us(r.us[s])), us(r.us["codes"]), us(r.toCodes), us(r.toFloat)]),
      ],
      Array.from({ length: schemes.length + 3 }, (_x, i) => i + 2),
    ),
  );
  if (rows.length > NAMED) print.out(`and ${rows.length - NAMED} more nodes with a choice`);
  const errors = t.checks.map((k) => k.predictedUs / k.measuredUs - 1);
  for (const k of t.checks.filter((x) => !x.graph.startsWith("mixture")))
    print.out(`${k.graph.padEnd(10)} ${(k.measuredUs / 1000).toFixed(3)} ms, by the table ${(k.predictedUs / 1000).toFixed(3)} ms`);
  if (errors.length > 0)
    print.out(
      `whole runs by the table: off by ${(100 * Math.sqrt(errors.reduce((s, e) => s + e * e, 0) / errors.length)).toFixed(1)} % (root mean square of ${errors.length} graphs)`,
    );
  if (options.out !== undefined) print.out(`${"wrote".padEnd(10)} ${options.out}`);
  return 0;
}
