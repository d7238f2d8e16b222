import { dirname } from "node:path";
import type { ErrorObject } from "ajv";
import { Ajv } from "ajv";
import { LineCounter, parseDocument } from "yaml";
import { nearest } from "../diagnostics/nearest.ts";
import { type Diagnostic, QcError } from "../diagnostics.ts";
import { readFile } from "../io/source.ts";
import { SET_SCHEMA, STEP_SCHEMAS } from "./schema.ts";
import { argOf, nameOf, type StepConfig } from "./steps/index.ts";
import type { Role } from "./types.ts";

export interface InputConfig {
  readonly from?: string | readonly string[];
  readonly steps?: readonly StepConfig[];
  readonly constant?: unknown;
  readonly state?: string;
  readonly init?: number | "empty";
  readonly finite?: boolean;
}
export interface LabelConfig {
  readonly from?: string;
  readonly steps?: readonly StepConfig[];
  readonly boxes?: string;
}
export interface TextConfig {
  readonly field?: string;
  readonly split?: string;
  readonly least?: number;
  readonly tokenizer: string;
  readonly special?: boolean;
  readonly bos?: number;
  readonly windows?: number;
  readonly decode?: { readonly prefill: number };
  readonly truncate?: number;
  readonly pad?: { readonly length: number; readonly id: number; readonly side?: "left" | "right" };
}
export interface AudioConfig {
  readonly rate?: number;
  readonly frame?: number;
  readonly context?: number;
  readonly length?: number;
}
type PerRole<T> = { readonly [R in Role]?: T };
export interface SplitConfig extends PerRole<number> {
  readonly seed?: number;
  readonly indices?: string | ({ readonly file: string } & PerRole<string>);
}
export type Sources = string | readonly string[];

/** A set file. Paths in it are relative to `folder`. */
export interface SetConfig {
  readonly name?: string;
  readonly source: Sources | PerRole<Sources>;
  readonly inputs?: Readonly<Record<string, InputConfig>>;
  readonly labels?: string | LabelConfig;
  readonly classes?: readonly string[];
  readonly group?: string;
  readonly metric?: string | Readonly<Record<string, unknown>>;
  readonly split?: SplitConfig;
  readonly text?: TextConfig;
  readonly audio?: AudioConfig;
  readonly sequences?: string;
  readonly license?: string;
  readonly sha256?: string;
  readonly secret?: string;
}

export interface LoadedConfig {
  readonly config: SetConfig;
  readonly folder: string;
  /** The file's own text: part of the set's hash. */
  readonly text: string;
}

const MOST = 1 << 20; // a set file is a page of text

export function loadConfig(path: string): LoadedConfig {
  const text = new TextDecoder().decode(readFile(path, MOST));
  return { config: parseConfig(text, path), folder: dirname(path), text };
}

/** YAML (or JSON) text → a checked set file; every offence is collected, with its line. */
export function parseConfig(text: string, file: string): SetConfig {
  const lines = new LineCounter();
  const doc = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  if (doc.errors.length > 0)
    throw new QcError(
      doc.errors.map(
        (e) => ({ code: "data/config", file, line: lines.linePos(e.pos[0]).line, at: "", detail: e.message }) satisfies Diagnostic,
      ),
    );
  let value: unknown;
  try {
    value = doc.toJS({ maxAliasCount: 100 });
  } catch (e) {
    throw new QcError({ code: "data/config", file, line: undefined, at: "", detail: (e as Error).message }, { cause: e });
  }
  const lineOf = (path: readonly string[]): number | undefined => {
    for (let n = path.length; n >= 0; n--) {
      const node = doc.getIn(path.slice(0, n), true) as { range?: readonly number[] } | undefined;
      if (node?.range?.[0] !== undefined) return lines.linePos(node.range[0]).line;
    }
    return undefined;
  };
  const found = problems(value);
  if (found.length > 0)
    throw new QcError(
      found.map(({ path, ...p }) => ({ code: "data/config", file, line: lineOf(path), at: path.join("."), ...p }) satisfies Diagnostic),
    );
  return value as SetConfig;
}

interface Problem {
  readonly path: readonly string[];
  readonly detail: string;
  readonly nearest?: string;
  readonly allowed?: readonly string[];
}

function problems(value: unknown): Problem[] {
  const ajv = new Ajv({ allErrors: true, strict: false, verbose: true });
  const check = ajv.compile(SET_SCHEMA);
  if (!check(value)) return merge((check.errors ?? []).map((e) => problemOf(e, [])));
  const config = value as SetConfig;
  const out: Problem[] = [];
  for (const [name, input] of Object.entries(config.inputs ?? {})) {
    const ways = ["from", "constant", "state"].filter((k) => Object.hasOwn(input, k));
    if (ways.length > 1) out.push({ path: ["inputs", name], detail: `has ${ways.join(" and ")}; one of them feeds the input` });
    out.push(...stepProblems(ajv, input.steps ?? [], ["inputs", name, "steps"]));
  }
  if (typeof config.labels === "object") out.push(...stepProblems(ajv, config.labels.steps ?? [], ["labels", "steps"]));
  return out;
}

function stepProblems(ajv: Ajv, steps: readonly StepConfig[], at: readonly string[]): Problem[] {
  return steps.flatMap((step, i): Problem[] => {
    const name = nameOf(step);
    const path = [...at, String(i)];
    const schema = STEP_SCHEMAS.get(name);
    if (schema === undefined) {
      const known = [...STEP_SCHEMAS.keys()];
      return [{ path, detail: `unknown step "${name}"`, allowed: known, ...hint(nearest(name, known)) }];
    }
    const check = ajv.compile(schema);
    if (check(argOf(step))) return [];
    return merge((check.errors ?? []).map((e) => problemOf(e, typeof step === "string" ? path : [...path, name])));
  });
}

const hint = (word: string | undefined) => (word === undefined ? {} : { nearest: word });

function problemOf(e: ErrorObject, at: readonly string[]): Problem {
  const path = [
    ...at,
    ...e.instancePath
      .split("/")
      .slice(1)
      .map((p) => p.replace(/~1/g, "/").replace(/~0/g, "~")),
  ];
  if (e.keyword === "additionalProperties") {
    const key = (e.params as { additionalProperty: string }).additionalProperty;
    const known = Object.keys((e.parentSchema as { properties?: object } | undefined)?.properties ?? {});
    return { path: [...path, key], detail: "is no known key here", allowed: known, ...hint(nearest(key, known)) };
  }
  if (e.keyword === "enum") {
    const known = (e.params as { allowedValues: readonly unknown[] }).allowedValues.map(String);
    return { path, detail: `is "${String(e.data)}"`, allowed: known, ...hint(nearest(String(e.data), known)) };
  }
  return { path, detail: e.message ?? "is not valid" };
}

/** A failed `anyOf` reports every branch: what went deepest says most, and an unknown key more than a wrong type. */
function merge(found: readonly Problem[]): Problem[] {
  const inside = (p: Problem) => found.some((q) => q !== p && q.path.length > p.path.length && p.path.every((s, i) => q.path[i] === s));
  const kept = found.filter((p) => !inside(p));
  const seen = new Map<string, Problem>();
  for (const p of kept) {
    const key = p.path.join("\0");
    const had = seen.get(key);
    if (had === undefined || (had.allowed === undefined && p.allowed !== undefined)) seen.set(key, p);
  }
  return [...seen.values()];
}
