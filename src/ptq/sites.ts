import { constantOf } from "../graph/constant.ts";
import type { Model, Node, Value } from "../graph/ir.ts";
import { floats, type TensorData } from "../graph/tensor.ts";
import { pathOf, pathOfNode } from "../graph/walk.ts";
import type { Consumers, Insertion, Numbers, Plan, PlanBundle, Site } from "../plan/types.ts";
import { isIntDType } from "../quant/dtype.ts";
import { decode, encode } from "../quant/encode.ts";

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
  return tensorNumbers(t);
}

/** Elements of a small numeric tensor of the plan. */
export function tensorNumbers(t: TensorData): ArrayLike<number> {
  const b = t.bytes();
  const c = b.byteOffset % 8 === 0 ? b : b.slice();
  switch (t.dtype) {
    case "float32":
      return new Float32Array(c.buffer, c.byteOffset, c.byteLength / 4);
    case "int8":
      return new Int8Array(c.buffer, c.byteOffset, c.byteLength);
    case "uint8":
      return new Uint8Array(c.buffer, c.byteOffset, c.byteLength);
    case "int16":
      return new Int16Array(c.buffer, c.byteOffset, c.byteLength / 2);
    case "uint16":
      return new Uint16Array(c.buffer, c.byteOffset, c.byteLength / 2);
    case "int32":
      return new Int32Array(c.buffer, c.byteOffset, c.byteLength / 4);
    default:
      throw new TypeError(`internal: ${t.dtype} numbers in a plan`);
  }
}

/** What a weight site's consumers read: the plan's codes, or round-to-nearest of the (replaced) constant, dequantized. */
export function weightTensor(site: Extract<Site, { kind: "weight" }>, v: Value, bundle: PlanBundle): TensorData {
  const view = constantOf(v);
  if (!view) throw new Error(`internal: weight site on "${v.name}", which is no constant`);
  const { dtype, narrow, granularity } = site.scheme;
  if (!isIntDType(dtype)) return floats(view.float32(), view.shape);
  const params = { dtype, narrow, granularity, scale: numbersOf(site.scale, bundle), zeroPoint: numbersOf(site.zeroPoint, bundle) };
  const replaced = bundle.plan.replacements.find((r) => r.value === v.name);
  const source = replaced ? tensorNumbers(bundle.tensors.get(replaced.tensor.tensor)!) : view.float32();
  const codes = site.codes ? numbersOf(site.codes, bundle) : encode(source as Float32Array, view.shape, params);
  return floats(decode(codes, view.shape, params), view.shape);
}
