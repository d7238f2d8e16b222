import { CODEBOOKS } from "../quant/codebook.ts";
import { DTYPES } from "../quant/dtype.ts";
import { SKIP_CODES, WEIGHT_FORMS } from "./types.ts";

const string = { type: "string" } as const;
const count = { type: "integer", minimum: 0 } as const;
const ref = {
  type: "object",
  properties: { tensor: { type: "string", minLength: 1 } },
  required: ["tensor"],
  additionalProperties: false,
} as const;
const numbers = { anyOf: [{ type: "array", items: { type: "number" }, minItems: 1 }, { $ref: "#/$defs/tensorRef" }] } as const;
const object = (properties: Record<string, unknown>, optional: readonly string[] = []) => ({
  type: "object",
  properties,
  required: Object.keys(properties).filter((k) => !optional.includes(k)),
  additionalProperties: false,
});
const site = (kind: string, more: Record<string, unknown> = {}, optional: readonly string[] = []) =>
  object(
    {
      kind: { const: kind },
      value: string,
      consumers: { $ref: "#/$defs/consumers" },
      scheme: { $ref: "#/$defs/scheme" },
      ...more,
      because: string,
    },
    optional,
  );

/** JSON Schema (2020-12) of `plan.json`. `docs/plan.schema.json` is this, written out. */
export const PLAN_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  $id: "https://qc.dev/plan.schema.json",
  title: "qc plan",
  description: "Every decision about one model for one target: what is quantized, with which numbers, what stays float and why.",
  ...object(
    {
      schema: { const: "qc.plan/1" },
      tool: string,
      model: object({ structure: string, weights: string }),
      prepare: string,
      target: string,
      recipe: string,
      calibrator: string,
      seed: { type: "integer" },
      opset: { type: "integer", minimum: 1 },
      irVersion: { type: "integer", minimum: 3 },
      stats: object({ sha256: string, samples: count }),
      time: object({
        source: { enum: ["onnxruntime", "tensorrt"] },
        table: string,
        floatMs: { type: "number" },
        predictedMs: { type: "number" },
      }),
      tensors: object({ file: { type: "string", pattern: "^[^/\\\\]+$" }, sha256: { type: "string", pattern: "^[0-9a-f]{64}$" } }),
      sites: { type: "array", items: { $ref: "#/$defs/site" } },
      skips: {
        type: "array",
        items: object({ node: string, op: string, code: { enum: Object.keys(SKIP_CODES) }, detail: string }),
      },
      replacements: { type: "array", items: object({ value: string, tensor: { $ref: "#/$defs/tensorRef" }, because: string }) },
      insertions: {
        type: "array",
        items: object({
          value: string,
          consumers: { $ref: "#/$defs/consumers" },
          op: { const: "Mul" },
          by: { $ref: "#/$defs/tensorRef" },
          because: string,
        }),
      },
      steps: {
        type: "array",
        items: object(
          {
            step: string,
            before: { type: ["number", "null"] },
            after: { type: ["number", "null"] },
            unit: { const: "dB" },
            kept: { type: "boolean" },
            layers: count,
            seconds: { type: "number" },
            detail: string,
            gains: { type: "array", items: object({ at: string, gainDb: { type: "number" } }) },
          },
          ["layers", "seconds", "detail", "gains"],
        ),
      },
      reverts: {
        type: "array",
        items: object({ node: string, to: { enum: ["a16", "w8", "float"] }, gainDb: { type: "number" }, costBytes: { type: "number" } }),
      },
      rest: object({
        to: { enum: ["float16", "bfloat16"] },
        keep: { type: "array", items: object({ value: string, because: string }) },
      }),
      schemes: { type: "object", additionalProperties: string },
      pruned: object({
        groups: { type: "array", items: object({ of: { type: "array", items: string }, channels: count, kept: count }) },
        constants: { type: "array", items: object({ value: string, tensor: { $ref: "#/$defs/tensorRef" } }) },
        because: string,
      }),
    },
    ["calibrator", "stats", "time", "tensors", "rest", "schemes", "pruned"],
  ),
  $defs: {
    tensorRef: ref,
    numbers,
    consumers: {
      anyOf: [{ const: "all" }, { type: "array", minItems: 1, items: object({ node: string, input: count }) }],
    },
    scheme: object(
      {
        dtype: {
          enum: [
            ...Object.keys(DTYPES).filter((d) => !["string", "bool", "complex64", "complex128"].includes(d)),
            ...Object.keys(CODEBOOKS),
          ],
        },
        symmetric: { type: "boolean" },
        narrow: { type: "boolean" },
        bits: { type: "integer", minimum: 2, maximum: 16 },
        granularity: {
          anyOf: [
            object({ kind: { const: "tensor" } }),
            object({ kind: { const: "channel" }, axis: count }),
            object({ kind: { const: "block" }, axis: count, size: { type: "integer", minimum: 1 } }),
          ],
        },
      },
      ["bits"],
    ),
    site: {
      anyOf: [
        site(
          "static",
          {
            scale: { $ref: "#/$defs/numbers" },
            zeroPoint: { $ref: "#/$defs/numbers" },
            range: object({ min: { type: "number" }, max: { type: "number" } }),
          },
          ["range"],
        ),
        site(
          "weight",
          {
            scale: { $ref: "#/$defs/numbers" },
            zeroPoint: { $ref: "#/$defs/numbers" },
            codes: { $ref: "#/$defs/tensorRef" },
            tensorScale: { type: "number" },
            form: { enum: [...WEIGHT_FORMS] },
            accuracyLevel: { type: "integer", minimum: 0, maximum: 4 },
          },
          ["codes", "tensorScale", "form", "accuracyLevel"],
        ),
        site("dynamic", { per: { const: "token" } }, ["per"]),
        site("cast"),
      ],
    },
  },
} as const;

/** The text of `docs/plan.schema.json`. */
export function printPlanSchema(): string {
  return `${JSON.stringify(PLAN_SCHEMA, null, 2)}\n`;
}
