import { intAttr, intsAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import type { Row, Rule } from "../rule.ts";

/** The axes a reduction works over, normalized; "all" when it is every axis of an unknown rank; computed axes are refused. */
type Axes = readonly number[] | "all";
function axesOf(r: Row): Axes {
  const listed = intsAttr(r.node, "axes") ?? (r.has(1) ? r.constInts(1) : []);
  if (!listed) return r.refuse("axes are computed");
  const all = listed.length === 0 && intAttr(r.node, "noop_with_empty_axes", 0) === 0;
  if (all && !r.e.shape(r.x())) return "all";
  const rank = r.rank(r.x());
  return all ? Array.from({ length: rank }, (_, i) => i) : listed.map((a) => r.axis(a, rank)).sort((a, b) => a - b);
}
/** A reduced tensor with its axes kept as 1. */
function kept(r: Row, v: Value, axes: Axes): Value {
  if (axes === "all" || intAttr(r.node, "keepdims", 1) === 1 || axes.length === 0) return v;
  return r.e.op("Unsqueeze", [v, r.e.ints(axes)]);
}
const spread = (r: Row, g: Value) => r.e.like(r.e.op("Expand", [g, r.e.shapeValue(r.x())]), r.x());
/** Elements summed into one output, as a float value or number. */
function count(r: Row, axes: Axes): Value | number {
  if (axes === "all") return r.number(r.op("Size", r.x()));
  const n = r.e.product(axes.map((a) => r.e.dim(r.x(), a)));
  return typeof n === "number" ? n : r.number(n);
}

const sumOver = (r: Row, v: Value, axes: Axes) =>
  axes === "all" ? r.e.op("ReduceSum", [v], { keepdims: 1 }) : r.e.reduce("ReduceSum", v, axes, 1);

export const reduceSum: Rule = (r) => [spread(r, kept(r, r.dy(), axesOf(r)))];
export const reduceMean: Rule = (r) => {
  const axes = axesOf(r);
  const n = count(r, axes);
  const g = kept(r, r.dy(), axes);
  return [spread(r, typeof n === "number" ? r.mul(g, 1 / n) : r.op("Div", g, n))];
};
/** Max and Min: to the elements that equal the result; ties share equally. */
export const reduceExtreme: Rule = (r) => {
  const axes = axesOf(r);
  const hit = r.number(r.op("Equal", r.x(), kept(r, r.y(), axes)));
  const share = r.op("Div", kept(r, r.dy(), axes), sumOver(r, hit, axes));
  return [r.mul(hit, share)];
};
/** y = Σ|x|. */
export const reduceL1: Rule = (r) => [r.mul(r.op("Sign", r.x()), kept(r, r.dy(), axesOf(r)))];
/** y = √Σx²: x/y, and 0 where y is 0. */
export const reduceL2: Rule = (r) => {
  const axes = axesOf(r);
  const y = kept(r, r.y(), axes);
  const zero = r.op("Equal", y, r.k(0));
  return [r.mul(r.x(), r.where(zero, 0, r.op("Div", kept(r, r.dy(), axes), r.where(zero, 1, y))))];
};
export const reduceSumSquare: Rule = (r) => [r.mul(r.x(), r.mul(kept(r, r.dy(), axesOf(r)), 2))];
/** y = ln Σx. */
export const reduceLogSum: Rule = (r) => {
  const axes = axesOf(r);
  return [spread(r, r.op("Div", kept(r, r.dy(), axes), r.op("Exp", kept(r, r.y(), axes))))];
};
/** y = ln Σeˣ. */
export const reduceLogSumExp: Rule = (r) => {
  const axes = axesOf(r);
  return [r.mul(r.op("Exp", r.op("Sub", r.x(), kept(r, r.y(), axes))), kept(r, r.dy(), axes))];
};
/** A running sum turned round. */
export const cumSum: Rule = (r) => [
  r.e.op("CumSum", [r.dy(), r.x(1)], {
    exclusive: intAttr(r.node, "exclusive", 0),
    reverse: 1 - intAttr(r.node, "reverse", 0),
  }),
];

/** y = softmax x: y·(dy − Σ dy·y). */
export const softmax: Rule = (r) => {
  const axes = [r.axis(intAttr(r.node, "axis", -1), r.rank(r.x()))];
  const inner = r.e.reduce("ReduceSum", r.mul(r.dy(), r.y()), axes, 1);
  return [r.mul(r.y(), r.sub(r.dy(), inner))];
};
/** dy − eʸ·Σdy. */
export const logSoftmax: Rule = (r) => {
  const axes = [r.axis(intAttr(r.node, "axis", -1), r.rank(r.x()))];
  return [r.sub(r.dy(), r.mul(r.op("Exp", r.y()), r.e.reduce("ReduceSum", r.dy(), axes, 1)))];
};
/** Values only: dy goes back to where they were taken. */
export const topK: Rule = (r) => {
  if (!r.hasDy(0)) return [];
  const axis = intAttr(r.node, "axis", -1);
  return [r.e.op("ScatterElements", [r.e.zeros(r.x()), r.y(1), r.dy()], { axis, reduction: "add" })];
};
