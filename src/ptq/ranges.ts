import { CALIBRATORS, chooseRange } from "../calibrate/calibrators.ts";
import type { Calibrator, Range, Stats, ValueStats } from "../calibrate/types.ts";
import { QcError, type Report } from "../diagnostics.ts";
import type { Node, Use, Value } from "../graph/ir.ts";
import { opsetOf } from "../graph/ir.ts";
import { opFacts, traitOf } from "../graph/ops/index.ts";
import { floats, type TensorData, tensorFromBytes } from "../graph/tensor.ts";
import { pathOfNode } from "../graph/walk.ts";
import { irVersionOf, type Need, NO_NEED, printTarget } from "../plan/target.ts";
import type { Consumers, Numbers, Plan, PlanBundle, Scheme, Site, Skip } from "../plan/types.ts";
import { chooseAsymmetric, chooseSymmetric, type QParams } from "../quant/affine.ts";
import { nvfp4TensorScale } from "../quant/blockfloat.ts";
import { INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import { FLOAT4_MAX } from "../quant/float4.ts";
import { type CodeDType, FLOAT8_MAX, isFloatCodeDType } from "../quant/float8.ts";
import { packCodes } from "../quant/pack.ts";
import type { ActivationSite, Proposal } from "./proposal.ts";
import { proposeSites } from "./propose.ts";
import { float8Scale, weightParams } from "./rtn.ts";
import { bulkSqnrDb, LEAST_DB, wholeSqnrDb } from "./sound.ts";

/** A range for one value; the calibrator's choice unless the caller knows better. */
export type RangeOf = (s: ValueStats, o: { readonly levels: number; readonly symmetric: boolean; readonly isOutput: boolean }) => Range;

/** Graph outputs are what the user sees: clipping their rare large values costs the most, so they keep min and max. */
export function rangeBy(calibrator: Calibrator, report?: Report): RangeOf {
  return (s, { levels, symmetric, isOutput }) =>
    chooseRange(s, isOutput ? CALIBRATORS.minmax : calibrator, { levels, symmetric, output: isOutput, ...(report && { report }) });
}

export interface PlanOptions {
  readonly report?: Report;
  /** Histograms of some samples, for values whose statistics have extremes only: what a range leaves of the bulk cannot be told without. */
  readonly sketch?: Stats | undefined;
}

/**
 * Statistics and a calibrator to numbers: a plan that `lower` applies.
 *
 * A value without statistics, never reached, with infinities, or of which an 8-bit range would leave nothing (`bulkSqnrDb`) sends the nodes
 * that need its codes back to float (weights may stay codes), and the placement is made again without them, until nothing changes.
 * Sites of one group get the union of their ranges.
 */
export function planOf(
  proposal: Proposal,
  stats: Stats | undefined,
  calibrator: Calibrator | RangeOf | undefined,
  options: PlanOptions = {},
): PlanBundle {
  const rangeOf = typeof calibrator === "function" ? calibrator : calibrator ? rangeBy(calibrator, options.report) : undefined;
  const needed = proposal.activations.some((a) => !a.dynamic);
  if (needed && (!stats || !rangeOf)) throw new QcError({ code: "plan/no-stats", recipe: proposal.input.recipe.name });
  let current = proposal;
  const floats = new Map<string, Pick<Skip, "code" | "detail">>(proposal.input.floats);
  let params = new Map<number, SiteParams>();
  while (stats && rangeOf) {
    const found = rangesOf(current, stats, rangeOf, options.sketch);
    params = found.params;
    if (found.drop.length === 0) break;
    let changed = false;
    for (const d of found.drop)
      for (const node of nodesToDrop(d.site)) {
        const path = pathOfNode(node);
        if (floats.has(path)) continue;
        floats.set(path, { code: d.code, detail: d.detail });
        changed = true;
      }
    for (const d of found.drop)
      if (d.bulkDb !== undefined)
        options.report?.({ code: "plan/range-unsound", value: d.site.path, bulkDb: d.bulkDb, nodes: nodesToDrop(d.site).map(pathOfNode) });
    if (!changed) throw new Error(`internal: no node to leave out for ${found.drop[0]!.site.path}`);
    current = proposeSites({ ...proposal.input, floats });
  }
  return bundle(current, params, stats);
}

interface Drop {
  readonly site: ActivationSite;
  readonly code: Skip["code"];
  readonly detail: string;
  readonly bulkDb?: number;
}

/** Parameters of every group, and the sites that cannot have any. */
function rangesOf(
  p: Proposal,
  stats: Stats,
  rangeOf: RangeOf,
  sketch: Stats | undefined,
): { readonly params: Map<number, SiteParams>; readonly drop: Drop[] } {
  const ranges = new Map<number, Range>();
  const drop: Drop[] = [];
  const staticSites = p.activations.filter((a) => !a.dynamic);
  for (const site of staticSites) {
    const s = stats.values.get(site.path);
    if (!s) drop.push({ site, code: "no-stats", detail: `no statistics of "${site.path}"` });
    else if (s.count === 0)
      drop.push({ site, code: "not-reached", detail: `"${site.path}" was never computed on the calibration samples` });
    else if (s.inf > 0) drop.push({ site, code: "range-unsound", detail: `"${site.path}" holds infinities` });
    else {
      const { dtype, symmetric } = site.scheme;
      const levels = isIntDType(dtype) ? 2 ** INT_DTYPES[dtype].bits : 256;
      const bounds = site.value.producer && opFacts(site.value.producer)?.bounds;
      const chosen = bounds
        ? { min: bounds[0], max: bounds[1] }
        : rangeOf(s, { levels, symmetric, isOutput: site.uses === "all" && onlyLeaves(site.value) });
      // Clipping that takes the power out of a value is not worth the finer steps: then min and max, if the bulk survives them (below).
      const trial = siteParamsOf(chosen, site.scheme);
      const r = isAffine(trial) && wholeSqnrDb(s, trial) < LEAST_DB ? { min: s.min, max: s.max } : chosen;
      const g = ranges.get(site.group);
      ranges.set(site.group, g ? { min: Math.min(g.min, r.min), max: Math.max(g.max, r.max) } : { min: r.min, max: r.max });
    }
  }
  const params = new Map<number, SiteParams>();
  for (const site of staticSites) {
    const range = ranges.get(site.group);
    if (!range) continue;
    let q = params.get(site.group);
    if (!q) {
      q = siteParamsOf(range, site.scheme);
      params.set(site.group, q);
    }
    const s = stats.values.get(site.path);
    // float8 has steps for small values too: its exponent keeps what an integer range would drown.
    if (!s || s.count === 0 || s.inf > 0 || !isAffine(q)) continue;
    const bulkDb = bulkSqnrDb(s.hist ? s : (sketch?.values.get(site.path) ?? s), q);
    if (bulkDb < LEAST_DB)
      drop.push({
        site,
        code: "range-unsound",
        detail: `codes of "${site.path}" would keep ${bulkDb.toFixed(1)} dB of all but its largest 0.1 % (range ${range.min.toPrecision(4)} to ${range.max.toPrecision(4)})`,
        bulkDb,
      });
  }
  return { params, drop };
}

/** The value is a graph output, or is only moved (Concat, Reshape, Transpose …) into graph outputs. */
function onlyLeaves(v: Value): boolean {
  if (v.isOutput) return true;
  return v.uses.length > 0 && v.uses.every((u) => traitOf(u.node) === "same-scale" && u.node.outputs.every((o) => o && onlyLeaves(o)));
}

/** Parameters of one activation. Integer types have a zero point; float8 and float4 are a scale alone (float4: the tensor's, before its blocks'). */
export interface SiteParams {
  readonly dtype: CodeDType;
  readonly scale: number;
  readonly zeroPoint: number;
}
const isAffine = (p: SiteParams): p is QParams => !isFloatCodeDType(p.dtype);

export function siteParamsOf(range: Range, scheme: Scheme): SiteParams {
  const { dtype } = scheme;
  if (!isFloatCodeDType(dtype)) return paramsOf(range, scheme);
  const most = Math.max(Math.abs(range.min), Math.abs(range.max));
  return { dtype, scale: dtype === "float4e2m1" ? nvfp4TensorScale(most) : float8Scale(most), zeroPoint: 0 };
}

/** The same for integer types. */
export function paramsOf(range: Range, scheme: Scheme): QParams {
  if (!isIntDType(scheme.dtype)) throw new Error(`internal: no affine parameters of ${scheme.dtype}`);
  return scheme.symmetric
    ? chooseSymmetric(Math.max(Math.abs(range.min), Math.abs(range.max)), scheme.dtype)
    : chooseAsymmetric(range.min, range.max, scheme.dtype);
}

/** Whose wish the site is: the node that writes the codes (and cannot do without), else the nodes that read them. */
export function nodesToDrop(site: ActivationSite): Node[] {
  if (site.uses === "all" && site.value.producer) return [site.value.producer];
  const uses: readonly Use[] = site.uses === "all" ? site.value.uses : site.uses;
  return [...new Set(uses.map((u) => u.node))];
}

/** The plan document with its tensors. */
function bundle(p: Proposal, params: ReadonlyMap<number, SiteParams>, stats: Stats | undefined): PlanBundle {
  const { input } = p;
  const tensors = new Map<string, TensorData>();
  const sites: Site[] = [];
  const need = { ...NO_NEED } as { -readonly [K in keyof Need]: boolean };
  for (const a of p.activations) {
    const base = { value: a.path, consumers: consumersOf(a.uses), scheme: a.scheme, because: a.because };
    if (a.dynamic) {
      noteNeed(need, a.scheme);
      sites.push({ kind: "dynamic", ...base, ...(a.per && { per: a.per }) });
      continue;
    }
    const q = params.get(a.group)!;
    noteNeed(need, a.scheme);
    const range = rangeFrom(q);
    sites.push({ kind: "static", ...base, scale: [q.scale], zeroPoint: [q.zeroPoint], range });
  }
  let index = 0;
  for (const w of p.weights) {
    const { scale, zeroPoint, tensorScale } = weightParams(w);
    const stem = `w${String(index++).padStart(4, "0")}`;
    noteNeed(need, w.scheme);
    sites.push({
      kind: "weight",
      value: w.path,
      consumers: consumersOf(w.uses),
      scheme: w.scheme,
      because: w.because,
      scale: numbers(tensors, `${stem}.scale`, scale),
      zeroPoint: zeroPoints(tensors, `${stem}.zero_point`, zeroPoint),
      ...(tensorScale !== undefined && { tensorScale }),
      ...(w.form !== "qdq" && { form: w.form }),
      ...(w.form === "matmul-nbits" && input.recipe.accuracyLevel !== undefined && { accuracyLevel: input.recipe.accuracyLevel }),
    });
  }
  const opset = Math.max(opsetOf(input.model) ?? 1, input.target.opset.min, input.target.opset.emit(need));
  if (opset > input.target.opset.max)
    throw new QcError({
      code: "plan/illegal",
      constraint: "target opset",
      at: "opset",
      detail: `${printTarget(input.target)} takes opset ${input.target.opset.max} at most; this model and recipe need ${opset}`,
    });
  const plan: Plan = {
    schema: "qc.plan/1",
    tool: input.tool ?? "qc",
    model: input.source ?? stats?.model ?? { structure: "", weights: "" },
    prepare: input.prepare ?? stats?.prepare ?? "",
    target: printTarget(input.target),
    recipe: input.recipe.name,
    seed: input.seed ?? 0,
    opset,
    irVersion: Math.min(input.target.irVersion.max, Math.max(irVersionOf(opset), input.model.irVersion)),
    sites,
    skips: p.skips,
    replacements: [],
    insertions: [],
    steps: [],
    reverts: [],
    ...(input.pins && { schemes: input.pins }),
    ...(input.pruned && { pruned: input.pruned.pruned }),
  };
  for (const [name, t] of input.pruned?.tensors ?? []) tensors.set(name, t);
  return { plan, tensors };
}

function rangeFrom(q: SiteParams): Range {
  if (!isAffine(q)) {
    const max = Math.fround(FLOAT8_MAX * (q.dtype === "float4e2m1" ? FLOAT4_MAX : 1) * q.scale);
    return { min: -max, max };
  }
  const unsigned = q.dtype.startsWith("u");
  const bits = Number(/\d+/.exec(q.dtype)![0]);
  const [lo, hi] = unsigned ? [0, 2 ** bits - 1] : [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
  return { min: Math.fround((lo - q.zeroPoint) * q.scale), max: Math.fround((hi - q.zeroPoint) * q.scale) };
}

function noteNeed(need: { -readonly [K in keyof Need]: boolean }, s: Scheme): void {
  if (s.granularity.kind === "block") need.blocks = true;
  if (s.dtype === "int4" || s.dtype === "uint4" || s.dtype === "int2" || s.dtype === "uint2") need.fourBit = true;
  if (s.dtype === "int16" || s.dtype === "uint16") need.sixteenBit = true;
  if (s.dtype === "float8e4m3fn") need.float8 = true;
  if (s.dtype === "float4e2m1") need.float4 = true;
}

/** All of a value's uses as a list of (node, input), or "all". */
export function consumersOf(uses: "all" | readonly Use[]): Consumers {
  return uses === "all" ? "all" : uses.map((u) => ({ node: pathOfNode(u.node), input: u.input }));
}

/** One number stays in the document; more go to the tensors file. */
function numbers(tensors: Map<string, TensorData>, name: string, x: Float32Array): Numbers {
  if (x.length === 1) return [x[0]!];
  tensors.set(name, floats(x));
  return { tensor: name };
}

function zeroPoints(tensors: Map<string, TensorData>, name: string, x: Int32Array): Numbers {
  if (x.every((z) => z === x[0])) return [x[0] ?? 0];
  // Stored as int32: .npy has no 4-bit types.
  tensors.set(name, tensorFromBytes("int32", [x.length], packCodes(x, "int32")));
  return { tensor: name };
}
