import { intAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import type { Row, Rule } from "../rule.ts";

/** One gradient per needed input, summed down to its shape. */
const each =
  (...parts: ((r: Row) => Value)[]): Rule =>
  (r) =>
    parts.map((f, i) => (r.need(i) ? r.unbroadcast(f(r), r.x(i)) : undefined));

export const add = each(
  (r) => r.dy(),
  (r) => r.dy(),
);
export const sub = each(
  (r) => r.dy(),
  (r) => r.op("Neg", r.dy()),
);
export const mul = each(
  (r) => r.mul(r.dy(), r.x(1)),
  (r) => r.mul(r.dy(), r.x(0)),
);
/** d(a/b)/db = −y/b. */
export const div = each(
  (r) => r.op("Div", r.dy(), r.x(1)),
  (r) => r.op("Neg", r.op("Div", r.mul(r.dy(), r.y()), r.x(1))),
);
/** d(xᵖ)/dx = p·xᵖ⁻¹; d/dp = y·ln x, 0 where x ≤ 0 (there y is constant 0 or undefined). The exponent may be of another type. */
export const pow: Rule = (r) => {
  const e = r.e;
  const same = e.dtype(r.x(0)) === e.dtype(r.x(1));
  const p = same ? r.x(1) : r.number(r.x(1));
  const dx = () => r.mul(r.dy(), r.mul(p, r.op("Pow", r.x(), r.sub(p, 1))));
  const dp = () => {
    const safe = r.where(r.op("Greater", r.x(), r.k(0)), r.x(), 1);
    return r.mul(r.dy(), r.mul(r.y(), r.op("Log", safe)));
  };
  return [r.need(0) ? r.unbroadcast(dx(), r.x(0)) : undefined, r.need(1) && same ? r.unbroadcast(dp(), r.x(1)) : undefined];
};
/** fmod only: x = b·trunc(x/b) + y. */
export const mod: Rule = (r) => {
  if (intAttr(r.node, "fmod", 0) !== 1) r.refuse("Mod of integers");
  const db = () => r.op("Neg", r.mul(r.dy(), r.op("Round", r.op("Div", r.sub(r.x(0), r.y()), r.x(1)))));
  return [r.need(0) ? r.unbroadcast(r.dy(), r.x(0)) : undefined, r.need(1) ? r.unbroadcast(db(), r.x(1)) : undefined];
};
export const sum: Rule = (r) => r.node.inputs.map((x, i) => (x && r.need(i) ? r.unbroadcast(r.dy(), x) : undefined));
export const mean: Rule = (r) => {
  const g = r.mul(r.dy(), 1 / r.node.inputs.length);
  return r.node.inputs.map((x, i) => (x && r.need(i) ? r.unbroadcast(g, x) : undefined));
};
/** Max and Min: to the input that equals the output; inputs that tie share equally. */
export const extreme: Rule = (r) => {
  const inputs = r.node.inputs.filter((v) => v !== undefined);
  if (inputs.length === 1) return [r.dy()];
  const hit = inputs.map((x) => r.number(r.op("Equal", x, r.y())));
  const share = r.op("Div", r.dy(), r.op("Sum", ...hit));
  return inputs.map((x, i) => (r.need(i) ? r.unbroadcast(r.mul(share, hit[i]!), x) : undefined));
};
export const where: Rule = (r) => [
  undefined,
  r.need(1) ? r.unbroadcast(pick(r, true), r.x(1)) : undefined,
  r.need(2) ? r.unbroadcast(pick(r, false), r.x(2)) : undefined,
];
function pick(r: Row, taken: boolean): Value {
  const zero = r.e.scalar(0, r.e.dtype(r.y()));
  return taken ? r.op("Where", r.x(0), r.dy(), zero) : r.op("Where", r.x(0), zero, r.dy());
}
