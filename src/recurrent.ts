import type { Report } from "./diagnostics.ts";
import type { Model } from "./graph/ir.ts";
import { opFacts } from "./graph/ops/index.ts";
import { pathOfNode } from "./graph/walk.ts";
import { type Recipe, recipeOf } from "./plan/recipes/index.ts";
import type { Target } from "./plan/target.ts";

/** Without static ranges: activations quantized while running where the target is fast at that, else weights alone. */
export function recipeWithoutRanges(target: Target): "int8-dynamic" | "int8-weights" {
  return target.name === "ort-cpu" ? "int8-dynamic" : "int8-weights";
}

/**
 * What recipe `auto` takes back once it sees the graph: a recurrent network feeds its rounding errors back to itself, step after step, so
 * its activations get no static 8-bit ranges. (A speech detector of 8 products: probabilities within .02 of float on 98.7 % of the frames
 * with 8-bit weights, on 78 % with 8-bit activations too.) A recipe that was asked for by name is kept.
 */
export function recipeForGraph<
  T extends {
    readonly options: { readonly recipe: string };
    readonly target: Target;
    readonly recipe: Recipe;
    readonly mix?: unknown;
  },
>(wish: T, model: Model, report: Report): T {
  if (wish.options.recipe !== "auto" || wish.recipe.activations !== "static" || wish.mix !== undefined) return wish;
  const nodes = [...model.graph.allNodes()].filter((n) => opFacts(n)?.trait === "recurrent");
  if (nodes.length === 0) return wish;
  const name = recipeWithoutRanges(wish.target);
  report({ code: "plan/recurrent", nodes: nodes.map(pathOfNode), recipe: name });
  return { ...wish, recipe: { ...recipeOf(name), floatType: wish.recipe.floatType } };
}
