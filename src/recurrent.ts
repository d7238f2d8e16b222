import type { Report } from "./diagnostics.ts";
import type { Model } from "./graph/ir.ts";
import { opFacts } from "./graph/ops/index.ts";
import { pathOfNode } from "./graph/walk.ts";
import { type Recipe, recipeOf } from "./plan/recipes/index.ts";
import type { Target } from "./plan/target.ts";
import { findRegions } from "./prepare/regions.ts";

/** Without static ranges: activations quantized while running where the target is fast at that, else weights alone. */
export function recipeWithoutRanges(target: Target): "int8-dynamic" | "int8-weights" {
  return target.name === "ort-cpu" ? "int8-dynamic" : "int8-weights";
}

const TOKEN_REGIONS: ReadonlySet<string> = new Set(["layer-norm", "rms-norm"]);
const TOKEN_OPS: ReadonlySet<string> = new Set(["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"]);

/** A normalization over the last axis, as one operator or spelt out. */
function ofTokens(model: Model): boolean {
  return [...model.graph.allNodes()].some((n) => TOKEN_OPS.has(n.op)) || findRegions(model).some((r) => TOKEN_REGIONS.has(r.kind));
}

/**
 * What recipe `auto` takes back once it sees the graph: a recurrent network feeds its rounding errors back to itself, step after step, so
 * its activations get no static 8-bit ranges. (A speech detector of 8 products: probabilities within .02 of float on 98.7 % of the frames
 * with 8-bit weights, on 78 % with 8-bit activations too.) A network of tokens, known by the normalization of each, has single tokens out of
 * all proportion: quantized while running, each token gets a scale of its own. (A language model of 29 million weights: perplexity 33.6 in
 * float, 34.2 with a scale for each token, 41.7 with one for all.) A recipe that was asked for by name is kept.
 */
export function recipeForGraph<
  T extends {
    readonly options: { readonly recipe: string };
    readonly target: Target;
    readonly recipe: Recipe;
    readonly mix?: unknown;
  },
>(wish: T, model: Model, report: Report): T {
  if (wish.options.recipe !== "auto" || wish.mix !== undefined) return wish;
  if (wish.recipe.name === "int8-dynamic" && ofTokens(model))
    return { ...wish, recipe: { ...recipeOf("int8-tokens"), floatType: wish.recipe.floatType } };
  if (wish.recipe.activations !== "static") return wish;
  const nodes = [...model.graph.allNodes()].filter((n) => opFacts(n)?.trait === "recurrent");
  if (nodes.length === 0) return wish;
  const name = recipeWithoutRanges(wish.target);
  report({ code: "plan/recurrent", nodes: nodes.map(pathOfNode), recipe: name });
  return { ...wish, recipe: { ...recipeOf(name), floatType: wish.recipe.floatType } };
}
