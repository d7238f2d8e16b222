import type { PlanBundle } from "../plan/types.ts";
import type { Choice, Unit } from "./build.ts";
import { bestQuantized } from "./lab.ts";
import { optionIn } from "./menu.ts";
import type { Sensitivities } from "./point.ts";

/** The plan with, in each weight site, what its scheme costs and saves. */
export function explained(
  bundle: PlanBundle,
  o: { readonly units: readonly Unit[]; readonly sensitivities: Sensitivities | undefined; readonly choice: Choice; readonly text: string },
): PlanBundle {
  const why = new Map<string, string>();
  for (const u of o.units) {
    const now = optionIn(u, o.choice);
    const { name } = now.scheme;
    const best = bestQuantized(u);
    const r = o.sensitivities?.rows.find((x) => x.unit === u.key && x.scheme === name);
    const said = u.pinned
      ? `pinned to ${name}`
      : `${name} for ${o.text}: ${best.bytes - now.bytes} bytes less than ${best.scheme.name}${
          r ? `, adds ${r.added.toExponential(2)} to a loss of ${o.sensitivities!.start.toExponential(2)}` : ""
        }`;
    for (const v of now.values) why.set(v, said);
  }
  const sites = bundle.plan.sites.map((s) =>
    s.kind === "weight" && why.has(s.value) ? { ...s, because: `${s.because}; ${why.get(s.value)!}` } : s,
  );
  return { ...bundle, plan: { ...bundle.plan, sites } };
}
