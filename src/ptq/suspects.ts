import type { Stats } from "../calibrate/types.ts";
import type { Report } from "../diagnostics.ts";
import { pathOfNode } from "../graph/walk.ts";
import type { PlanBundle } from "../plan/types.ts";
import type { QParams } from "../quant/affine.ts";
import { isIntDType } from "../quant/dtype.ts";
import type { Proposal } from "./proposal.ts";
import { proposeSites } from "./propose.ts";
import { nodesToDrop, planOf, type RangeOf } from "./ranges.ts";
import { bulkSqnrDb, wholeSqnrDb } from "./sound.ts";

/** A value whose codes keep less than this, in bulk or as a whole, is worth a trial in float. (8 bits give 30 to 40 dB on most values.) */
export const SUSPECT_DB = 20;
/** One product whose return to float takes a fifth of the noise off the outputs (1 dB) is out of proportion. */
const LEAST_GAIN_DB = 1;
/** Suspects are tried from the worst on; after this many in a row that gain nothing the milder ones are not. */
const PATIENCE = 3;

export interface Suspect {
  readonly value: string;
  readonly nodes: readonly string[];
  readonly db: number;
}

/** Values that their codes describe poorly by their histograms, the worst first. No inference is run. */
export function suspectsOf(p: Proposal, bundle: PlanBundle, stats: Stats): Suspect[] {
  const byPath = new Map(p.activations.map((a) => [a.path, a]));
  const worst = new Map<string, Suspect>();
  for (const site of bundle.plan.sites) {
    const s = stats.values.get(site.value);
    const a = byPath.get(site.value);
    if (site.kind !== "static" || s?.hist === undefined || a === undefined || !isIntDType(site.scheme.dtype)) continue;
    if (!Array.isArray(site.scale) || !Array.isArray(site.zeroPoint)) continue;
    const q: QParams = { dtype: site.scheme.dtype, scale: site.scale[0]!, zeroPoint: site.zeroPoint[0]! };
    const db = Math.min(bulkSqnrDb(s, q), wholeSqnrDb(s, q));
    const nodes = nodesToDrop(a).map(pathOfNode);
    const key = nodes.join("\n");
    if (db < SUSPECT_DB && nodes.length > 0 && db < (worst.get(key)?.db ?? Infinity)) worst.set(key, { value: site.value, nodes, db });
  }
  return [...worst.values()].sort((a, b) => a.db - b.db || (a.value < b.value ? -1 : 1));
}

/**
 * Accept or roll back: a suspect's nodes go to float when that takes at least LEAST_GAIN_DB of noise off the network's outputs, measured by
 * `evaluate` (noise ÷ signal at the outputs), from the worst suspect on, each on top of those accepted before.
 */
export async function floatSuspects(o: {
  readonly proposal: Proposal;
  readonly bundle: PlanBundle;
  readonly stats: Stats;
  readonly rangeOf: RangeOf;
  readonly report: Report;
  evaluate(plans: readonly PlanBundle[]): Promise<readonly number[]>;
}): Promise<PlanBundle> {
  const suspects = suspectsOf(o.proposal, o.bundle, o.stats);
  if (suspects.length === 0) return o.bundle;
  let best = o.bundle;
  let error: number | undefined;
  const floats = new Map(o.proposal.input.floats);
  let misses = 0;
  for (const s of suspects) {
    if (misses === PATIENCE) break;
    const skip = { code: "range-unsound", detail: `codes of "${s.value}" would keep ${s.db.toFixed(1)} dB of it` } as const;
    const trial = new Map([...floats, ...s.nodes.map((n) => [n, skip] as const)]);
    const plan = planOf(proposeSites({ ...o.proposal.input, floats: trial }), o.stats, o.rangeOf, { report: () => {} });
    const errors = await o.evaluate(error === undefined ? [best, plan] : [plan]);
    error ??= errors[0]!;
    const after = errors.at(-1)!;
    const gainDb = 10 * Math.log10(error / after);
    if (!(gainDb >= LEAST_GAIN_DB)) {
      misses++;
      continue;
    }
    misses = 0;
    o.report({ code: "plan/suspect-float", value: s.value, db: s.db, gainDb, nodes: s.nodes });
    const step = {
      step: "float-suspect",
      before: -10 * Math.log10(error),
      after: -10 * Math.log10(after),
      unit: "dB",
      kept: true,
    } as const;
    best = { ...plan, plan: { ...plan.plan, steps: [...best.plan.steps, { ...step, detail: s.nodes.join(", ") }] } };
    error = after;
    for (const n of s.nodes) floats.set(n, skip);
  }
  return best;
}
