import { QcError, type Report } from "../diagnostics.ts";
import { gradients } from "../grad/index.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Model, Node, Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { tensorType, type ValueType } from "../graph/types.ts";
import { pathOfNode } from "../graph/walk.ts";
import type { PlanBundle, Site, StepGain } from "../plan/types.ts";
import { requireOpset } from "../prepare/opset/index.ts";
import { ROUND_MAGIC } from "../quant/affine.ts";
import { INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import type { Feeds, Runtime, Session, Tensor } from "../runtime/types.ts";
import { judgedValues } from "./judge.ts";
import { uniformAt } from "./random.ts";

export interface RefineOptions {
  readonly model: Model;
  readonly types?: ReadonlyMap<string, ValueType>;
  readonly bundle: PlanBundle;
  readonly runtime: Runtime;
  readonly indices: readonly number[];
  readonly load: (index: number) => Promise<Feeds>;
  readonly seed: number;
  readonly report?: Report;
  readonly signal?: AbortSignal;
}

export interface Refined {
  readonly bundle: PlanBundle;
  /** Groups of sites that got another range. */
  readonly changed: number;
  /** Noise ÷ signal at the outputs from activations, to first order and as if all sites were independent: before and after. */
  readonly before: number;
  readonly after: number;
  /** The same noise of each value that got another range, before ÷ after. */
  readonly gains: readonly StepGain[];
}

/** Ranges tried, as multiples of the calibrator's: steps of 2^(1/8). The zero point stays. */
export const FACTORS = Array.from({ length: 18 }, (_, i) => 2 ** ((i - 12) / 8));
const KEEP = FACTORS.indexOf(1);
/** Standard errors by which a range has to be better than the calibrator's, sample by sample; the deciding samples judge all of them. */
const SURE = 1;
/** Backward passes of a sample: other signs. */
const DRAWS = 2;
/** Quantized elements over all samples, ranges and sites at most: some seconds. */
const MOST_ELEMENTS = 2 ** 30;
const LEAST_SAMPLES = 16;
const OPSET = 18;

type Static = Extract<Site, { kind: "static" }>;

/** Sites with one scale between them, and where they are in the copy. */
interface Group {
  readonly sites: readonly Static[];
  readonly lo: number;
  readonly hi: number;
  readonly scale: number;
  readonly probes: Value[];
  /** [sample, factor]: squared change of the outputs. */
  readonly cost: Float64Array[];
}

/**
 * Activation ranges by what they do downstream. A site's rounding and clipping changes its value by δ(T); to first order that changes the
 * outputs by J δ, and with random signs r over the outputs E_r (g·δ)² = ‖J δ‖², g = Jᵀ r: one backward pass of the float network for a
 * sample judges every range of every site. Sites are judged apart, so that no range is chosen for cancelling another's error on these
 * samples: descent on the output of the whole network over-fits in that way. A range wins when it is better on most samples, by paired
 * differences; of those as good as the best within one standard error, the nearest to the calibrator's.
 *
 * Left alone: graph outputs, values inside subgraphs, sites with several scales, and what no gradient reaches.
 */
export async function refineRanges(o: RefineOptions): Promise<Refined> {
  const unchanged: Refined = { bundle: o.bundle, changed: 0, before: 0, after: 0, gains: [] };
  const copy = cloneModel(o.model);
  const refused = (e: unknown): Refined => {
    if (!(e instanceof QcError)) throw e;
    o.report?.({ code: "plan/not-refined", why: e.message });
    return unchanged;
  };
  if (o.indices.length < LEAST_SAMPLES) return unchanged;
  try {
    if ((copy.opsets.get("") ?? 1) < OPSET) requireOpset(copy, OPSET);
  } catch (e) {
    return refused(e);
  }
  const groups = groupsOf(copy, o.bundle);
  if (groups.length === 0) return unchanged;
  const outs = judgedValues(copy);
  const seeds = outs.map((_, i) => copy.graph.addInput(copy.graph.freshName(`seed${i}`), tensorType("float32")));
  let of: ReadonlyMap<Value, Value>;
  try {
    ({ of } = gradients(copy, {
      of: outs.map((value, i) => ({ value, seed: seeds[i]! })),
      wrt: groups.flatMap((g) => g.probes),
      types: withProbes(o.types, groups),
    }));
  } catch (e) {
    return refused(e);
  }
  const read = (v: Value): string => {
    if (copy.graph.outputs.includes(v)) return v.name;
    if (!v.isInput && !v.isConstant) {
      copy.graph.addOutput(v);
      return v.name;
    }
    const same = copy.graph.append({ op: "Identity", inputs: [v] }).outputs[0]!;
    copy.graph.addOutput(same);
    return same.name;
  };
  const reached = groups.flatMap((group) => {
    const pairs = group.probes.map((p) => [p, of.get(p)] as const);
    return pairs.every(([, g]) => g) ? [{ group, names: pairs.map(([p, g]) => [read(p), read(g!)] as const) }] : [];
  });
  if (reached.length === 0) return unchanged;
  const outNames = outs.map(read);
  const session = await o.runtime.open(writeModel(copy), { label: "ranges" });
  try {
    await measure(o, session, { outNames, seeds: seeds.map((s) => s.name), reached });
  } finally {
    await session.release();
  }
  const factors = new Map<Static, number>();
  const gains: StepGain[] = [];
  let changed = 0;
  let before = 0;
  let after = 0;
  for (const { group } of reached) {
    const f = chooseFactor(group.cost);
    const sum = (at: number) => group.cost.reduce((all, c) => all + c[at]!, 0);
    const [kept, chosen] = [sum(KEEP), sum(f)];
    before += kept;
    after += chosen;
    if (f === KEEP) continue;
    changed++;
    for (const s of group.sites) gains.push({ at: s.value, gainDb: 10 * Math.log10(kept / Math.max(chosen, Number.MIN_VALUE)) });
    for (const s of group.sites) factors.set(s, FACTORS[f]!);
  }
  return { bundle: changed > 0 ? scaled(o.bundle, factors) : o.bundle, changed, before, after, gains };
}

/** Static sites by their common parameters, each with an Identity in the copy in front of its consumers. */
function groupsOf(copy: Model, bundle: PlanBundle): Group[] {
  const byKey = new Map<string, Static[]>();
  for (const s of bundle.plan.sites) {
    if (s.kind !== "static") continue;
    const key = JSON.stringify([s.scheme, s.scale, s.zeroPoint]);
    byKey.set(key, [...(byKey.get(key) ?? []), s]);
  }
  const nodes = new Map<string, Node>(copy.graph.nodes.map((n) => [pathOfNode(n), n]));
  const out: Group[] = [];
  for (const sites of byKey.values()) {
    const { scheme, scale, zeroPoint } = sites[0]!;
    if (!isIntDType(scheme.dtype) || scheme.granularity.kind !== "tensor" || "tensor" in scale || "tensor" in zeroPoint) continue;
    const values = sites.map((s) => copy.graph.values.get(s.value));
    if (values.some((v) => !v || v.isOutput || v.isConstant)) continue;
    const probes = sites.map((s, i) => {
      const v = values[i]!;
      const uses =
        s.consumers === "all"
          ? [...v.uses]
          : s.consumers.flatMap((c) => (nodes.has(c.node) ? [{ node: nodes.get(c.node)!, input: c.input }] : []));
      const spec = { op: "Identity", inputs: [v] };
      const first = copy.graph.nodes.find((n) => uses.some((u) => u.node === n));
      const probe = (v.producer ? copy.graph.insertAfter(v.producer, spec) : first ? copy.graph.insertBefore(first, spec) : undefined)
        ?.outputs[0];
      if (!probe) return undefined;
      if (v.type) copy.graph.setType(probe, v.type);
      for (const u of uses) if (u.node.graph === copy.graph) copy.graph.replaceUse(u.node, u.input, probe);
      return probe;
    });
    if (probes.some((p) => !p)) continue;
    const { min, max } = INT_DTYPES[scheme.dtype];
    const z = zeroPoint[0]!;
    out.push({ sites, lo: min - z, hi: max - z, scale: scale[0]!, probes: probes as Value[], cost: [] });
  }
  return out;
}

/** Types of values by name, the probes' too. */
function withProbes(types: ReadonlyMap<string, ValueType> | undefined, groups: readonly Group[]): Map<string, ValueType> {
  const out = new Map(types);
  for (const g of groups)
    g.probes.forEach((p, i) => {
      const t = types?.get(g.sites[i]!.value);
      if (t) out.set(p.name, t);
    });
  return out;
}

interface Measured {
  readonly outNames: readonly string[];
  readonly seeds: readonly string[];
  readonly reached: readonly { readonly group: Group; readonly names: readonly (readonly [string, string])[] }[];
}

/** Some backward passes for each sample; the costs go into the groups. */
async function measure(o: RefineOptions, session: Session, m: Measured): Promise<void> {
  const float = await o.runtime.open(writeModel(exposedOutputs(o.model)), { label: "float outputs" });
  const outputs: Tensor[][] = [];
  const names = judgedValues(o.model).map((v) => v.name);
  try {
    for (const i of o.indices) {
      const got = await float.run(await o.load(i), names);
      outputs.push(names.map((n) => got[n]!));
    }
  } finally {
    await float.release();
  }
  const signal = names.map((_, k) => outputs.reduce((sum, t) => sum + energy(t[k]!), 0));
  const used = signal.filter((s) => s > 0).length;
  const reads = [...new Set(m.reached.flatMap((r) => r.names.flat()))];
  const sums = new Float64Array(FACTORS.length);
  let elements = 0;
  for (const [n, index] of o.indices.entries()) {
    o.signal?.throwIfAborted();
    const feeds = await o.load(index);
    for (const { group } of m.reached) group.cost.push(new Float64Array(FACTORS.length));
    for (let d = 0; d < DRAWS; d++) {
      const signs: Record<string, Tensor> = {};
      for (const [k, t] of outputs[n]!.entries()) {
        const scale = signal[k]! > 0 ? 1 / Math.sqrt(signal[k]! * used * DRAWS) : 0;
        const data = new Float32Array((t.data as Float32Array).length);
        for (let i = 0; i < data.length; i++) data[i] = uniformAt(o.seed + d, n * names.length + k, i) < 0.5 ? -scale : scale;
        signs[m.seeds[k]!] = { dtype: "float32", dims: t.dims, data };
      }
      const got = await session.run({ ...feeds, ...signs }, reads);
      for (const { group, names: pairs } of m.reached) {
        sums.fill(0);
        for (const [xName, gName] of pairs) {
          const x = got[xName]!.data as Float32Array;
          addChanges(x, got[gName]!.data as Float32Array, group, sums);
          elements += x.length * FACTORS.length;
        }
        const cost = group.cost.at(-1)!;
        sums.forEach((dot, f) => {
          cost[f]! += dot * dot;
        });
      }
    }
    if (elements > MOST_ELEMENTS && n + 1 >= LEAST_SAMPLES) break;
  }
}

/** g · δ of every range. */
function addChanges(x: Float32Array, g: Float32Array, { lo, hi, scale }: Group, sums: Float64Array): void {
  for (const [f, factor] of FACTORS.entries()) {
    const s = Math.fround(scale * factor);
    const inverse = 1 / s;
    let dot = 0;
    for (let i = 0; i < x.length; i++) {
      const v = x[i]!;
      let q = v * inverse + ROUND_MAGIC - ROUND_MAGIC;
      if (q < lo) q = lo;
      else if (q > hi) q = hi;
      dot += g[i]! * (q * s - v);
    }
    sums[f]! += dot;
  }
}

/** The index of the range: see `refineRanges`. @internal */
export function chooseFactor(cost: readonly Float64Array[]): number {
  const n = cost.length;
  const mean = FACTORS.map((_, f) => cost.reduce((sum, c) => sum + c[f]!, 0) / n);
  let best = KEEP;
  for (let f = 0; f < FACTORS.length; f++) if (mean[f]! < mean[best]!) best = f;
  const gap = (a: number, b: number) => {
    const d = mean[a]! - mean[b]!;
    const spread = cost.reduce((sum, c) => sum + (c[a]! - c[b]! - d) ** 2, 0);
    return { d, error: Math.sqrt(spread / Math.max(1, n - 1) / n) };
  };
  if (best === KEEP) return KEEP;
  const step = best < KEEP ? -1 : 1;
  for (let f = KEEP + step; ; f += step) {
    const short = gap(f, best);
    if (f !== best && short.d > short.error) continue;
    const won = gap(KEEP, f);
    if (won.d > SURE * won.error) return f;
    if (f === best) return KEEP;
  }
}

function scaled(bundle: PlanBundle, factors: ReadonlyMap<Site, number>): PlanBundle {
  const sites = bundle.plan.sites.map((s): Site => {
    const f = factors.get(s);
    if (f === undefined || s.kind !== "static" || "tensor" in s.scale || "tensor" in s.zeroPoint || !isIntDType(s.scheme.dtype)) return s;
    const scale = Math.fround(s.scale[0]! * f);
    const { min, max } = INT_DTYPES[s.scheme.dtype];
    const z = s.zeroPoint[0]!;
    return { ...s, scale: [scale], range: { min: Math.fround((min - z) * scale), max: Math.fround((max - z) * scale) } };
  });
  return { ...bundle, plan: { ...bundle.plan, sites } };
}

function exposedOutputs(model: Model): Model {
  const copy = cloneModel(model);
  for (const v of judgedValues(copy)) if (!v.isOutput) copy.graph.addOutput(v);
  return copy;
}

function energy(t: Tensor): number {
  let sum = 0;
  if (t.data instanceof Float32Array) for (const v of t.data) sum += v * v;
  return sum;
}
