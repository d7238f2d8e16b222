import type { Node } from "../../graph/ir.ts";
import { type Affine, elementwiseAffine } from "../affine.ts";
import { soleUse } from "../edit.ts";
import { type Linear, linearOf, scaleInputs, scaleOutputs } from "../linear.ts";
import { paddingOf } from "../padding.ts";
import { type Context, matched, nodeRule, type Refusal, refuse } from "../rule.ts";

type Bind = { readonly node: Node; readonly affine: Affine; readonly linear: Linear; readonly side: "behind" | "before" };

/**
 * Mul, Add, Sub, Div by a constant (one number, or one a channel) next to a product with constant weights becomes part of them:
 *     behind:  y' = k·y + s:  W' = W·k [O];  b' = b·k + s
 *     before:  x' = k·x + s:  W' = W·k [I];  b' = b + Σ_i W[o, i]·s[i]     (without padding, unless s = 0)
 * Nodes of recognized functions (the 3 and the 1/6 of a hard swish) stay: the function would no longer be one.
 * The Add behind a MatMul stays: MatMul has no bias of its own. A shared weight stays: it would be stored twice. Tolerance as in
 * fold-batchnorm.
 */
export const foldAffine = nodeRule<Bind>({
  name: "fold-affine",
  ops: ["Mul", "Add", "Sub", "Div"],
  tolerance: 1e-4,
  match(n, ctx) {
    if (ctx.inRegion(n)) return undefined;
    const behind = matchBehind(n, ctx);
    if (behind?.ok) return behind;
    const before = matchBefore(n, ctx);
    return before?.ok ? before : (behind ?? before);
  },
  apply({ node, affine, linear, side }) {
    if (side === "behind") scaleOutputs(linear, affine.k, affine.s, "fold-affine", node);
    else {
      scaleInputs(linear, affine.k, affine.s, "fold-affine");
      linear.node.graph.replaceUse(linear.node, 0, affine.x);
      node.graph.remove(node);
    }
  },
});

function matchBehind(n: Node, ctx: Context): { ok: true; bind: Bind } | Refusal | undefined {
  for (const v of n.inputs) {
    const p = v?.producer;
    if (!p || p.graph !== n.graph) continue;
    const product = p.op === "Add" ? p.inputs.find((x) => x?.producer?.op === "MatMul")?.producer : p;
    if (!product || (product.op === "MatMul" && p === product && isBias(n, product, ctx))) continue;
    const linear = linearOf(product, ctx);
    if (!linear || "ok" in linear || linear.out !== v) continue;
    const affine = elementwiseAffine(n, linear.channels, linear.axis, linear.rank);
    if (affine === undefined) continue;
    if (typeof affine === "string") return refuse(n, affine);
    if (!soleUse(linear.out)) return refuse(p, "its result is used by other nodes too");
    if (linear.weight.constant.root.uses.length > 1) return refuse(product, "its weight is shared, and folding would copy it");
    return matched({ node: n, affine, linear, side: "behind" });
  }
  return undefined;
}

/** The Add that is a MatMul's bias already. */
function isBias(n: Node, matmul: Node, ctx: Context): boolean {
  const linear = linearOf(matmul, ctx);
  return n.op === "Add" && linear !== undefined && !("ok" in linear) && linear.biasAdd?.node === n;
}

function matchBefore(n: Node, ctx: Context): { ok: true; bind: Bind } | Refusal | undefined {
  const use = soleUse(n.outputs[0]);
  if (use?.input !== 0 || use.node.graph !== n.graph) return undefined;
  const linear = linearOf(use.node, ctx);
  // In front of a MatMul such a Mul is the weight of a normalization: it belongs to that region.
  if (!linear || "ok" in linear || use.node.op === "MatMul") return undefined;
  const affine = elementwiseAffine(n, linear.inputs, 1, linear.weight.constant.shape.length);
  if (affine === undefined) return undefined;
  if (typeof affine === "string") return refuse(n, affine);
  if (linear.weight.constant.root.uses.length > 1) return refuse(use.node, "its weight is shared, and folding would copy it");
  const t = ctx.typeOf(affine.x);
  if (t?.kind !== "tensor" || t.shape?.length !== linear.weight.constant.shape.length || t.shape[1] !== linear.inputs)
    return refuse(n, "the shape of its input is not known, or the constant stretches it");
  if (use.node.op === "Gemm" && use.node.attrs.has("transA")) return refuse(use.node, "it transposes its input");
  if (affine.s.some((x) => x !== 0)) {
    const why = paddingOf(use.node);
    if (why !== undefined) return refuse(use.node, why);
  }
  return matched({ node: n, affine, linear, side: "before" });
}
