import type { Stats, ValueStats } from "../calibrate/types.ts";
import { QcError, type Report } from "../diagnostics.ts";
import { survives } from "../export/halve.ts";
import { Elements } from "../graph/elements.ts";
import type { Model, Value } from "../graph/ir.ts";
import type { ValueType } from "../graph/types.ts";
import { allGraphs, pathOf } from "../graph/walk.ts";
import type { Recipe } from "../plan/recipes/index.ts";
import { irVersionOf, printTarget, type Target } from "../plan/target.ts";
import type { PlanBundle, Rest } from "../plan/types.ts";
import { HALVES, type HalfDType } from "../quant/half.ts";
import type { Proposal, ProposeInput } from "./proposal.ts";

/**
 * Samples that were not seen may hold larger values than those that were: what comes within this factor of the largest number of the type
 * stays float32.
 */
const HEADROOM = 4;
/** Below this ratio to the steps of subnormal numbers a value keeps less than 60 dB: its rms lies under 1000 steps / sqrt(12). */
const LEAST_STEPS = 1000 / Math.sqrt(12);

/** A proposal without sites, for recipes that cast only. */
export function castProposal(input: ProposeInput): Proposal {
  return { input, activations: [], weights: [], skips: [], values: [], quantized: new Set() };
}

/** Paths of the float32 values whose ranges tell what fits into 16 bits; values in subgraphs are not observed. */
export function restValues(model: Model, types: ReadonlyMap<string, ValueType>): string[] {
  return floatValues(model, types)
    .filter((v) => v.graph === model.graph)
    .map((v) => pathOf(v));
}

function floatValues(model: Model, types: ReadonlyMap<string, ValueType>): Value[] {
  const elements = new Elements();
  const out: Value[] = [];
  for (const g of allGraphs(model.graph))
    for (const v of g.values.values()) {
      if (v.data) continue;
      const t = types.get(pathOf(v));
      if ((t?.kind === "tensor" ? t.elem : elements.of(v)) === "float32") out.push(v);
    }
  return out;
}

export interface RestInput {
  /** The prepared graph. */
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly recipe: Recipe;
  readonly target: Target;
  readonly stats: Stats | undefined;
  readonly report?: Report;
}

/**
 * Adds to a plan what its floats become. A value stays float32 when
 *   max |x| · 4 > largest number       it would overflow
 *   rms(x) < 1000 · 2^-24 / sqrt(12)   (float16) it would drown in the steps of subnormal numbers, under 60 dB
 *   it was not observed while others were, or comes from a node with a constant that overflows.
 */
export function castRest(bundle: PlanBundle, o: RestInput): PlanBundle {
  const to = o.recipe.floatType;
  if (to === "float32") return bundle;
  refuseUnfit(bundle, to, o);
  const keep: { value: string; because: string }[] = [];
  for (const v of floatValues(o.model, o.types)) {
    const because = reasonToKeep(v, to, o);
    if (because !== undefined) keep.push({ value: pathOf(v), because });
  }
  if (!o.stats) o.report?.({ code: "plan/rest-unchecked", to });
  if (keep.length > 0) o.report?.({ code: "plan/rest-kept", to, values: keep });
  const rest: Rest = { to, keep };
  // bfloat16 came to convolutions and pools with opset 22, 16-bit scales to Q and DQ with 19.
  const codes = bundle.plan.sites.some((s) => s.kind === "static" || s.kind === "weight");
  const least = to === "bfloat16" ? 22 : codes && o.target.placement === "compute-inputs" ? 19 : 0;
  const opset = Math.max(bundle.plan.opset, least);
  if (opset > o.target.opset.max) throw unavailable(o, `it needs opset ${opset}, and the target takes ${o.target.opset.max} at most`);
  return { ...bundle, plan: { ...bundle.plan, opset, irVersion: Math.max(bundle.plan.irVersion, irVersionOf(opset)), rest } };
}

function reasonToKeep(v: Value, to: HalfDType, o: RestInput): string | undefined {
  const { max } = HALVES[to];
  const wide = v.producer?.inputs.some((i) => i?.data && !survives(i.data, to));
  if (wide) return `made with a constant beyond ${max.toPrecision(5)}`;
  if (!o.stats) return undefined;
  const s = o.stats.values.get(pathOf(v));
  if (!s) return "not observed";
  if (s.count === 0) return undefined;
  const largest = Math.max(Math.abs(s.min), Math.abs(s.max));
  if (largest * HEADROOM > max) return `reaches ${largest.toPrecision(4)}`;
  const step = HALVES[to].leastNormal / 2 ** HALVES[to].fraction;
  if (largest > 0 && rmsOf(s, largest) < LEAST_STEPS * step) return `as small as ${rmsOf(s, largest).toExponential(1)}`;
  return undefined;
}

/** Root mean square over the histogram's bin centres; the largest magnitude where there is none. */
function rmsOf(s: ValueStats, largest: number): number {
  if (!s.hist) return largest;
  const width = 2 ** s.hist.exp;
  let sum = 0;
  for (const [i, n] of s.hist.counts.entries()) sum += n * ((s.hist.first + i + 0.5) * width) ** 2;
  return Math.sqrt(sum / Math.max(1, s.count - s.zeros));
}

function refuseUnfit(bundle: PlanBundle, to: HalfDType, o: RestInput): void {
  const { target } = o;
  if (to === "bfloat16" && target.name !== "tensorrt") throw unavailable(o, "onnxruntime has no bfloat16 kernels of most operators");
  const codes = bundle.plan.sites.some((s) => s.kind === "static" || s.kind === "dynamic");
  if (codes && target.name !== "tensorrt") throw unavailable(o, "onnxruntime's 8-bit kernels stand between float32 values only");
  if (target.opset.max >= 19) return;
  if (to === "bfloat16") throw unavailable(o, `opset ${target.opset.max} has no bfloat16 convolution`);
  if (bundle.plan.sites.length > 0)
    throw unavailable(o, "it takes float32 scales only, and chooses float16 itself: leave --float out and build with its FP16 flag");
}

function unavailable(o: RestInput, why: string): QcError {
  const { recipe, target } = o;
  const name = recipe.weight ? `${recipe.name} with ${recipe.floatType} around` : recipe.name;
  return new QcError({ code: "plan/recipe-unavailable", recipe: name, target: printTarget(target), why });
}
