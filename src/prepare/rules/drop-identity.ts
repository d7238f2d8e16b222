import { intAttr, intsAttr } from "../../graph/attr.ts";
import { castTarget } from "../../graph/constant.ts";
import type { Node, Value } from "../../graph/ir.ts";
import { asIntegers } from "../../graph/tensor.ts";
import { bypass, bypassProblem } from "../edit.ts";
import { type Context, matched, nodeRule, refuse } from "../rule.ts";

/**
 * Nodes whose output is their input, element for element, leave the graph: exact.
 * Identity · Dropout at inference · Pad by nothing · Transpose in the old order · Cast to the same type · Concat, Sum, Mean, Max, Min of one.
 */
export const dropIdentity = nodeRule<{ readonly node: Node; readonly by: Value }>({
  name: "drop-identity",
  ops: ["Identity", "Dropout", "Pad", "Transpose", "Cast", "Concat", "Sum", "Mean", "Max", "Min"],
  tolerance: 0,
  match(n, ctx) {
    const by = n.inputs[0];
    if (!by || !n.outputs[0] || !isIdentity(n, ctx)) return undefined;
    // A branch that hands on an outer value or a constant needs its Identity: that is no refusal.
    if (n.outputs[0].isOutput && (by.graph !== n.graph || !by.producer)) return undefined;
    const why = bypassProblem(n, by);
    return why === undefined ? matched({ node: n, by }) : refuse(n, why);
  },
  apply: ({ node, by }) => bypass(node, by),
});

function isIdentity(n: Node, ctx: Context): boolean {
  switch (n.op) {
    case "Identity":
      return true;
    case "Dropout": {
      // Since opset 12 training is an input; before 7 an attribute; between them Dropout is for inference only.
      const training = n.inputs[2];
      if (training) return training.isConstant && training.data!.bytes()[0] === 0;
      return n.attrs.has("is_test") ? intAttr(n, "is_test", 0) === 1 : (ctx.model.opsets.get("") ?? 0) >= 7;
    }
    case "Pad": {
      const pads = n.inputs[1]?.isConstant && n.inputs[1].data!.dtype === "int64" ? asIntegers(n.inputs[1].data!) : intsAttr(n, "pads");
      return pads?.every((p) => p === 0) ?? false;
    }
    case "Transpose":
      return intsAttr(n, "perm")?.every((p, i) => p === i) ?? false;
    case "Cast": {
      const t = ctx.typeOf(n.inputs[0]!);
      return t?.kind === "tensor" && t.elem !== undefined && t.elem === castTarget(n);
    }
    default:
      return n.inputs.length === 1;
  }
}
