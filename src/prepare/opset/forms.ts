import { floatAttr, intAttr, stringAttr } from "../../graph/attr.ts";
import type { Node, Value } from "../../graph/ir.ts";
import { asFloat32, floats, int64s } from "../../graph/tensor.ts";
import { scalar } from "./moves.ts";
import { after, before, isRef, REF, type Step, setInput } from "./step.ts";
import { elemOf, rankOf } from "./types.ts";

const label = (n: Node) => n.name || n.op;

/**
 * Softmax, LogSoftmax, Hardmax 13: they worked on the input flattened to two dimensions at `axis` (default 1), and work along one axis
 * now (default -1). X [d0…dn]: Y = reshape(op(flatten(X, axis), -1), shape(X)). Where all dimensions behind `axis` are 1, or `axis` is the
 * last, the two are the same.
 */
export const flattenAxis: Step = (n, ctx) => {
  if (isRef(n.attrs.get("axis"))) return REF("axis");
  const axis = intAttr(n, "axis", 1);
  const x = n.inputs[0];
  if (x === undefined) return "it has no input";
  const rank = rankOf(x);
  const at = axis < 0 && rank !== undefined ? axis + rank : axis;
  const shape = x.data?.shape ?? (x.type?.kind === "tensor" ? x.type.shape : undefined);
  if (axis === -1 || shape?.slice(at + 1).every((d) => d === 1)) {
    n.graph.setAttr(n, "axis", axis);
    return undefined;
  }
  const flat = before(n, "flatten-axis", "Flatten", [x], { axis: { kind: "int", value: axis } });
  const dims = before(n, "flatten-axis", "Shape", [x]);
  setInput(n, 0, flat);
  n.graph.setAttr(n, "axis", -1);
  after(n, 0, (inner) => ({ op: "Reshape", inputs: [inner, dims] }), "flatten-axis");
  n.outputs[0]!.type = undefined;
  ctx.changed("flatten-axis", n);
  return undefined;
};

/** Upsample 9: the scales become an input. */
export const upsampleScales: Step = (n, ctx) => {
  const a = n.attrs.get("scales");
  if (isRef(a)) return REF("scales");
  if (a?.kind !== "floats") return "it has no scales";
  setInput(n, 1, ctx.constant(n, floats(a.value), `${label(n)}_scales`));
  n.graph.setAttr(n, "scales", undefined);
  ctx.changed("upsample-scales", n);
  return undefined;
};

/** Upsample became Resize, with the same meaning in opset 10. Marked, since an Upsample never makes anything smaller. */
export const upsampleToResize: Step = (n, ctx) => {
  n.op = "Resize";
  n.origin = { rule: "opset/upsample-to-resize", from: [label(n)] };
  ctx.changed("upsample-to-resize", n);
  return undefined;
};

/**
 * Resize 11 states what Resize 10 did: output i reads input i / scale (asymmetric); "nearest" takes the pixel below when it enlarges.
 * When it makes a side smaller, onnxruntime's version 10 takes the pixel above, so both at once has no counterpart.
 */
export const resizeModes: Step = (n, ctx) => {
  if (isRef(n.attrs.get("mode"))) return REF("mode");
  const scales = n.inputs[1];
  if (scales === undefined) return "it has no scales";
  let nearest = "floor";
  if (stringAttr(n, "mode", "nearest") === "nearest" && n.origin?.rule !== "opset/upsample-to-resize") {
    const known = constantFloats(scales);
    if (known === undefined) return "its scales are no constants, so it is open whether nearest means the pixel below or above";
    const [up, down] = [known.some((s) => s > 1), known.some((s) => s < 1)];
    if (up && down) return "it enlarges one side and shrinks another with mode nearest";
    if (down) nearest = "ceil";
  }
  n.graph.replaceUse(n, 2, scales);
  setInput(n, 1, ctx.constant(n, floats([], [0]), `${label(n)}_roi`));
  n.graph.setAttr(n, "coordinate_transformation_mode", "asymmetric");
  n.graph.setAttr(n, "nearest_mode", nearest);
  ctx.changed("resize-modes", n);
  return undefined;
};

function constantFloats(v: Value): readonly number[] | undefined {
  const a = v.producer?.op === "Constant" ? v.producer.attrs.get("value") : undefined;
  const data = v.isConstant ? v.data : a?.kind === "tensor" ? a.value : undefined;
  return data?.dtype === "float32" ? [...asFloat32(data)] : undefined;
}

/** Resize 13 dropped one way to place pixels. */
export const resizeCoordinates: Step = (n) =>
  stringAttr(n, "coordinate_transformation_mode", "half_pixel") === "tf_half_pixel_for_nn"
    ? "coordinate_transformation_mode tf_half_pixel_for_nn was removed from ONNX"
    : undefined;

/**
 * BatchNormalization 9: `spatial` = 0 gave each element statistics of its own [C, D1…Dn]. It becomes
 * Y = (X - mean) / sqrt(var + epsilon) · scale + B, broadcast over the batch.
 */
export const batchNormSpatial: Step = (n, ctx) => {
  if (isRef(n.attrs.get("spatial"))) return REF("spatial");
  if (intAttr(n, "spatial", 1) === 1) {
    n.graph.setAttr(n, "spatial", undefined);
    return undefined;
  }
  const [x, scale, bias, mean, variance] = n.inputs;
  const out = n.outputs[0];
  if (n.outputs.slice(1).some((o) => o && (o.uses.length > 0 || o.isOutput))) return "it is in training mode";
  const elem = elemOf(x) ?? elemOf(scale);
  if (elem === undefined) return "the element type of its input is not known";
  const eps = scalar(floatAttr(n, "epsilon", 1e-5), elem);
  if (!(x && scale && bias && mean && variance && out && eps)) return "inputs are missing";
  const r = "batch-norm-spatial";
  const deviation = before(n, r, "Sqrt", [before(n, r, "Add", [variance, ctx.constant(n, eps, `${label(n)}_epsilon`)])]);
  const normal = before(n, r, "Div", [before(n, r, "Sub", [x, mean]), deviation]);
  const scaled = before(n, r, "Mul", [normal, scale]);
  // The node itself becomes the last step, so that its output stays.
  n.op = "Add";
  n.attrs.clear();
  n.graph.replaceUse(n, 4, undefined);
  n.graph.replaceUse(n, 3, undefined);
  n.graph.replaceUse(n, 2, undefined);
  n.graph.replaceUse(n, 0, scaled);
  n.graph.replaceUse(n, 1, bias);
  dropOutputs(n);
  ctx.changed(r, n);
  return undefined;
};

/** BatchNormalization 14: four more outputs meant training; unused they go, and the node means inference, as every runtime takes it. */
export const batchNormOutputs: Step = (n, ctx) => {
  if (n.outputs.length <= 1) return undefined;
  if (n.outputs.slice(1).some((o) => o && (o.uses.length > 0 || o.isOutput))) return "it is in training mode (its statistics are used)";
  dropOutputs(n);
  ctx.changed("batch-norm-outputs", n);
  return undefined;
};

function dropOutputs(n: Node): void {
  for (const o of n.outputs.splice(1)) if (o) n.graph.values.delete(o.name);
}

/**
 * GroupNormalization 21: scale and bias have an element per channel [C] and had one per group [G]:
 * s' = reshape(expand(unsqueeze(s, 1), [G, C / G]), [-1]).
 */
export const groupNormChannels: Step = (n, ctx) => {
  if (isRef(n.attrs.get("num_groups"))) return REF("num_groups");
  const groups = intAttr(n, "num_groups", 0);
  const [x, scale, bias] = n.inputs;
  if (groups < 1 || !(x && scale && bias)) return "inputs or num_groups are missing";
  const r = "group-norm-channels";
  const k = (list: readonly number[], hint: string) => ctx.constant(n, int64s(list), `${label(n)}_${hint}`);
  const channels = before(n, r, "Shape", [x], { start: { kind: "int", value: 1 }, end: { kind: "int", value: 2 } });
  const count = k([groups], "groups");
  const shape = before(n, r, "Concat", [count, before(n, r, "Div", [channels, count])], { axis: { kind: "int", value: 0 } });
  const [one, flat] = [k([1], "axis"), k([-1], "flat")];
  for (const [i, v] of [scale, bias].entries()) {
    const wide = before(n, r, "Expand", [before(n, r, "Unsqueeze", [v, one]), shape]);
    setInput(n, 1 + i, before(n, r, "Reshape", [wide, flat]));
  }
  ctx.changed(r, n);
  return undefined;
};
