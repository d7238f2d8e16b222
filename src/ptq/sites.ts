import { constantOf, toFloat32 } from "../graph/constant.ts";
import type { Model, Node, Value } from "../graph/ir.ts";
import { floats, type TensorData } from "../graph/tensor.ts";
import { pathOf, pathOfNode } from "../graph/walk.ts";
import { readTensorNumbers } from "../plan/tensors.ts";
import type { Consumers, Insertion, Numbers, Plan, PlanBundle, Site } from "../plan/types.ts";
import { decode, encode } from "../quant/encode.ts";
import { isCodeDType } from "../quant/float8.ts";

/** Which site and which insertion a use of a value meets. */
export interface SiteIndex {
  at(v: Value, n: Node, input: number): Site | undefined;
  insertion(v: Value, n: Node, input: number): Insertion | undefined;
}

export function siteIndex(model: Model, plan: Plan): SiteIndex {
  const sites = new Map<string, Site[]>();
  for (const s of plan.sites) sites.set(s.value, [...(sites.get(s.value) ?? []), s]);
  const insertions = new Map<string, Insertion[]>();
  for (const i of plan.insertions) insertions.set(i.value, [...(insertions.get(i.value) ?? []), i]);
  const nodePaths = new Map<Node, string>();
  for (const n of model.graph.nodes) nodePaths.set(n, pathOfNode(n));
  const meets = (c: Consumers, n: Node, input: number): boolean =>
    c === "all" || c.some((x) => x.input === input && x.node === (nodePaths.get(n) ?? pathOfNode(n)));
  const pathOfValue = (v: Value) => (v.graph === model.graph ? v.name : pathOf(v));
  return {
    at: (v, n, input) => sites.get(pathOfValue(v))?.find((s) => meets(s.consumers, n, input)),
    insertion: (v, n, input) => insertions.get(pathOfValue(v))?.find((s) => meets(s.consumers, n, input)),
  };
}

export function numbersOf(x: Numbers, bundle: PlanBundle): ArrayLike<number> {
  if (!("tensor" in x)) return x;
  const t = bundle.tensors.get(x.tensor);
  if (!t) throw new Error(`internal: the plan has no tensor "${x.tensor}"`);
  return readTensorNumbers(t);
}

export interface StoredCodes {
  readonly codes: ArrayLike<number>;
  readonly scale: ArrayLike<number>;
  readonly zeroPoint: ArrayLike<number>;
}

type WeightSite = Extract<Site, { kind: "weight" }>;

/** The elements of a weight site's constant, or of what the plan put in its place. */
export function sourceOf(site: WeightSite, v: Value, bundle: PlanBundle): Float32Array {
  const replaced = bundle.plan.replacements.find((r) => r.value === site.value);
  if (replaced) return toFloat32(bundle.tensors.get(replaced.tensor.tensor)!);
  const view = constantOf(v);
  if (!view) throw new Error(`internal: weight site on "${v.name}", which is no constant`);
  return view.float32();
}

/** The plan's codes of a weight, or round-to-nearest. */
export function storedCodes(site: WeightSite, v: Value, bundle: PlanBundle): StoredCodes {
  const { dtype, narrow, granularity } = site.scheme;
  if (!isCodeDType(dtype)) throw new Error(`internal: codes of ${dtype}`);
  const scale = numbersOf(site.scale, bundle);
  const zeroPoint = numbersOf(site.zeroPoint, bundle);
  if (site.codes) return { codes: numbersOf(site.codes, bundle), scale, zeroPoint };
  const shape = constantOf(v)!.shape;
  return { codes: encode(sourceOf(site, v, bundle), shape, { dtype, narrow, granularity, scale, zeroPoint }), scale, zeroPoint };
}

/** What a weight site's consumers read: its codes, dequantized. */
export function weightTensor(site: WeightSite, v: Value, bundle: PlanBundle): TensorData {
  const { dtype, granularity } = site.scheme;
  const { shape } = constantOf(v)!;
  if (!isCodeDType(dtype)) return floats(sourceOf(site, v, bundle), shape);
  const { codes, scale, zeroPoint } = storedCodes(site, v, bundle);
  return floats(decode(codes, shape, { dtype, granularity, scale, zeroPoint }), shape);
}
