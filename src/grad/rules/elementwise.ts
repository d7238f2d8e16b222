import { floatAttr, intAttr, stringAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import type { Row, Rule } from "../rule.ts";

/** dx = dy · f(x, y). */
const times =
  (f: (r: Row) => Value): Rule =>
  (r) => [r.mul(r.dy(), f(r))];

const square = (r: Row, v: Value) => r.mul(v, v);

export const relu: Rule = (r) => [r.masked(r.op("Greater", r.y(), r.k(0)), r.dy())];

/** Inclusive at both bounds. A bound's gradient is the sum of dy over the elements it holds. */
export const clip: Rule = (r) => {
  const sum = (held: Value) => r.e.op("ReduceSum", [r.where(held, r.dy(), 0)], { keepdims: 0 });
  return [
    r.need(0) ? r.masked(r.op("Equal", r.x(), r.y()), r.dy()) : undefined,
    r.need(1) ? r.e.reshapeLike(sum(r.op("Less", r.x(), r.x(1))), r.x(1)) : undefined,
    r.need(2) ? r.e.reshapeLike(sum(r.op("Greater", r.x(), r.x(2))), r.x(2)) : undefined,
  ];
};
export const leakyRelu: Rule = (r) => {
  const alpha = floatAttr(r.node, "alpha", 0.01);
  return [r.where(r.op("Less", r.x(), r.k(0)), r.mul(r.dy(), alpha), r.dy())];
};
/** The slope is broadcast to x from the right; dSlope = Σ x·dy over x < 0. */
export const prelu: Rule = (r) => {
  const negative = r.op("Less", r.x(), r.k(0));
  return [
    r.need(0) ? r.where(negative, r.mul(r.dy(), r.x(1)), r.dy()) : undefined,
    r.need(1) ? r.unbroadcast(r.where(negative, r.mul(r.dy(), r.x()), 0), r.x(1)) : undefined,
  ];
};
export const elu: Rule = (r) => {
  const alpha = floatAttr(r.node, "alpha", 1);
  return [r.mul(r.dy(), r.where(r.op("Less", r.x(), r.k(0)), r.add(r.y(), alpha), 1))];
};
export const selu: Rule = (r) => {
  const alpha = floatAttr(r.node, "alpha", 1.6732631921768188);
  const gamma = floatAttr(r.node, "gamma", 1.0507010221481323);
  return [r.mul(r.dy(), r.where(r.op("Greater", r.x(), r.k(0)), gamma, r.add(r.y(), gamma * alpha)))];
};
/** y = max(0, x) + min(0, α(exp(x/α) − 1)). */
export const celu: Rule = (r) => {
  const alpha = floatAttr(r.node, "alpha", 1);
  return [r.mul(r.dy(), r.where(r.op("Greater", r.x(), r.k(0)), 1, r.op("Exp", r.div(r.x(), alpha))))];
};
export const thresholdedRelu: Rule = (r) => [r.where(r.op("Greater", r.x(), r.k(floatAttr(r.node, "alpha", 1))), r.dy(), 0)];
/** y = x + bias below −lambd, x − bias above lambd, 0 between. */
export const shrink: Rule = (r) => [r.where(r.op("Greater", r.op("Abs", r.x()), r.k(floatAttr(r.node, "lambd", 0.5))), r.dy(), 0)];

export const sigmoid = times((r) => r.mul(r.y(), r.sub(1, r.y())));
export const tanh = times((r) => r.sub(1, square(r, r.y())));
export const exp = times((r) => r.y());
export const log: Rule = (r) => [r.op("Div", r.dy(), r.x())];
export const sqrt: Rule = (r) => [r.div(r.mul(r.dy(), 0.5), r.y())];
export const reciprocal: Rule = (r) => [r.op("Neg", r.mul(r.dy(), square(r, r.y())))];
export const neg: Rule = (r) => [r.op("Neg", r.dy())];
export const abs = times((r) => r.op("Sign", r.x()));
export const sin = times((r) => r.op("Cos", r.x()));
export const cos: Rule = (r) => [r.op("Neg", r.mul(r.dy(), r.op("Sin", r.x())))];
export const tan = times((r) => r.add(square(r, r.y()), 1));
export const sinh = times((r) => r.div(r.add(r.op("Exp", r.x()), r.op("Exp", r.op("Neg", r.x()))), 2));
export const cosh = times((r) => r.div(r.sub(r.op("Exp", r.x()), r.op("Exp", r.op("Neg", r.x()))), 2));
export const asin: Rule = (r) => [r.op("Div", r.dy(), r.op("Sqrt", r.sub(1, square(r, r.x()))))];
export const acos: Rule = (r) => [r.op("Neg", r.op("Div", r.dy(), r.op("Sqrt", r.sub(1, square(r, r.x())))))];
export const atan: Rule = (r) => [r.op("Div", r.dy(), r.add(square(r, r.x()), 1))];
export const asinh: Rule = (r) => [r.op("Div", r.dy(), r.op("Sqrt", r.add(square(r, r.x()), 1)))];
export const acosh: Rule = (r) => [r.op("Div", r.dy(), r.op("Sqrt", r.sub(square(r, r.x()), 1)))];
export const atanh: Rule = (r) => [r.op("Div", r.dy(), r.sub(1, square(r, r.x())))];
const gauss = (r: Row, x: Value) => r.op("Exp", r.mul(r.mul(x, x), -0.5));
export const erf = times((r) => r.mul(r.op("Exp", r.op("Neg", square(r, r.x()))), 2 / Math.sqrt(Math.PI)));
export const softplus = times((r) => r.op("Sigmoid", r.x()));
export const softsign = times((r) => r.div(1, square(r, r.add(r.op("Abs", r.x()), 1))));
/** y = clip(αx + β, 0, 1): α inside. */
export const hardSigmoid: Rule = (r) => {
  const inside = r.op("And", r.op("Greater", r.y(), r.k(0)), r.op("Less", r.y(), r.k(1)));
  return [r.where(inside, r.mul(r.dy(), floatAttr(r.node, "alpha", 0.2)), 0)];
};
/** y = x · clip(x/6 + ½, 0, 1). Derivative x/3 + ½ inside (−3, 3), clipped to 0 and 1 outside. */
export const hardSwish: Rule = (r) => {
  const inner = r.add(r.div(r.x(), 3), 0.5);
  const outer = r.where(r.op("Greater", r.x(), r.k(0)), 1, 0);
  return [r.mul(r.dy(), r.where(r.op("Less", r.op("Abs", r.x()), r.k(3)), inner, outer))];
};
/** Exact: Φ(x) + x·φ(x). Tanh form: u = √(2/π)(x + 0.044715x³), ½(1 + tanh u) + ½x(1 − tanh² u)·u'. */
export const gelu: Rule = (r) => {
  const x = r.x();
  if (stringAttr(r.node, "approximate", "none") === "tanh") {
    const c = Math.sqrt(2 / Math.PI);
    const x2 = square(r, x);
    const t = r.op("Tanh", r.mul(r.mul(x, r.add(r.mul(x2, 0.044715), 1)), c));
    const du = r.mul(r.add(r.mul(x2, 3 * 0.044715), 1), c);
    const d = r.add(r.mul(r.mul(r.mul(x, du), r.sub(1, square(r, t))), 0.5), r.add(r.mul(t, 0.5), 0.5));
    return [r.mul(r.dy(), d)];
  }
  const cdf = r.add(r.mul(r.op("Erf", r.mul(x, Math.SQRT1_2)), 0.5), 0.5);
  return [r.mul(r.dy(), r.add(cdf, r.mul(x, r.mul(gauss(r, x), 1 / Math.sqrt(2 * Math.PI)))))];
};
/** y = x·σ(αx): σ + αx·σ(1 − σ). */
export const swish: Rule = (r) => {
  const alpha = floatAttr(r.node, "alpha", 1);
  const ax = r.mul(r.x(), alpha);
  const s = r.op("Sigmoid", ax);
  return [r.mul(r.dy(), r.mul(s, r.add(r.mul(ax, r.sub(1, s)), 1)))];
};
/** y = x·t, t = tanh(softplus x): t + x(1 − t²)σ(x). */
export const mish: Rule = (r) => {
  const t = r.op("Tanh", r.op("Softplus", r.x()));
  return [r.mul(r.dy(), r.add(t, r.mul(r.mul(r.x(), r.sub(1, square(r, t))), r.op("Sigmoid", r.x()))))];
};
export const identity: Rule = (r) => [r.dy()];
/** In inference the identity; with a mask (training_mode) the kept elements scaled by 1 / (1 − ratio). */
export const dropout: Rule = (r) => {
  if (r.has(2)) r.refuse("Dropout with training_mode draws a new mask every run");
  return [r.dy()];
};
/** Between float types; from or to an integer type it has no slope. */
export const cast: Rule = (r) => {
  const float = (v: Value) => ["float32", "float64", "float16", "bfloat16"].includes(r.e.dtype(v));
  const back = { float32: 1, float16: 10, float64: 11, bfloat16: 16 }[r.e.dtype(r.x()) as string];
  if (!float(r.x()) || back === undefined) return [];
  if (r.node.op === "Cast" && ![1, 10, 11, 16].includes(intAttr(r.node, "to", 1))) return [];
  return [r.e.op("Cast", [r.dy()], { to: back })];
};
