import type { Node } from "../../graph/ir.ts";
import { type Affine, batchNormAffine } from "../affine.ts";
import { soleUse } from "../edit.ts";
import { type Linear, linearOf, scaleInputs, scaleOutputs } from "../linear.ts";
import { paddingOf } from "../padding.ts";
import { type Context, matched, nodeRule, type Refusal, refuse } from "../rule.ts";

type Bind = { readonly bn: Node; readonly affine: Affine; readonly linear: Linear; readonly side: "behind" | "before" };

/**
 * BatchNormalization next to a product with constant weights becomes part of them (Jacob et al. 2018, §3.2):
 *     k = gamma / sqrt(var + eps) [C];  s = beta − mean·k [C]
 *     behind:  W' = W·k [O];  b' = b·k + s
 *     before:  W' = W·k [I];  b' = b + Σ_i W[o, i]·s[i]     (exact only without padding, unless s = 0: padding is added after the shift)
 * Conv and ConvTranspose with groups, Gemm, and MatMul of rank 2 (its channels are axis 1 then).
 * Tolerance: k is computed in double and rounded once with W, where the runtime rounds x·k and + s for themselves: a few units of
 * float32 in each sum of K products.
 */
export const foldBatchnorm = nodeRule<Bind>({
  name: "fold-batchnorm",
  ops: ["BatchNormalization"],
  tolerance: 1e-4,
  match(bn, ctx) {
    const affine = batchNormAffine(bn);
    if (typeof affine === "string") return refuse(bn, affine);
    const behind = matchBehind(bn, affine, ctx);
    if (behind?.ok) return behind;
    const before = matchBefore(bn, affine, ctx);
    if (before?.ok) return before;
    return behind ?? before ?? refuse(bn, "it stands at no product with constant weights");
  },
  apply({ bn, affine, linear, side }) {
    if (side === "behind") scaleOutputs(linear, affine.k, affine.s, "fold-batchnorm", bn);
    else {
      scaleInputs(linear, affine.k, affine.s, "fold-batchnorm");
      linear.node.graph.replaceUse(linear.node, 0, affine.x);
      bn.graph.remove(bn);
    }
  },
});

function matchBehind(bn: Node, affine: Affine, ctx: Context): { ok: true; bind: Bind } | Refusal | undefined {
  const p = affine.x.producer;
  if (!p || p.graph !== bn.graph) return undefined;
  const product = p.op === "Add" ? p.inputs.find((v) => v?.producer?.op === "MatMul")?.producer : p;
  if (!product) return undefined;
  const linear = linearOf(product, ctx);
  if (!linear || "ok" in linear) return linear;
  if (linear.out !== affine.x) return undefined;
  if (!soleUse(linear.out)) return refuse(p, "its result is used by other nodes too");
  if (linear.axis === -1 && linear.rank !== 2)
    return refuse(product, linear.rank === undefined ? "the rank of its result is not known" : "its outputs are not axis 1");
  if (linear.channels !== affine.k.length) return refuse(bn, "it has another number of channels than the product");
  return matched({ bn, affine, linear, side: "behind" });
}

function matchBefore(bn: Node, affine: Affine, ctx: Context): { ok: true; bind: Bind } | Refusal | undefined {
  const use = soleUse(bn.outputs[0]);
  if (use?.input !== 0 || use.node.graph !== bn.graph) return undefined;
  const linear = linearOf(use.node, ctx);
  if (!linear || "ok" in linear) return linear;
  if (use.node.op === "MatMul" && linear.rank !== 2) return refuse(use.node, "its inputs are not axis 1");
  if (use.node.op === "Gemm" && use.node.attrs.has("transA")) return refuse(use.node, "it transposes its input");
  if (linear.inputs !== affine.k.length) return refuse(use.node, "it has another number of channels");
  if (affine.s.some((x) => x !== 0)) {
    const why = paddingOf(use.node);
    if (why !== undefined) return refuse(use.node, why);
  }
  return matched({ bn, affine, linear, side: "before" });
}
