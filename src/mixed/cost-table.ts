import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { type Diagnostic, QcError } from "../diagnostics.ts";
import { sha256 } from "../io/hash.ts";
import { readFile } from "../io/source.ts";

/** What a run takes, node by node and scheme by scheme: an input of the search, named in the plan by its hash. */
export interface CostTable {
  readonly schema: "qc.costs/1";
  readonly tool: string;
  readonly model: { readonly structure: string; readonly weights: string };
  readonly prepare: string;
  readonly target: string;
  readonly source: CostSource;
  /** A run of the float model as it was given, µs: what ratios relate to. */
  readonly floatUs: number;
  /** What a run takes beside its nodes, µs. */
  readonly fixedUs: number;
  readonly nodes: readonly CostRow[];
  /** Inputs of the graph. */
  readonly inputs: readonly { readonly value: string; readonly toCodes: number }[];
  /** The fastest placement that was run as a whole: which nodes were float, though they can be codes. */
  readonly fastest?: { readonly floats: readonly string[]; readonly us: number };
  /** Whole runs: as measured, and as the rows add up. */
  readonly checks: readonly { readonly graph: string; readonly measuredUs: number; readonly predictedUs: number }[];
}

export type CostSource =
  | {
      readonly kind: "onnxruntime";
      readonly version: string;
      readonly level: string;
      readonly threads: number;
      /** Runs behind each median. */
      readonly runs: number;
      /** What recording adds to a kernel, µs; taken off. */
      readonly recordingUs: number;
      readonly machine: CostMachine;
    }
  | { readonly kind: "tensorrt"; readonly profiles: readonly { readonly scheme: string; readonly sha256: string }[] };

export interface CostMachine {
  readonly platform: string;
  readonly arch: string;
  readonly cpu: string;
  readonly cores: number;
}

export interface CostRow {
  /** Path in the prepared graph. */
  readonly node: string;
  readonly op: string;
  /** µs by scheme; nodes without weights have `float` and `codes`. Conversions of layout behind the node are in them. */
  readonly us: Readonly<Record<string, number>>;
  /** µs more when it writes floats and a reader wants codes, and the other way round. */
  readonly toCodes?: number;
  readonly toFloat?: number;
}

const string = { type: "string" } as const;
/** µs; eleven days are no run, and infinity is no number. */
const MOST_US = 1e12;
const time = { type: "number", minimum: 0, maximum: MOST_US } as const;
const object = (properties: Record<string, unknown>, optional: readonly string[] = []) => ({
  type: "object",
  properties,
  required: Object.keys(properties).filter((k) => !optional.includes(k)),
  additionalProperties: false,
});

/** JSON Schema (2020-12) of a cost table. `docs/costs.schema.json` is this, written out. */
export const COSTS_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  $id: "https://qc.dev/costs.schema.json",
  title: "qc cost table",
  description: "What a run of one model on one target takes, node by node and scheme by scheme, in microseconds.",
  ...object(
    {
      schema: { const: "qc.costs/1" },
      tool: string,
      model: object({ structure: string, weights: string }),
      prepare: string,
      target: string,
      source: {
        oneOf: [
          object({
            kind: { const: "onnxruntime" },
            version: string,
            level: { enum: ["disabled", "basic", "extended", "layout", "all"] },
            threads: { type: "integer", minimum: 1 },
            runs: { type: "integer", minimum: 1 },
            recordingUs: time,
            machine: object({ platform: string, arch: string, cpu: string, cores: { type: "integer", minimum: 1 } }),
          }),
          object({
            kind: { const: "tensorrt" },
            profiles: {
              type: "array",
              items: object({ scheme: string, sha256: { type: "string", pattern: "^[0-9a-f]{64}$" } }),
            },
          }),
        ],
      },
      floatUs: { type: "number", exclusiveMinimum: 0, maximum: MOST_US },
      fixedUs: time,
      nodes: {
        type: "array",
        items: object({ node: string, op: string, us: { type: "object", additionalProperties: time }, toCodes: time, toFloat: time }, [
          "toCodes",
          "toFloat",
        ]),
      },
      inputs: { type: "array", items: object({ value: string, toCodes: time }) },
      fastest: object({ floats: { type: "array", items: string }, us: time }),
      checks: { type: "array", items: object({ graph: string, measuredUs: time, predictedUs: time }) },
    },
    ["fastest"],
  ),
} as const;

export function printCostsSchema(): string {
  return `${JSON.stringify(COSTS_SCHEMA, null, 2)}\n`;
}

/** A row is some hundred bytes; networks have some thousand nodes. */
const MOST_BYTES = 64 * 2 ** 20;

export interface CostFile {
  readonly table: CostTable;
  readonly sha256: string;
  readonly file: string;
}

export function readCosts(file: string): CostFile {
  const bytes = readFile(file, MOST_BYTES);
  return { table: parseCosts(new TextDecoder().decode(bytes), file), sha256: sha256(bytes), file };
}

let compiled: ValidateFunction | undefined;

/** JSON text to a table whose form is right; `checkCosts` says whether it fits. */
export function parseCosts(json: string, file: string): CostTable {
  let doc: unknown;
  try {
    doc = JSON.parse(json);
  } catch (e) {
    throw new QcError(
      { code: "costs/malformed", file, at: "the document", detail: e instanceof Error ? e.message : String(e) },
      { cause: e },
    );
  }
  // Keys of objects in the file become lookups by name: a Map below, never a prototype.
  compiled ??= new Ajv2020({ allErrors: true, strict: false }).compile(COSTS_SCHEMA);
  if (!compiled(doc)) {
    const places = new Map<string, Diagnostic>();
    for (const e of compiled.errors ?? []) {
      if (e.keyword === "oneOf" || e.keyword === "const") continue;
      const at = e.instancePath || "the document";
      const extra = e.keyword === "additionalProperties" ? ` ("${String(e.params["additionalProperty"])}")` : "";
      if (!places.has(at)) places.set(at, { code: "costs/malformed", file, at, detail: `${e.message ?? e.keyword}${extra}` });
    }
    if (places.size === 0) places.set("", { code: "costs/malformed", file, at: "/schema", detail: "it is no qc.costs/1" });
    throw new QcError([...places.values()].slice(0, 10));
  }
  const table = doc as CostTable;
  const names = table.nodes.map((r) => r.node);
  const twice = names.find((n, i) => names.indexOf(n) !== i);
  if (twice !== undefined) throw new QcError({ code: "costs/malformed", file, at: "/nodes", detail: `"${twice}" has two rows` });
  return table;
}

/** Whether the table speaks of this model, target and machine. All that is wrong is named. */
export function checkCosts(
  { table, file }: CostFile,
  want: {
    readonly model: { readonly structure: string };
    readonly prepare: string;
    readonly target: string;
    readonly machine: CostMachine;
    readonly version: string;
  },
): void {
  const faults: Diagnostic[] = [];
  const differ = (part: string, theirs: string, ours: string) => {
    if (theirs !== ours) faults.push({ code: "costs/mismatch", file, part, theirs, ours });
  };
  // Times do not depend on what the weights are.
  differ("model", table.model.structure, want.model.structure);
  differ("preparation", table.prepare, want.prepare);
  differ("target", table.target, want.target);
  if (table.source.kind === "onnxruntime") {
    differ("machine", machineText(table.source.machine), machineText(want.machine));
    differ("onnxruntime", table.source.version, want.version);
  }
  if (faults.length > 0) throw new QcError(faults);
}

const machineText = (m: CostMachine): string => `${m.cpu}, ${m.cores} cores, ${m.platform}-${m.arch}`;
