import { calibratorOf, readStats } from "../../calibrate/index.ts";
import type { ValueStats } from "../../calibrate/types.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";

/** Of each value: what was seen, and how much of it each calibrator keeps for 8 unsigned bits. */
const SHOWN = ["percentile=99.999", "mse", "entropy"] as const;

export async function run(c: Context<Record<never, never>>): Promise<ExitCode> {
  const stats = readStats(c.args[0]!);
  const values = [...stats.values.values()];
  const kept = (v: ValueStats) =>
    v.hist === undefined || v.count === 0
      ? {}
      : Object.fromEntries(
          SHOWN.map((spec) => {
            const r = calibratorOf(spec)!.choose(v, { levels: 256, symmetric: false });
            const full = Math.max(v.max, 0) - Math.min(v.min, 0);
            return [spec, full > 0 ? (r.max - r.min) / full : 1];
          }),
        );
  const rows = values.map((v) => ({
    name: v.name,
    count: v.count,
    zeros: v.zeros,
    nan: v.nan,
    inf: v.inf,
    min: v.min,
    max: v.max,
    runs: v.runs,
    keeps: kept(v) as Record<string, number>,
  }));
  c.print.document({ ok: true, samples: stats.samples, model: stats.model, prepare: stats.prepare, values: rows });
  c.print.out(
    `${stats.samples} samples, ${values.length} values; model ${stats.model.structure.slice(0, 12)}/${stats.model.weights.slice(0, 12)}, ${stats.prepare}`,
  );
  const percent = (x: number | undefined) => (x === undefined ? "-" : `${(100 * x).toFixed(1)} %`);
  c.print.out(
    table(
      [
        ["value", "min", "max", "zeros", "elements", ...SHOWN.map((s) => `${s} keeps`)],
        ...rows.map((r) => [
          r.name,
          r.min.toPrecision(4),
          r.max.toPrecision(4),
          percent(r.count === 0 ? 0 : r.zeros / r.count),
          String(r.count),
          ...SHOWN.map((s) => percent(r.keeps[s])),
        ]),
      ],
      [1, 2, 3, 4, 5, 6, 7],
    ),
  );
  return 0;
}
