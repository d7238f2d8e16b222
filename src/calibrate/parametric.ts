import { cloneModel } from "../graph/clone.ts";
import type { Model, Value } from "../graph/ir.ts";
import { int64s } from "../graph/tensor.ts";
import { tensorType } from "../graph/types.ts";
import { nodesByPath, valuesByPath } from "../graph/walk.ts";
import type { QParams } from "../quant/affine.ts";
import type { Feeds } from "../runtime/types.ts";

/** One value to quantize with numbers given at run time. */
export interface ParametricSite {
  /** Path of a float32 value. */
  readonly value: string;
  readonly dtype: "uint8" | "int8";
  /** Which uses see the quantized value: node path and input. Default: all of them. */
  readonly uses?: readonly { readonly node: string; readonly input: number }[];
}

const SCALES = "qc_scales";
const ZERO_POINTS = { uint8: "qc_zero_points_uint8", int8: "qc_zero_points_int8" } as const;
const KINDS = ["uint8", "int8"] as const;

/**
 * A copy of the model in which each site is quantized and dequantized with a scale and a zero point that are inputs of the graph: one
 * session serves every candidate.
 *
 *   qc_scales float32 [V], qc_zero_points_T T [sites of type T], in the order of the sites; see `siteFeeds`
 *
 * Opset 13 or later (per-tensor scale of one element; Split takes its sizes as an input).
 */
export function parametricQdq(model: Model, sites: readonly ParametricSite[]): Model {
  const copy = cloneModel(model);
  const g = copy.graph;
  const first = g.nodes[0];
  if (first === undefined || sites.length === 0) return copy;
  const values = valuesByPath(copy);
  const nodes = nodesByPath(copy);
  const anchor = first;
  const unpack = (input: Value, n: number): (Value | undefined)[] => {
    if (n === 1) return [input];
    const sizes = g.constant(int64s(Array.from({ length: n }, () => 1)), `${input.name}_sizes`);
    return g.insertBefore(anchor, { op: "Split", inputs: [input, sizes], outputs: Array.from({ length: n }), attrs: { axis: 0 } }).outputs;
  };
  const scales = unpack(g.addInput(SCALES, tensorType("float32", [sites.length])), sites.length);
  const zeroPoints = { uint8: [] as (Value | undefined)[], int8: [] as (Value | undefined)[] };
  for (const kind of KINDS) {
    const n = sites.filter((s) => s.dtype === kind).length;
    if (n > 0) zeroPoints[kind] = unpack(g.addInput(ZERO_POINTS[kind], tensorType(kind, [n])), n);
  }
  const taken = { uint8: 0, int8: 0 };
  for (const [i, site] of sites.entries()) {
    const value = values.get(site.value);
    if (value === undefined) throw new RangeError(`internal: no value "${site.value}"`);
    const uses = site.uses?.map((u) => ({ node: nodes.get(u.node)!, input: u.input })) ?? [...value.uses];
    const parameters = [scales[i], zeroPoints[site.dtype][taken[site.dtype]++]];
    const home = value.graph;
    const from = value.producer ?? (home === g ? (parameters[1]?.producer ?? parameters[0]?.producer) : undefined);
    const q = { op: "QuantizeLinear", inputs: [value, ...parameters] };
    const quantize = from ? home.insertAfter(from, q) : home.insertBefore(home.nodes[0]!, q);
    const dequantize = home.insertAfter(quantize, { op: "DequantizeLinear", inputs: [quantize.outputs[0], ...parameters] });
    for (const u of uses) home.replaceUse(u.node, u.input, dequantize.outputs[0]);
  }
  return copy;
}

/** The inputs that give the sites these parameters, in the same order. */
export function siteFeeds(sites: readonly ParametricSite[], parameters: readonly QParams[]): Feeds {
  const out: Record<string, Feeds[string]> = {};
  out[SCALES] = { dtype: "float32", dims: [sites.length], data: Float32Array.from(parameters, (p) => p.scale) };
  for (const kind of KINDS) {
    const zero = parameters.filter((_, i) => sites[i]!.dtype === kind).map((p) => p.zeroPoint);
    if (zero.length > 0)
      out[ZERO_POINTS[kind]] = { dtype: kind, dims: [zero.length], data: kind === "uint8" ? Uint8Array.from(zero) : Int8Array.from(zero) };
  }
  return out;
}
