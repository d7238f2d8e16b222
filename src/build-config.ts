import { fileNameOf } from "./io/path.ts";
import { QUANTIZE, schemaOf } from "./options.ts";
import { type Layout, TRANSFORMERS_JS, transformersJs } from "./preset.ts";
import { isRecipeFile, schemeList } from "./recipe-file.ts";
import { parseYaml } from "./yaml-file.ts";

/** What is asked of the compiler for one artefact: options of `qc quantize`, data among them. */
export interface ArtifactWish {
  /** File name without extension. */
  readonly name: string;
  readonly model: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly gate: string | true | undefined;
  /** Samples and rounds of the gate. */
  readonly rounds: number;
  /** The model as it is: nothing is compiled. */
  readonly copy?: true;
  /** Where its files go; absent: all side by side in the output folder. */
  readonly layout?: Layout;
}

export interface BuildConfig {
  readonly out?: string;
  readonly cache?: string;
  readonly jobs?: number;
  readonly memory?: number | string;
  readonly models: Readonly<Record<string, ModelConfig>>;
  readonly targets?: readonly string[];
  readonly recipes?: readonly string[];
  /** Options of `qc quantize` for all; a model's own come over them. */
  readonly options?: Readonly<Record<string, unknown>>;
  readonly gate?: string | boolean;
  readonly rounds?: number;
}
export interface ModelConfig {
  readonly file: string;
  readonly data?: string;
  readonly targets?: readonly string[];
  readonly recipes?: readonly string[];
  readonly options?: Readonly<Record<string, unknown>>;
  readonly gate?: string | boolean;
  readonly preset?: string;
  /** Bytes of a model file beyond which its constants go to a file beside it. */
  readonly inline?: number | string;
}

/**
 * How a model becomes artefacts. `matrix`: every target with every recipe. A preset that lays files out as some consumer wants them is a
 * further row here.
 */
export type Preset = (name: string, model: ModelConfig, config: BuildConfig) => readonly Omit<ArtifactWish, "gate" | "rounds">[];
const matrix: Preset = (name, model, config) =>
  (model.targets ?? config.targets ?? ["portable"]).flatMap((target) =>
    (model.recipes ?? config.recipes ?? ["auto"]).map((recipe) => ({
      name: `${name}.${target.replace(/[@:]/g, "-")}.${recipeName(recipe)}`,
      model: model.file,
      options: {
        ...optionsOf(config),
        ...optionsOf(model),
        ...schemesOf(config, model),
        ...(model.data === undefined ? {} : { data: model.data }),
        target,
        recipe,
      },
    })),
  );
/** A recipe's file gives the name without folders and extension. */
const recipeName = (recipe: string) => (isRecipeFile(recipe) ? fileNameOf(recipe).replace(/\.[^.]+$/, "") : recipe);
const optionsOf = ({ options }: Pick<ModelConfig, "options">): Readonly<Record<string, unknown>> => {
  const { schemes: _, ...rest } = options ?? {};
  return rest;
};
/** `schemes:` of all models, then those of this one, as `--scheme` takes them. */
function schemesOf(config: BuildConfig, model: ModelConfig): { readonly scheme?: readonly string[] } {
  const of = (o: Readonly<Record<string, unknown>> | undefined) => [
    ...schemeList((o?.["schemes"] ?? {}) as Readonly<Record<string, string>>),
    ...((o?.["scheme"] ?? []) as readonly string[]),
  ];
  const scheme = [...of(config.options), ...of(model.options)];
  return scheme.length > 0 ? { scheme } : {};
}
export const PRESETS: Readonly<Record<string, Preset>> = { matrix, [TRANSFORMERS_JS]: transformersJs };

/** Options that the build sets itself, or that no artefact has. */
const OWN = ["data", "target", "recipe", "stats", "out", "plan", "report", "pareto", "dryRun", "threads", "memory"];
const { properties: all } = schemaOf(QUANTIZE) as { properties: Record<string, object> };
const OPTIONS = {
  type: "object",
  properties: {
    ...Object.fromEntries(Object.entries(all).filter(([k]) => !OWN.includes(k))),
    schemes: { type: "object", additionalProperties: { type: "string" }, description: "node patterns and the scheme that they keep" },
  },
  additionalProperties: false,
};
const NAMES = { type: "array", items: { type: "string" }, minItems: 1 };
const GATE = { type: ["string", "boolean"], description: "a gate.yaml, or true for the defaults" };
export const BUILD_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "qc build",
  type: "object",
  properties: {
    out: { type: "string", description: "folder of the artefacts (artifacts)" },
    cache: { type: "string", description: "folder of the cache (.qc-cache)" },
    jobs: { type: "integer", minimum: 1, description: "artefacts made side by side (1)" },
    memory: { type: ["number", "string"], description: "memory that all jobs together may take, such as 4GB" },
    targets: NAMES,
    recipes: NAMES,
    options: OPTIONS,
    gate: GATE,
    rounds: { type: "integer", minimum: 0, description: "rounds of timing in the gate (0: times are not gated)" },
    models: {
      type: "object",
      minProperties: 1,
      additionalProperties: {
        type: "object",
        properties: {
          file: { type: "string" },
          data: { type: "string" },
          targets: NAMES,
          recipes: NAMES,
          options: OPTIONS,
          gate: GATE,
          preset: { enum: Object.keys(PRESETS) },
          inline: { type: ["number", "string"], description: "bytes of a model file beyond which constants go beside it" },
        },
        required: ["file"],
        additionalProperties: false,
      },
    },
  },
  required: ["models"],
  additionalProperties: false,
} as const;

export function parseBuild(text: string, file: string): BuildConfig {
  return parseYaml(text, file, BUILD_SCHEMA, "docs/build.md") as BuildConfig;
}

export function wishesOf(config: BuildConfig): readonly ArtifactWish[] {
  return Object.entries(config.models).flatMap(([name, model]) => {
    const gate = model.gate ?? config.gate;
    return PRESETS[model.preset ?? "matrix"]!(name, model, config).map((w) => ({
      ...w,
      gate: gate === false ? undefined : gate,
      rounds: config.rounds ?? 0,
    }));
  });
}
