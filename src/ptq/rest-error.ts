import type { DataSet } from "../data/types.ts";
import type { Report } from "../diagnostics.ts";
import { lower } from "../export/lower/index.ts";
import { Elements } from "../graph/elements.ts";
import type { Model, Node } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { traitOf } from "../graph/ops/index.ts";
import { allNodes, pathOf } from "../graph/walk.ts";
import type { Target } from "../plan/target.ts";
import type { PlanBundle, Rest } from "../plan/types.ts";
import { findRegions, regionIndex } from "../prepare/regions.ts";
import { HALVES, type HalfDType } from "../quant/half.ts";
import type { Runtime, Session, SessionOptions } from "../runtime/types.ts";

/**
 * How far the noise of a 16-bit type at the outputs may lie above that of a single rounding, 10·log10(3 · 4^(fraction + 1)): some hundred
 * roundings that do not know of each other add 25 dB. What adds more is one place that magnifies them, and worth looking for.
 */
const ALLOWANCE_DB = 25;
/** A group that takes less than this share of the noise away is not worth its casts. */
const LEAST_SHARE = 0.1;
/** Groups beyond the largest ones are too many runs for what they hold. */
const MOST_GROUPS = 16;
const SAMPLES = 8;

/** The noise that is looked into: 46 dB below the outputs for float16, 28 dB for bfloat16. */
export const toleranceDb = (to: HalfDType): number => 10 * Math.log10(3 * 4 ** (HALVES[to].fraction + 1)) - ALLOWANCE_DB;

export interface RestErrorInput {
  readonly model: Model;
  readonly target: Target;
  readonly data: DataSet;
  readonly runtime: Runtime;
  readonly session?: SessionOptions;
  readonly report?: Report;
  readonly signal?: AbortSignal;
}

/**
 * Keeps float32 where it pays, by measurement on select samples (or calibrate ones where there are none). The noise of the whole cast is
 * measured first: Σ(y − ŷ)² / Σy² for each output, ŷ with the 16-bit type and y without, the mean over the outputs. Below the tolerance
 * that is all. Else every group of nodes (an operator, or regions of a kind such as normalizations) is put back to float32 alone; those that
 * take most of the noise away are put back together, one after the other, until the tolerance is met or the next one does not help.
 */
export async function keepByError(bundle: PlanBundle, o: RestErrorInput): Promise<PlanBundle> {
  const { rest } = bundle.plan;
  if (!rest) return bundle;
  const { select, calibrate } = o.data.roles;
  const indices = (select.length > 0 ? select : calibrate).slice(0, SAMPLES);
  if (indices.length === 0) return bundle;
  const bar = 10 ** (-toleranceDb(rest.to) / 10);
  const { rest: _, ...plain } = bundle.plan;
  const reference = await outputsOf({ ...bundle, plan: plain }, o, indices);
  const noise = async (keep: Rest["keep"]): Promise<number> => {
    o.signal?.throwIfAborted();
    return distance(reference, await outputsOf(withKeep(bundle, rest, keep), o, indices));
  };
  const whole = await noise(rest.keep);
  if (!(whole > bar)) return bundle;
  const trials: { readonly group: Group; readonly left: number }[] = [];
  for (const group of groupsOf(o.model, rest)) trials.push({ group, left: await noise([...rest.keep, ...kept(group, "")]) });
  trials.sort((a, b) => a.left - b.left);
  let keep = rest.keep;
  let now = whole;
  const chosen: { readonly what: string; readonly gainDb: number }[] = [];
  for (const { group, left } of trials) {
    if (!(now > bar) || !(left < whole * (1 - LEAST_SHARE))) break;
    const more = [...keep, ...kept(group, "")];
    const then = await noise(more);
    if (!(then < now * (1 - LEAST_SHARE))) continue;
    const gainDb = 10 * Math.log10(now / then);
    keep = [...keep, ...kept(group, `float32 takes ${gainDb.toFixed(1)} dB of noise off the outputs (${group.what})`)];
    chosen.push({ what: group.what, gainDb });
    now = then;
  }
  o.report?.({ code: "plan/rest-error", to: rest.to, beforeDb: -10 * Math.log10(whole), afterDb: -10 * Math.log10(now), groups: chosen });
  return chosen.length === 0 ? bundle : withKeep(bundle, rest, keep);
}

/** Nodes that are put back together, and the values that they write. */
interface Group {
  readonly what: string;
  readonly values: readonly string[];
}
const kept = (g: Group, because: string): Rest["keep"] => g.values.map((value) => ({ value, because }));

function withKeep(bundle: PlanBundle, rest: Rest, keep: Rest["keep"]): PlanBundle {
  return { ...bundle, plan: { ...bundle.plan, rest: { ...rest, keep } } };
}

/** By kind of region, else by operator; the largest first. */
function groupsOf(model: Model, rest: Rest): Group[] {
  const regions = regionIndex(findRegions(model));
  const elements = new Elements();
  const already = new Set(rest.keep.map((k) => k.value));
  const groups = new Map<string, string[]>();
  const what = (n: Node): string => regions.get(n)?.kind ?? n.op;
  for (const n of allNodes(model)) {
    if (traitOf(n) === undefined || n.subgraphs.length > 0) continue;
    const values = n.outputs.filter((v) => v !== undefined && elements.of(v) === "float32").map((v) => pathOf(v!));
    const fresh = values.filter((v) => !already.has(v));
    if (fresh.length > 0) groups.set(what(n), [...(groups.get(what(n)) ?? []), ...fresh]);
  }
  return [...groups]
    .map(([name, values]) => ({ what: name, values }))
    .sort((a, b) => b.values.length - a.values.length)
    .slice(0, MOST_GROUPS);
}

type Floats = Float32Array | Float64Array;

/** Float outputs of a plan, by sample and name. */
async function outputsOf(bundle: PlanBundle, o: RestErrorInput, indices: readonly number[]): Promise<ReadonlyMap<string, Floats>[]> {
  const lowered = lower(o.model, bundle, o.target, { simulateRest: true, simulateBlocks: true });
  const session: Session = await o.runtime.open(writeModel(lowered), { ...o.session, level: "disabled", label: "16-bit candidate" });
  try {
    const out: Map<string, Floats>[] = [];
    for (const i of indices) {
      const y = await session.run((await o.data.sample(i)).feeds);
      out.push(new Map(Object.entries(y).flatMap(([k, t]) => (isFloats(t.data) ? [[k, t.data] as const] : []))));
    }
    return out;
  } finally {
    await session.release();
  }
}
const isFloats = (x: unknown): x is Floats => x instanceof Float32Array || x instanceof Float64Array;

/** Mean over the outputs with a signal; infinite when something that was finite is not any more. */
function distance(reference: readonly ReadonlyMap<string, Floats>[], other: readonly ReadonlyMap<string, Floats>[]): number {
  const ratios: number[] = [];
  for (const name of reference[0]?.keys() ?? []) {
    let signal = 0;
    let noise = 0;
    for (const [i, sample] of reference.entries()) {
      const [y, z] = [sample.get(name)!, other[i]!.get(name)!];
      for (let k = 0; k < y.length; k++) {
        if (!Number.isFinite(y[k])) continue;
        signal += y[k]! ** 2;
        noise += (y[k]! - z[k]!) ** 2;
      }
    }
    if (Number.isNaN(noise)) return Number.POSITIVE_INFINITY;
    if (signal > 0) ratios.push(noise / signal);
  }
  return ratios.length === 0 ? 0 : ratios.reduce((a, b) => a + b, 0) / ratios.length;
}
