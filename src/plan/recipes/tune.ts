import { QcError } from "../../diagnostics.ts";
import type { Recipe } from "./index.ts";

/** What a user may change about a recipe that stores weights alone. */
export interface Tuning {
  readonly block?: string | undefined;
  readonly symmetric?: boolean | undefined;
  readonly tables?: string | undefined;
  readonly accuracyLevel?: number | undefined;
}
export const BLOCKS = ["channel", "16", "32", "64", "128", "256"] as const;
export const TABLE_CHOICES = ["float", "8", "4", "2"] as const;

/** 8 bits need few scales: of 128 inputs each. */
const TABLE_BLOCK = { 8: 128, 4: 32, 2: 16 } as const;

export function tuneRecipe(recipe: Recipe, t: Tuning): Recipe {
  const given = (Object.keys(FLAGS) as (keyof typeof FLAGS)[]).find((k) => t[k] !== undefined && t[k] !== false);
  if (given === undefined) return recipe;
  if (recipe.activations !== "none" || recipe.weight === undefined)
    throw new QcError(
      {
        code: "cli/bad-value",
        flag: FLAGS[given],
        got: String(t[given]),
        want: `a recipe for weights alone, such as int4-weights, not ${recipe.name}`,
      },
      { exitCode: 2 },
    );
  let { weight } = recipe;
  if (t.block === "channel") weight = { dtype: weight.dtype, per: "channel", symmetric: weight.symmetric };
  else if (t.block !== undefined) weight = { ...weight, per: "block", blockSize: Number(t.block) };
  if (t.symmetric) weight = { ...weight, symmetric: true };
  const tables = t.tables === undefined ? recipe.tables : tablesOf(t.tables, weight);
  return {
    ...recipe,
    weight,
    ...(tables === undefined ? {} : { tables }),
    ...(t.accuracyLevel === undefined ? {} : { accuracyLevel: t.accuracyLevel }),
  };
}
const FLAGS = { block: "--block", symmetric: "--symmetric", tables: "--tables", accuracyLevel: "--accuracy-level" } as const;

function tablesOf(bits: string, weight: NonNullable<Recipe["weight"]>): Recipe["tables"] {
  if (bits === "float") return "float";
  const n = Number(bits) as 8 | 4 | 2;
  // Tables of as many bits as the products have their form: one tensor serves both where they share a constant.
  if (weight.dtype === `int${n}`) return weight;
  return { dtype: `int${n}`, per: "block", blockSize: TABLE_BLOCK[n], symmetric: n === 8 };
}
