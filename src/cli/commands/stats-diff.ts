import { driftOf } from "../../calibrate/drift.ts";
import { readStats } from "../../calibrate/index.ts";
import type { DRIFT } from "../../gate-options.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";

export async function run(c: Context<typeof DRIFT>): Promise<ExitCode> {
  const [a, b] = [readStats(c.args[0]!), readStats(c.args[1]!)];
  const rows = driftOf(a, b);
  const moved = rows.filter((r) => r.distance > c.options.most);
  c.print.document({ ok: moved.length === 0, samples: [a.samples, b.samples], most: c.options.most, values: rows });
  const range = (r: readonly [number, number]) => `${r[0].toPrecision(4)} to ${r[1].toPrecision(4)}`;
  c.print.out(
    table([
      ["value", "moved", "outside", "covered", "before", "now"],
      ...rows
        .slice(0, 20)
        .map((r) => [
          r.value,
          r.distance.toFixed(3),
          `${(100 * r.outside).toFixed(2)} %`,
          `${(100 * r.covered).toFixed(1)} %`,
          range(r.before),
          range(r.now),
        ]),
    ]),
  );
  c.print.out(
    `${moved.length} of ${rows.length} values moved by more than ${c.options.most} (${a.samples} samples before, ${b.samples} now)`,
  );
  return moved.length > 0 ? 3 : 0;
}
