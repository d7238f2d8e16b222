import { intAttr } from "../../graph/attr.ts";
import type { Node, Value } from "../../graph/ir.ts";
import { asIntegers } from "../../graph/tensor.ts";
import { bypass, bypassProblem, soleUse, sweep } from "../edit.ts";
import { rankOf } from "../linear.ts";
import { type Context, matched, nodeRule, refuse } from "../rule.ts";

interface Bind {
  readonly softmax: Node;
  readonly flatten: Node;
  readonly reshape: Node;
}

/**
 * Before opset 13 Softmax worked on a matrix [d₀ … dₐ₋₁, dₐ … dₙ₋₁]; conversion writes that as Flatten, Softmax, Reshape. Where a is the
 * last axis, the matrix's rows are the rows of x:
 *     Reshape(Softmax(Flatten(x, n−1), −1), shape of x) = Softmax(x, −1): exact.
 */
export const plainSoftmax = nodeRule<Bind>({
  name: "plain-softmax",
  ops: ["Softmax", "LogSoftmax", "Hardmax"],
  tolerance: 0,
  match(softmax, ctx) {
    const flatten = softmax.inputs[0]?.producer;
    const use = soleUse(softmax.outputs[0]);
    if (flatten?.op !== "Flatten" || flatten.graph !== softmax.graph || !soleUse(softmax.inputs[0])) return undefined;
    if (use?.node.op !== "Reshape" || use.input !== 0 || use.node.graph !== softmax.graph) return undefined;
    const x = flatten.inputs[0]!;
    const rank = rankOf(x, ctx);
    const axis = intAttr(flatten, "axis", 1);
    if (rank === undefined) return refuse(softmax, "the rank of its input is not known");
    if ((axis < 0 ? axis + rank : axis) !== rank - 1 || ![1, -1].includes(intAttr(softmax, "axis", -1))) return undefined;
    if (!isShapeOf(use.node.inputs[1], x, ctx)) return undefined;
    const why = bypassProblem(use.node, softmax.outputs[0]!);
    return why === undefined ? matched({ softmax, flatten, reshape: use.node }) : refuse(softmax, why);
  },
  apply({ softmax, flatten, reshape }, ctx) {
    const g = softmax.graph;
    const flat = softmax.inputs[0];
    const shape = reshape.inputs[1];
    ctx.retype(softmax.outputs[0]!, reshape.outputs[0]!);
    g.replaceUse(softmax, 0, flatten.inputs[0]);
    g.setAttr(softmax, "axis", -1);
    bypass(reshape, softmax.outputs[0]!);
    sweep(flat);
    sweep(shape);
  },
});

function isShapeOf(v: Value | undefined, x: Value, ctx: Context): boolean {
  const p = v?.producer;
  if (p) return p.op === "Shape" && p.inputs[0] === x && p.attrs.size === 0;
  const want = ctx.fixedShape(x);
  return want !== undefined && v?.data?.dtype === "int64" && asIntegers(v.data).join() === want.join();
}
