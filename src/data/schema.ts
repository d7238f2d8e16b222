import { STEPS } from "./steps/index.ts";

/** The set file as JSON Schema; what the steps take is checked by each step's own schema. Also published as docs/set.schema.json. */
const text = { type: "string", minLength: 1 } as const;
const count = { type: "number", exclusiveMinimum: 0 } as const;
const positive = { type: "integer", minimum: 1 } as const;
const texts = { anyOf: [text, { type: "array", items: text, minItems: 1 }] } as const;
const steps = {
  type: "array",
  items: { anyOf: [{ type: "string" }, { type: "object", minProperties: 1, maxProperties: 1 }] },
} as const;
const roles = (of: object) => ({
  type: "object",
  properties: { calibrate: of, select: of, heldOut: of },
  minProperties: 1,
  additionalProperties: false,
});

export const SET_SCHEMA = {
  $schema: "http://json-schema.org/draft-07/schema#",
  title: "qc set file",
  type: "object",
  properties: {
    name: { ...text, description: "for reports" },
    source: {
      anyOf: [...texts.anyOf, roles(texts)],
      description: "npz, npy, folder, glob, txt, jsonl, csv, parquet, or a module; or one for each role",
    },
    inputs: {
      type: "object",
      description: "graph input → where it comes from",
      additionalProperties: {
        type: "object",
        properties: {
          from: { ...texts, description: "field of the source; several columns of a table become one vector" },
          steps,
          constant: { description: "the same value for every sample: a number, nested lists, or a .npy file" },
          state: { ...text, description: "the graph output that is fed back" },
          init: {
            anyOf: [{ type: "number" }, { const: "empty" }],
            description: "value that a sequence starts with (0); `empty`: a cache that grows from no entries",
          },
          finite: { type: "boolean", description: "false: NaN and infinities are meant" },
        },
        additionalProperties: false,
      },
    },
    labels: {
      anyOf: [
        text,
        {
          type: "object",
          properties: {
            from: text,
            steps,
            boxes: { ...text, description: "folder or pattern with {name}: text files of `class cx cy w h`, relative" },
          },
          additionalProperties: false,
        },
      ],
    },
    classes: { type: "array", items: text, description: "names of the classes in the order of the outputs" },
    group: { ...text, description: "field by which results are also listed apart" },
    metric: { anyOf: [text, { type: "object", minProperties: 1, maxProperties: 1 }] },
    split: {
      type: "object",
      properties: {
        calibrate: count,
        select: count,
        heldOut: count,
        seed: { type: "integer" },
        indices: {
          anyOf: [text, { ...roles(text), properties: { file: text, ...roles(text).properties }, required: ["file"] }],
          description: "JSON file with lists of indices or sample names; other names for the lists may be given",
        },
      },
      additionalProperties: false,
    },
    text: {
      type: "object",
      description: "how text becomes token ids",
      properties: {
        field: { ...text, description: "column that holds the text (text)" },
        split: { ...text, description: "separator of the documents in a .txt; default: one a line" },
        least: { type: "integer", minimum: 0, description: "shorter documents (characters) are left out" },
        tokenizer: { ...text, description: "tokenizer.json" },
        special: { type: "boolean", description: "the tokenizer adds its special tokens (false)" },
        bos: { type: "integer", minimum: 0, description: "id that every sequence begins with" },
        windows: { ...positive, description: "all text as one stream, cut into windows of this many tokens" },
        decode: {
          type: "object",
          description: "a window is decoded: a first sample of `prefill` tokens, then one token a sample behind a growing cache",
          properties: { prefill: positive },
          required: ["prefill"],
          additionalProperties: false,
        },
        truncate: { ...positive, description: "longest sequence" },
        pad: {
          type: "object",
          properties: { length: positive, id: { type: "integer", minimum: 0 }, side: { enum: ["left", "right"] } },
          required: ["length", "id"],
          additionalProperties: false,
        },
      },
      required: ["tokenizer"],
      additionalProperties: false,
    },
    audio: {
      type: "object",
      description: "how WAV files become frames",
      properties: {
        rate: { ...positive, description: "resample to this many samples a second" },
        frame: { ...positive, description: "new samples in each frame; without it a file is one sample" },
        context: { type: "integer", minimum: 0, description: "samples of the frame before, put in front" },
        length: { ...positive, description: "whole files are cut or padded with zeros to this many samples" },
      },
      additionalProperties: false,
    },
    sequences: { ...text, description: "field that names the sequence of a sample (for state inputs)" },
    license: text,
    sha256: { type: "string", pattern: "^[0-9a-fA-F]{64}$", description: "of the source file" },
    secret: { ...text, description: "file whose content keys the hashes of samples in stats files" },
  },
  required: ["source"],
  additionalProperties: false,
} as const;

export const STEP_SCHEMAS: ReadonlyMap<string, Readonly<Record<string, unknown>>> = new Map(
  Object.entries(STEPS).map(([name, row]) => [name, row.schema]),
);
