import { CALIBRATORS, chooseRange } from "../calibrate/calibrators.ts";
import type { Calibrator, Range, Stats } from "../calibrate/types.ts";
import type { Model } from "../graph/ir.ts";
import { floats, type TensorData, tensorFrom } from "../graph/tensor.ts";
import { pathOf } from "../graph/walk.ts";
import type { Numbers, Plan, PlanBundle, Replacement, Site } from "../plan/types.ts";
import { INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import { paramsOf } from "./ranges.ts";
import type { Solved } from "./sequential.ts";

/** A plan with the codes, scales and biases of solved layers in place of round-to-nearest. The bundle given is not changed. */
export function withSolved(bundle: PlanBundle, solved: readonly Solved[], because: string): PlanBundle {
  const tensors = new Map(bundle.tensors);
  const bySite = new Map(solved.map((s) => [s.layer.site.value, s]));
  const sites = bundle.plan.sites.map((site, i): Site => {
    const s = site.kind === "weight" ? bySite.get(site.value) : undefined;
    if (!s || site.kind !== "weight") return site;
    const stem = `r${String(i).padStart(4, "0")}`;
    const [scales, zeros] = inSiteOrder(s);
    const codes = `${stem}.codes`;
    tensors.set(codes, codesTensor(s));
    return {
      ...site,
      scale: numbers(tensors, `${stem}.scale`, scales),
      zeroPoint: zeroNumbers(tensors, `${stem}.zero_point`, zeros),
      codes: { tensor: codes },
      because: site.because.includes(because) ? site.because : `${site.because}; ${because}`,
    };
  });
  const replacements: Replacement[] = [...bundle.plan.replacements];
  for (const s of solved) {
    if (!s.bias || !s.layer.bias) continue;
    const { value } = s.layer.bias;
    const path = pathOf(value);
    const name = `${path}.corrected`;
    tensors.set(name, floats(s.bias, value.data!.shape));
    const at = replacements.findIndex((r) => r.value === path);
    const r: Replacement = { value: path, tensor: { tensor: name }, because: "makes the means of the outputs equal" };
    if (at < 0) replacements.push(r);
    else replacements[at] = r;
  }
  return swept({ ...bundle.plan, sites, replacements }, tensors);
}

/** Keeps the tensors that the plan names. */
function swept(plan: Plan, tensors: ReadonlyMap<string, TensorData>): PlanBundle {
  const named = new Set<string>();
  const note = (x: Numbers | undefined) => {
    if (x && "tensor" in x) named.add(x.tensor);
  };
  for (const s of plan.sites) {
    if (s.kind === "static" || s.kind === "weight") {
      note(s.scale);
      note(s.zeroPoint);
    }
    if (s.kind === "weight") note(s.codes);
  }
  for (const r of plan.replacements) named.add(r.tensor.tensor);
  for (const i of plan.insertions) named.add(i.by.tensor);
  for (const c of plan.pruned?.constants ?? []) named.add(c.tensor.tensor);
  return { plan, tensors: new Map([...tensors].filter(([name]) => named.has(name))) };
}

/** Stored as int8 or uint8 also for fewer bits (.npy has no 4-bit types), in the shape of the weight. */
function codesTensor(s: Solved): TensorData {
  const { dtype } = s.layer.site.scheme;
  const { shape } = s.layer.weight.constant;
  if (dtype === "int16") return tensorFrom(Int16Array.from(s.codes), shape);
  if (dtype === "uint16") return tensorFrom(Uint16Array.from(s.codes), shape);
  return dtype.startsWith("u") ? tensorFrom(Uint8Array.from(s.codes), shape) : tensorFrom(Int8Array.from(s.codes), shape);
}

/** Scales and zero points in the order of the site's parameters: one, one a channel, or the shape of the blocks. */
function inSiteOrder(s: Solved): readonly [Float32Array, Int32Array] {
  const { granularity } = s.layer.site.scheme;
  if (granularity.kind === "tensor") return [s.scales.slice(0, 1), s.zeros.slice(0, 1)];
  if (granularity.kind === "channel" || granularity.axis !== 0) return [s.scales, s.zeros];
  // Blocks along the first axis of [K, N]: parameters [blocks, N], solved as [N, blocks].
  const n = s.layer.groups * s.layer.rows;
  return [turned(s.scales, n, new Float32Array(s.scales.length)), turned(s.zeros, n, new Int32Array(s.zeros.length))];
}

function turned<T extends Float32Array | Int32Array>(x: T, rows: number, out: T): T {
  const nb = x.length / rows;
  for (let m = 0; m < rows; m++) for (let b = 0; b < nb; b++) out[b * rows + m] = x[m * nb + b]!;
  return out;
}

function numbers(tensors: Map<string, TensorData>, name: string, x: Float32Array): Numbers {
  if (x.length === 1) return [x[0]!];
  tensors.set(name, floats(x));
  return { tensor: name };
}

function zeroNumbers(tensors: Map<string, TensorData>, name: string, x: Int32Array): Numbers {
  if (x.every((z) => z === x[0])) return [x[0] ?? 0];
  tensors.set(name, tensorFrom(x));
  return { tensor: name };
}

/**
 * The same plan with other activation ranges. Sites that had the same parameters keep common ones (the target may have tied them): they
 * get the union of their new ranges. Sites without statistics stay as they are.
 */
export function withRanges(
  bundle: PlanBundle,
  stats: Stats,
  calibrator: Calibrator,
  name: string,
  outputs: ReadonlySet<string>,
): PlanBundle {
  const keyOf = (s: Extract<Site, { kind: "static" }>) => JSON.stringify([s.scheme, s.scale, s.zeroPoint]);
  const ranges = new Map<string, Range | undefined>();
  for (const s of bundle.plan.sites) {
    if (s.kind !== "static" || !isIntDType(s.scheme.dtype)) continue;
    const key = keyOf(s);
    const seen = stats.values.get(s.value);
    if (!seen || seen.count === 0 || (ranges.has(key) && !ranges.get(key))) {
      ranges.set(key, undefined);
      continue;
    }
    const { min, max } = INT_DTYPES[s.scheme.dtype];
    const output = s.consumers === "all" && outputs.has(s.value);
    const r = chooseRange(seen, output ? CALIBRATORS.minmax : calibrator, { levels: max - min + 1, symmetric: s.scheme.symmetric, output });
    const old = ranges.get(key);
    ranges.set(key, old ? { min: Math.min(old.min, r.min), max: Math.max(old.max, r.max) } : { min: r.min, max: r.max });
  }
  const sites = bundle.plan.sites.map((s): Site => {
    const range = s.kind === "static" ? ranges.get(keyOf(s)) : undefined;
    if (!range || s.kind !== "static") return s;
    const q = paramsOf(range, s.scheme);
    if (!isIntDType(q.dtype)) return s;
    const { min, max } = INT_DTYPES[q.dtype];
    const covered = { min: Math.fround((min - q.zeroPoint) * q.scale), max: Math.fround((max - q.zeroPoint) * q.scale) };
    return { ...s, scale: [q.scale], zeroPoint: [q.zeroPoint], range: covered };
  });
  return { ...bundle, plan: { ...bundle.plan, sites, calibrator: name } };
}

/** Constants with a new content, but for those that are stored as codes anyway. */
export function withConstants(
  bundle: PlanBundle,
  model: Model,
  changed: ReadonlyMap<string, Float32Array>,
  coded: ReadonlySet<string>,
  because: string,
): PlanBundle {
  const tensors = new Map(bundle.tensors);
  const replacements = bundle.plan.replacements.filter((r) => !changed.has(r.value) || coded.has(r.value));
  for (const [value, x] of changed) {
    if (coded.has(value)) continue;
    const name = `${value}.rescaled`;
    tensors.set(name, floats(x, model.graph.values.get(value)!.data!.shape));
    replacements.push({ value, tensor: { tensor: name }, because });
  }
  return swept({ ...bundle.plan, replacements }, tensors);
}

/** The activations of a plan alone: every weight in float. For choosing ranges apart from the rounding of weights. */
export function activationsAlone(bundle: PlanBundle): PlanBundle {
  return { ...bundle, plan: { ...bundle.plan, sites: bundle.plan.sites.filter((s) => s.kind !== "weight") } };
}
