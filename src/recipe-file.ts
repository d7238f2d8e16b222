import { readFile } from "./io/source.ts";
import { CHOICE_FILE, RECIPES } from "./options.ts";
import { parseYaml } from "./yaml-file.ts";

/** `--recipe FILE`: a recipe with what goes with it. What the command line says comes over it. */
export interface RecipeFile {
  readonly base: string;
  /** Node patterns → schemes; of several that match, the last. */
  readonly schemes?: Readonly<Record<string, string>>;
  readonly skip?: readonly string[];
  readonly budget?: string;
}

const MOST_BYTES = 2 ** 20;
const SCHEMA = {
  type: "object",
  properties: {
    base: { enum: RECIPES },
    schemes: { type: "object", additionalProperties: { type: "string" } },
    skip: { type: "array", items: { type: "string" } },
    budget: { type: "string" },
  },
  required: ["base"],
  additionalProperties: false,
} as const;

export const isRecipeFile = (recipe: string): boolean => CHOICE_FILE.test(recipe);

export function readRecipe(file: string): RecipeFile {
  return parseRecipe(new TextDecoder().decode(readFile(file, MOST_BYTES)), file);
}

export function parseRecipe(text: string, file: string): RecipeFile {
  const more = (e: { readonly keyword: string }) => (e.keyword === "enum" ? { allowed: RECIPES } : {});
  return parseYaml(text, file, SCHEMA, "docs/cli.md", more) as RecipeFile;
}

/** `{ 'head.*': 'w8a8' }` as `--scheme` takes it. */
export function schemeList(schemes: Readonly<Record<string, string>>): string[] {
  return Object.entries(schemes).map(([pattern, scheme]) => `${pattern}=${scheme}`);
}
