import { Ajv } from "ajv";
import { parse } from "yaml";
import { nearest } from "./diagnostics/nearest.ts";
import { type Diagnostic, QcError } from "./diagnostics.ts";
import { readFile } from "./io/source.ts";
import { CHOICE_FILE, RECIPES } from "./options.ts";

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
  const bad = (at: string, detail: string, more: object = {}): Diagnostic => ({
    code: "data/config",
    file,
    line: undefined,
    at,
    detail,
    page: "docs/cli.md",
    ...more,
  });
  let value: unknown;
  try {
    value = parse(text, { maxAliasCount: 100 });
  } catch (e) {
    throw new QcError(bad("", (e as Error).message), { cause: e });
  }
  const check = new Ajv({ allErrors: true, strict: false }).compile(SCHEMA);
  if (check(value)) return value as unknown as RecipeFile;
  throw new QcError(
    (check.errors ?? []).map((e) => {
      const at = e.instancePath.split("/").slice(1).join(".");
      const extra = (e.params as { additionalProperty?: string }).additionalProperty;
      if (extra !== undefined) {
        const known = Object.keys(SCHEMA.properties);
        const near = nearest(extra, known);
        return bad([at, extra].filter((x) => x !== "").join("."), "is no known key here", {
          allowed: known,
          ...(near === undefined ? {} : { nearest: near }),
        });
      }
      return bad(at, e.message ?? "is not valid", e.keyword === "enum" ? { allowed: RECIPES } : {});
    }),
  );
}

/** `{ 'head.*': 'w8a8' }` as `--scheme` takes it. */
export function schemeList(schemes: Readonly<Record<string, string>>): string[] {
  return Object.entries(schemes).map(([pattern, scheme]) => `${pattern}=${scheme}`);
}
