import { openData } from "../../data/index.ts";
import { findDuplicates } from "../../data/near.ts";
import type { DEDUPE } from "../../gate-options.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import { writeAtomic } from "../../io/atomic.ts";
import { jsonText } from "../../outputs.ts";
import { inputsOf } from "../../source.ts";
import type { Context, ExitCode } from "../command.ts";

/** Held-out samples stay; what repeats them leaves calibrate and select. */
export async function run(c: Context<typeof DEDUPE>): Promise<ExitCode> {
  const { print } = c;
  const data = await openData(c.args[0]!, inputsOf(loadModel(c.args[1]!)), { seed: c.options.seed, report: print.diagnostic });
  const found = await findDuplicates(data, { signal: c.signal, onProgress: (d, n) => print.progress("dedupe", d, n) });
  print.end();
  const extra = found.clusters.reduce((n, k) => n + k.indices.length - 1, 0);
  print.document({
    ok: found.across.length === 0,
    likeness: found.likeness,
    duplicates: extra,
    clusters: found.clusters,
    across: found.across,
  });
  print.out(
    `${found.likeness.padEnd(10)} ${data.size} samples, ${extra} repeat others (${found.clusters.filter((k) => k.exact).length} groups exactly, ${found.clusters.filter((k) => !k.exact).length} nearly)`,
  );
  for (const k of found.clusters.slice(0, 20)) print.out(`${k.exact ? "exact" : "near"}      ${k.ids.join("  ")}`);
  if (found.clusters.length > 20) print.out(`           and ${found.clusters.length - 20} more groups (--json lists all)`);
  for (const a of found.across.slice(0, 20)) print.out(`roles      ${a.ids.join("  ")} stand in ${a.roles.join(" and ")}`);
  if (c.options.out !== undefined) {
    const held = new Set(data.roles.heldOut);
    const dropped = new Set(
      found.clusters.flatMap((k) => {
        const keep = k.indices.find((i) => held.has(i)) ?? k.indices[0]!;
        return k.indices.filter((i) => i !== keep);
      }),
    );
    const list = (role: readonly number[]) => role.filter((i) => !dropped.has(i)).sort((a, b) => a - b);
    const { calibrate, select, heldOut } = data.roles;
    writeAtomic(c.options.out, jsonText({ calibrate: list(calibrate), select: list(select), heldOut: list(heldOut) }));
    print.out(`wrote      ${c.options.out}   ${dropped.size} left out`);
    return 0;
  }
  return found.across.length > 0 ? 3 : 0;
}
