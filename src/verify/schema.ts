import { PLAN_SCHEMA } from "../plan/schema.ts";

const string = { type: "string" } as const;
const count = { type: "integer", minimum: 0 } as const;
/** JSON has no infinite numbers: they are written as these strings. */
const number = { $ref: "#/$defs/number" } as const;
const list = (items: object) => ({ type: "array", items });
const pair = { type: "array", items: number, minItems: 2, maxItems: 2 } as const;
const object = (properties: Record<string, unknown>, optional: readonly string[] = []) => ({
  type: "object",
  properties,
  required: Object.keys(properties).filter((k) => !optional.includes(k)),
  additionalProperties: false,
});
const counts = (...names: readonly string[]) => object(Object.fromEntries(names.map((n) => [n, count])));

const estimate = object({ value: number, interval: pair }, ["interval"]);
const metric = object(
  {
    name: string,
    unit: { enum: ["%", "dB", ""] },
    better: { enum: ["higher", "lower"] },
    n: count,
    float: estimate,
    quantized: estimate,
    difference: object({ value: number, se: number, interval: pair, from: { enum: ["paired", "jackknife"] } }),
    flips: object({ lost: count, won: count, p: number, samples: object({ lost: list(string), won: list(string) }) }, ["samples"]),
  },
  ["flips"],
);
const output = object(
  {
    name: string,
    shape: list(count),
    n: count,
    sqnrDb: number,
    medianSqnrDb: number,
    worst: object({ sample: string, sqnrDb: number }),
    cosine: number,
    maxAbsError: number,
    agreement: object({ rate: number, rows: count }),
    nonFinite: count,
  },
  ["agreement"],
);
const level = { enum: ["disabled", "basic", "extended", "layout", "all"] } as const;
const milliseconds = object({ medianMs: number, p10Ms: number, p90Ms: number });
const planned = PLAN_SCHEMA.properties as Readonly<Record<string, { readonly items?: { readonly properties: object } }>>;
const step = planned["steps"]!.items!;

/** JSON Schema (2020-12) of `report.json`. `docs/report.schema.json` is this, written out. */
export const REPORT_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  $id: "https://qc.dev/report.schema.json",
  title: "qc report",
  description: "What quantizing cost on held-out samples, and what it won.",
  ...object(
    {
      schema: { const: "qc.report/1" },
      tool: string,
      model: object({ structure: string, weights: string }),
      target: string,
      recipe: string,
      calibrator: string,
      seed: { type: "integer" },
      data: object({ name: string, sha256: string, calibrate: count, select: count, heldOut: count }),
      verdict: { enum: ["ok", "suspect", "not-verified"] },
      why: list(string),
      samples: counts("n", "of"),
      levels: list(object({ level, outputs: list(output), metric }, ["metric"])),
      layers: object({
        n: count,
        rows: list(
          object({ node: string, op: string, value: string, sqnrDb: number, noiseAdded: number, state: { enum: ["quantized", "float"] } }),
        ),
      }),
      latency: object(
        { level, threads: count, rounds: count, float: milliseconds, quantized: milliseconds, ratio: number, interval: pair },
        ["interval"],
      ),
      time: planned["time"],
      bytes: counts("before", "after"),
      bitsPerWeight: number,
      sites: counts("weight", "static", "dynamic", "cast"),
      products: counts("products", "both", "weightOnly", "float"),
      skips: { type: "object", additionalProperties: count },
      steps: list({ ...step, properties: { ...step.properties, before: number, after: number } }),
      sensitivity: object({
        unit: string,
        schemes: list(string),
        rows: list(object({ node: string, losses: list({ anyOf: [number, { type: "null" }] }) })),
      }),
      frontier: object({ unit: string, points: list(object({ bytes: number, loss: number, chosen: { type: "boolean" } }, ["chosen"])) }),
      stages: list(object({ stage: string, seconds: number })),
      diagnostics: list(object({ code: string, severity: string, text: string, note: string })),
      machine: object({ platform: string, arch: string, cpu: string, cores: count, node: string, onnxruntime: string, device: string }, [
        "device",
      ]),
    },
    ["calibrator", "data", "latency", "time", "bitsPerWeight", "sensitivity", "frontier"],
  ),
  $defs: { number: { anyOf: [{ type: "number" }, { enum: ["Infinity", "-Infinity", "NaN"] }] } },
};

/** The text of `docs/report.schema.json`. */
export function printReportSchema(): string {
  return `${JSON.stringify(REPORT_SCHEMA, undefined, 2)}\n`;
}
