import { QcError } from "../diagnostics.ts";
import type { Model } from "../graph/ir.ts";
import { asFloat32, floats, type TensorData, tensorFrom } from "../graph/tensor.ts";
import { readNumbers, spread } from "../plan/tensors.ts";
import type { PlanBundle, Replacement, Site } from "../plan/types.ts";
import { isIntDType } from "../quant/dtype.ts";
import { encode, paramCount } from "../quant/encode.ts";
import type { QatList } from "./insert.ts";
import { numbersOf, referenced } from "./tensors.ts";

const BECAUSE = "learned by another trainer";

/**
 * Takes a trained file back: scales and weights by the names in the list, folded to integer codes; biases as they are. The plan that comes
 * out computes what the trained graph computes. Every name that is missing or holds no sensible number is reported at once.
 */
export function importQat(trained: Model, list: QatList, bundle: PlanBundle): PlanBundle {
  if (list.model.structure !== bundle.plan.model.structure || list.model.weights !== bundle.plan.model.weights)
    throw new QcError({ code: "qat/foreign-list", part: list.model.structure === bundle.plan.model.structure ? "weights" : "structure" });
  const faults: { name: string; why: string }[] = [];
  const read = (name: string, positive: boolean): { data: Float32Array; shape: readonly number[] } | undefined => {
    const data: TensorData | undefined = trained.graph.values.get(name)?.data;
    if (!data) faults.push({ name, why: "is missing" });
    else if (data.dtype !== "float32") faults.push({ name, why: `is ${data.dtype}, not float32` });
    else {
      const x = asFloat32(data);
      if (!x.every(Number.isFinite)) faults.push({ name, why: "is not finite" });
      else if (positive && !x.every((v) => v > 0)) faults.push({ name, why: "is not above 0" });
      else return { data: x, shape: data.shape };
    }
    return undefined;
  };
  const sites: Site[] = [...bundle.plan.sites];
  const tensors = new Map(bundle.tensors);
  for (const [i, w] of list.weights.entries()) {
    const weight = read(w.weight, false);
    const scale = read(w.scale, true);
    const site = sites[w.sites[0]!];
    if (site?.kind !== "weight" || site.value !== w.value || !isIntDType(site.scheme.dtype)) {
      faults.push({ name: w.value, why: "is no weight site of this plan" });
      continue;
    }
    if (!weight || !scale) continue;
    const { granularity, dtype, narrow } = site.scheme;
    const n = paramCount(weight.shape, granularity);
    if (scale.data.length !== n) {
      faults.push({ name: w.scale, why: `has ${scale.data.length} numbers, not ${n}` });
      continue;
    }
    const zeroPoint = spread(readNumbers(bundle, site.zeroPoint), n);
    const codes = encode(weight.data, weight.shape, { dtype, narrow, granularity, scale: scale.data, zeroPoint });
    const stem = `import${String(i).padStart(4, "0")}`;
    tensors.set(`${stem}.codes`, tensorFrom(codes, weight.shape));
    const numbers = numbersOf(tensors, `${stem}.scale`, scale.data);
    for (const at of w.sites)
      sites[at] = { ...site, consumers: sites[at]!.consumers, scale: numbers, codes: { tensor: `${stem}.codes` }, because: BECAUSE };
  }
  for (const a of list.activations) {
    const scale = read(a.scale, true);
    if (!scale) continue;
    for (const at of a.sites) {
      const site = sites[at];
      if (site?.kind !== "static") {
        faults.push({ name: a.value, why: "is no static site of this plan" });
        continue;
      }
      const { range: _, ...rest } = site;
      sites[at] = { ...rest, scale: Array.from(scale.data) };
    }
  }
  const replacements = new Map<string, Replacement>(bundle.plan.replacements.map((r) => [r.value, r]));
  for (const [i, b] of list.biases.entries()) {
    const bias = read(b.bias, false);
    if (!bias) continue;
    const name = `import_bias${String(i).padStart(4, "0")}`;
    tensors.set(name, floats(bias.data, bias.shape));
    replacements.set(b.value, { value: b.value, tensor: { tensor: name }, because: BECAUSE });
  }
  if (faults.length > 0) throw new QcError({ code: "qat/import-faults", faults });
  const plan = { ...bundle.plan, sites, replacements: [...replacements.values()] };
  return { plan, tensors: referenced(plan, tensors) };
}

/** A list as written by `insert`. */
export function parseQatList(text: string, file: string): QatList {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (e) {
    throw new QcError({ code: "qat/bad-list", file, why: e instanceof Error ? e.message : String(e) });
  }
  const list = value as Partial<QatList> | null;
  if (
    list?.schema !== "qc.qat/1" ||
    !Array.isArray(list.weights) ||
    !Array.isArray(list.activations) ||
    !Array.isArray(list.biases) ||
    !list.model
  )
    throw new QcError({ code: "qat/bad-list", file, why: "it is no list of qc qat insert" });
  return list as QatList;
}
