import { floatAttr, intAttr, intsAttr, stringAttr } from "../../graph/attr.ts";
import type { Node } from "../../graph/ir.ts";
import { int64s, type TensorData, tensorFromBytes } from "../../graph/tensor.ts";
import { DTYPES, type DType } from "../../quant/dtype.ts";
import { after, intsToInput, isRef, REF, type Step, setInput } from "./step.ts";
import { elemOf } from "./types.ts";

/** A scalar of a float type, rounded to it. undefined: no such type here. */
export function scalar(x: number, dtype: DType): TensorData | undefined {
  const view = new DataView(new ArrayBuffer(8));
  if (dtype === "float32") view.setFloat32(0, x, true);
  else if (dtype === "float64") view.setFloat64(0, x, true);
  else if (dtype === "float16") view.setUint16(0, halfOf(x), true);
  else return undefined;
  return tensorFromBytes(dtype, [], new Uint8Array(view.buffer, 0, DTYPES[dtype].bits / 8).slice());
}

/** float32 to float16 bits, ties to even. Beyond the range: infinity, as a Cast gives. */
function halfOf(x: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, x);
  const bits = view.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const exponent = (bits >>> 23) & 0xff;
  const mantissa = bits & 0x7fffff;
  if (exponent === 0xff) return sign | 0x7c00 | (mantissa ? 0x200 : 0);
  const e = exponent - 112;
  if (e >= 31) return sign | 0x7c00;
  if (e < -10) return sign;
  const full = mantissa | (exponent ? 0x800000 : 0);
  const shift = e <= 0 ? 14 - e : 13;
  const kept = (e <= 0 ? full : mantissa) >>> shift;
  const rest = (e <= 0 ? full : mantissa) & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  const up = rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0;
  return sign | ((e <= 0 ? 0 : e << 10) + kept + up);
}

const label = (n: Node) => n.name || n.op;

/** Squeeze, Unsqueeze, Reduce*: `axes` becomes the second input. An empty list meant "all", which an absent input says. */
export const axesToInput: Step = (n, ctx) => {
  if (isRef(n.attrs.get("axes"))) return REF("axes");
  const axes = intsAttr(n, "axes");
  if (axes === undefined) return undefined;
  if (axes.length === 0 && n.op !== "Unsqueeze") n.graph.setAttr(n, "axes", undefined);
  else intsToInput(n, "axes", 1, ctx);
  ctx.changed("axes-to-input", n);
  return undefined;
};

/** Split 13: the sizes become an input. */
export const splitToInput: Step = (n, ctx) => {
  if (isRef(n.attrs.get("split"))) return REF("split");
  if (!n.attrs.has("split")) return undefined;
  intsToInput(n, "split", 1, ctx);
  ctx.changed("split-to-input", n);
  return undefined;
};

/** Split 18: without sizes, the number of equal parts must be said. */
export const splitCount: Step = (n, ctx) => {
  if (n.inputs[1] !== undefined) return undefined;
  n.graph.setAttr(n, "num_outputs", n.outputs.length);
  ctx.changed("split-count", n);
  return undefined;
};

/** Slice 10: starts, ends and axes become inputs. */
export const sliceInputs: Step = (n, ctx) => {
  for (const name of ["starts", "ends", "axes"]) if (isRef(n.attrs.get(name))) return REF(name);
  const [starts, ends] = [intAttrList(n, "starts"), intAttrList(n, "ends")];
  if (starts === undefined || ends === undefined) return "it has no starts and ends";
  setInput(n, 1, ctx.constant(n, int64s(starts), `${label(n)}_starts`));
  setInput(n, 2, ctx.constant(n, int64s(ends), `${label(n)}_ends`));
  const axes = intAttrList(n, "axes");
  if (axes !== undefined) setInput(n, 3, ctx.constant(n, int64s(axes), `${label(n)}_axes`));
  for (const name of ["starts", "ends", "axes"]) n.graph.setAttr(n, name, undefined);
  ctx.changed("slice-inputs", n);
  return undefined;
};

/** "To the end" is often written as 2^63 - 1. */
function intAttrList(n: Node, name: string): readonly (number | bigint)[] | undefined {
  const a = n.attrs.get(name);
  return a?.kind === "ints" ? a.value : undefined;
}

/** TopK 10: `k` becomes an input [1]. The order (largest first, sorted) is the default of 11. */
export const topkInput: Step = (n, ctx) => {
  if (isRef(n.attrs.get("k"))) return REF("k");
  setInput(n, 1, ctx.constant(n, int64s([intAttr(n, "k", 1)]), `${label(n)}_k`));
  n.graph.setAttr(n, "k", undefined);
  ctx.changed("topk-input", n);
  return undefined;
};

/**
 * Clip 11: bounds become inputs of the data's type. An absent bound was the largest float32, and becomes none: the same for every finite
 * value.
 */
export const clip: Step = (n, ctx) => {
  for (const name of ["min", "max"]) if (isRef(n.attrs.get(name))) return REF(name);
  const bounds = ["min", "max"].filter((name) => n.attrs.has(name));
  if (bounds.length === 0) return undefined;
  const elem = elemOf(n.inputs[0]);
  if (elem === undefined) return "the element type of its input is not known";
  const data = new Map(bounds.map((name) => [name, scalar(floatAttr(n, name, 0), elem)]));
  if ([...data.values()].includes(undefined)) return `its bounds cannot be ${elem}`;
  for (const [i, name] of ["min", "max"].entries()) {
    const d = data.get(name);
    if (d) setInput(n, 1 + i, ctx.constant(n, d, `${label(n)}_${name}`));
    n.graph.setAttr(n, name, undefined);
  }
  ctx.changed("clip-inputs", n);
  return undefined;
};

/** Pad 11: pads and value become inputs; a value of 0 is the default. */
export const padInputs: Step = (n, ctx) => {
  for (const name of ["pads", "value"]) if (isRef(n.attrs.get(name))) return REF(name);
  if (!n.attrs.has("pads")) return "it has no pads";
  const value = floatAttr(n, "value", 0);
  const needs = value !== 0 && stringAttr(n, "mode", "constant") === "constant";
  const elem = needs ? elemOf(n.inputs[0]) : undefined;
  if (needs && elem === undefined) return "the element type of its input is not known";
  const data = needs ? scalar(value, elem!) : undefined;
  if (needs && data === undefined) return `its value cannot be ${elem}`;
  intsToInput(n, "pads", 1, ctx);
  if (data) setInput(n, 2, ctx.constant(n, data, `${label(n)}_value`));
  n.graph.setAttr(n, "value", undefined);
  ctx.changed("pad-inputs", n);
  return undefined;
};

/** Dropout 10: the mask becomes bool; it had the data's type. */
export const dropoutMask: Step = (n, ctx) => {
  const mask = n.outputs[1];
  if (mask === undefined) return undefined;
  if (mask.uses.length === 0 && !mask.isOutput) {
    mask.type = undefined;
    return undefined;
  }
  const elem = elemOf(n.inputs[0]);
  if (elem === undefined) return "its mask is used, and the element type of its input is not known";
  after(n, 1, (inner) => ({ op: "Cast", inputs: [inner], attrs: { to: { kind: "int", value: DTYPES[elem].code } } }), "dropout-mask");
  ctx.changed("dropout-mask", n);
  return undefined;
};

/** Dropout 12: the ratio becomes an input (float32 is legal for any data); training_mode is absent, so nothing is dropped. */
export const dropoutRatio: Step = (n, ctx) => {
  if (isRef(n.attrs.get("ratio"))) return REF("ratio");
  if (!n.attrs.has("ratio")) return undefined;
  setInput(n, 1, ctx.constant(n, scalar(floatAttr(n, "ratio", 0.5), "float32")!, `${label(n)}_ratio`));
  n.graph.setAttr(n, "ratio", undefined);
  ctx.changed("dropout-ratio", n);
  return undefined;
};

/** Scatter got another name. */
export const scatterElements: Step = (n, ctx) => {
  n.op = "ScatterElements";
  ctx.changed("scatter-elements", n);
  return undefined;
};

/** GridSample 20: two modes got other names. */
export const gridSampleMode: Step = (n, ctx) => {
  if (isRef(n.attrs.get("mode"))) return REF("mode");
  const mode = stringAttr(n, "mode", "bilinear");
  const now = mode === "bilinear" ? "linear" : mode === "bicubic" ? "cubic" : mode;
  if (n.attrs.has("mode") && now !== mode) {
    n.graph.setAttr(n, "mode", now);
    ctx.changed("grid-sample-mode", n);
  }
  return undefined;
};

/** DFT 20: the axis becomes an input, and its default another (1 before, -2 now): it is always written. */
export const dftAxis: Step = (n, ctx) => {
  if (isRef(n.attrs.get("axis"))) return REF("axis");
  setInput(n, 2, ctx.constant(n, int64s([intAttr(n, "axis", 1)], []), `${label(n)}_axis`));
  n.graph.setAttr(n, "axis", undefined);
  ctx.changed("dft-axis", n);
  return undefined;
};

/** RoiAlign 16: the new default shifts by half a pixel; before, nothing did. */
export const roiAlignMode: Step = (n, ctx) => {
  n.graph.setAttr(n, "coordinate_transformation_mode", "output_half_pixel");
  ctx.changed("roi-align-mode", n);
  return undefined;
};

/** Scan 8 runs over a batch dimension that Scan 9 does not have. */
export const scanBatch: Step = () => "Scan of opset 8 has a batch dimension and sequence lengths, which Scan 9 has not";
