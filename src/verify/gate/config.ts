import { Ajv, type ErrorObject } from "ajv";
import { LineCounter, parseDocument } from "yaml";
import { nearest } from "../../diagnostics/nearest.ts";
import { type Diagnostic, QcError } from "../../diagnostics.ts";

export const SEVERITIES = ["P0", "P1", "P2"] as const;
/** P0 and P1 end with exit code 3; P2 warns. */
export type Severity = (typeof SEVERITIES)[number];

/** One limit. Shares are fractions of the reference: 0.03 is 3 %. `points` counts in the metric's own unit instead. */
export interface Rule {
  readonly most: number;
  readonly unit: "share" | "points";
  readonly harmless: number;
  readonly harmful: number;
  readonly severity: Severity;
}
export interface FloorRule {
  readonly least: number;
  readonly severity: Severity;
}
export interface SliceRule extends Rule {
  /** Fewer samples than this are shown and not judged. */
  readonly least: number;
}

export interface Gate {
  /** Error rate of each statistical verdict. */
  readonly alpha: number;
  /** What an undecided P0 or P1 does. */
  readonly undecided: "warn" | "fail";
  readonly accuracy: Rule | undefined;
  readonly size: Rule | undefined;
  readonly latency: Rule | undefined;
  readonly throughput: Rule | undefined;
  readonly memory: Rule | undefined;
  /** Under `--attack`. */
  readonly attack: Rule | undefined;
  readonly utilization: { readonly most: number; readonly severity: Severity } | undefined;
  readonly agreement: FloorRule | undefined;
  readonly sqnr: FloorRule | undefined;
  readonly classes: SliceRule | undefined;
  readonly groups: SliceRule | undefined;
  /** Slices by name, over `groups`. */
  readonly slices: Readonly<Record<string, SliceRule>>;
}

interface RawRule {
  readonly most?: number | string;
  readonly harmless?: number | string;
  readonly harmful?: number | string;
  readonly severity?: Severity;
  readonly least?: number | string;
}
interface RawGate {
  readonly alpha?: number;
  readonly undecided?: "warn" | "fail";
  readonly slices?: Readonly<Record<string, RawRule>>;
  readonly [figure: string]: unknown;
}

const AMOUNT = {
  type: ["number", "string"],
  description: "3 % or 0.03 of the reference; 0.5pt in the metric's own points; 30dB where a figure is in decibel",
};
const SEVERITY = { enum: SEVERITIES, description: "P0 and P1 end with exit code 3, P2 warns" };
const rule = (description: string, more: object = {}) => ({
  anyOf: [
    { const: false },
    {
      type: "object",
      description,
      properties: {
        most: AMOUNT,
        harmless: { ...AMOUNT, description: "a true change up to this fails with probability alpha at most (default 0)" },
        harmful: { ...AMOUNT, description: "a true change from this on passes with probability alpha at most (default twice `most`)" },
        severity: SEVERITY,
        ...more,
      },
      additionalProperties: false,
    },
  ],
});
const floor = (description: string) => ({
  anyOf: [
    { const: false },
    { type: "object", description, properties: { least: AMOUNT, severity: SEVERITY }, required: ["least"], additionalProperties: false },
  ],
});
const SLICE = { least: { type: "integer", minimum: 1, description: "fewer samples than this are shown and not judged (default 20)" } };

export const GATE_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "qc gate",
  type: "object",
  properties: {
    alpha: { type: "number", exclusiveMinimum: 0, exclusiveMaximum: 0.5, description: "error rate of each verdict (0.05)" },
    undecided: { enum: ["warn", "fail"], description: "what an undecided P0 or P1 does (warn)" },
    accuracy: rule("loss of the set's metric in its bad direction (3 %, P1)"),
    size: rule("growth of the file with its external data (10 %, P1)"),
    latency: rule("growth of the time of one run (5 %, P1)"),
    throughput: rule("loss of runs a second with every core busy (20 %, P0)"),
    memory: rule("growth of the peak memory of a process that loads and runs the model (no limit)"),
    attack: rule("loss of the metric under --attack, against the reference's on the same changed samples (5pt, P2)"),
    utilization: rule("share of the device that was busy while latency was taken (95 %, P2)"),
    agreement: floor("rows whose largest score is at the same place (no limit)"),
    sqnr: floor("signal to noise of the worst output, in dB (no limit)"),
    classes: rule("loss of the metric within each class (15 %, P1; corrected for their number)", SLICE),
    groups: rule("loss of the metric within each group of the set (15 %, P1; corrected for their number)", SLICE),
    slices: { type: "object", description: "groups or classes by name", additionalProperties: rule("as for groups", SLICE) },
  },
  additionalProperties: false,
} as const;

const DEFAULTS: RawGate = {
  accuracy: { most: "3%", severity: "P1" },
  size: { most: "10%", severity: "P1" },
  latency: { most: "5%", severity: "P1" },
  throughput: { most: "20%", severity: "P0" },
  attack: { most: "5pt", severity: "P2" },
  utilization: { most: "95%", severity: "P2" },
  classes: { most: "15%", severity: "P1", least: 20 },
  groups: { most: "15%", severity: "P1", least: 20 },
};
const FALLBACK: RawRule = { severity: "P1", least: 20 };

export const DEFAULT_GATE: Gate = settleGate({}, "the defaults");

/** YAML (or JSON) text to a gate: what is left out keeps its default, `false` switches a check off. */
export function parseGate(text: string, file: string): Gate {
  const lines = new LineCounter();
  const doc = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const fail = (path: readonly string[], detail: string, more: { nearest?: string; allowed?: readonly string[] } = {}): Diagnostic => {
    const node = doc.getIn(path, true) as { range?: readonly number[] } | undefined;
    const at = node?.range?.[0];
    return {
      code: "data/config",
      file,
      line: at === undefined ? undefined : lines.linePos(at).line,
      at: path.join("."),
      detail,
      page: "docs/cli.md",
      ...more,
    };
  };
  if (doc.errors.length > 0) throw new QcError(doc.errors.map((e) => fail([], e.message)));
  let value: RawGate;
  try {
    value = (doc.toJS({ maxAliasCount: 100 }) ?? {}) as RawGate;
  } catch (e) {
    // An alias that nothing names, or too many of them.
    throw new QcError(fail([], (e as Error).message), { cause: e });
  }
  const check = new Ajv({ allErrors: true, strict: false, verbose: true, validateSchema: false }).compile({
    ...GATE_SCHEMA,
    $schema: undefined,
  });
  if (!check(value)) throw new QcError((check.errors ?? []).filter(telling).map((e) => problem(e, fail)));
  return settleGate(value, file);
}

/** Of the branches of an `anyOf`, `const: false` says nothing. */
const telling = (e: ErrorObject, _i: number, all: readonly ErrorObject[]) =>
  all.length === 1 || !(e.keyword === "anyOf" || e.keyword === "const");

function problem(
  e: ErrorObject,
  fail: (path: readonly string[], detail: string, more?: { nearest?: string; allowed?: readonly string[] }) => Diagnostic,
): Diagnostic {
  const path = e.instancePath.split("/").slice(1);
  const hint = (got: string, allowed: readonly string[]) => {
    const near = nearest(got, allowed);
    return { allowed, ...(near === undefined ? {} : { nearest: near }) };
  };
  if (e.keyword === "additionalProperties") {
    const key = (e.params as { additionalProperty: string }).additionalProperty;
    const known = Object.keys((e.parentSchema as { properties?: object } | undefined)?.properties ?? {});
    return fail([...path, key], "is no known key here", hint(key, known));
  }
  if (e.keyword === "enum") {
    const allowed = (e.params as { allowedValues: readonly unknown[] }).allowedValues.map(String);
    return fail(path, `is "${String(e.data)}"`, hint(String(e.data), allowed));
  }
  return fail(path, e.message ?? "is not valid");
}

function settleGate(raw: RawGate, file: string): Gate {
  const merged = (key: string): RawRule | undefined => {
    const given = raw[key] as RawRule | false | undefined;
    const own = DEFAULTS[key] as RawRule | undefined;
    if (given === false || (given === undefined && own === undefined)) return undefined;
    return { ...FALLBACK, ...own, ...given };
  };
  const amount = (key: string, v: number | string): { value: number; unit: Rule["unit"] } => {
    const m = /^\s*([-+]?[0-9]*\.?[0-9]+)\s*(%|pt|db)?\s*$/i.exec(String(v));
    if (m === null)
      throw new QcError({
        code: "data/config",
        file,
        line: undefined,
        at: key,
        detail: `is "${v}"; 3%, 0.03, 0.5pt or 30dB are understood`,
      });
    const unit = m[2]?.toLowerCase();
    return { value: Number(m[1]) / (unit === "%" ? 100 : 1), unit: unit === "pt" ? "points" : "share" };
  };
  const ruleOf = (key: string, r: RawRule | undefined): Rule | undefined => {
    if (r === undefined) return undefined;
    if (r.most === undefined) throw new QcError({ code: "data/config", file, line: undefined, at: key, detail: "needs `most`" });
    const { value: most, unit } = amount(key, r.most);
    const same = (v: number | string | undefined, otherwise: number) => {
      if (v === undefined) return otherwise;
      const a = amount(key, v);
      if (a.unit !== unit && a.value !== 0)
        throw new QcError({
          code: "data/config",
          file,
          line: undefined,
          at: key,
          detail: `mixes shares and points ("${r.most}" and "${v}")`,
        });
      return a.value;
    };
    return { most, unit, harmless: same(r.harmless, 0), harmful: same(r.harmful, 2 * most), severity: r.severity! };
  };
  const sliceOf = (key: string, r: RawRule | undefined): SliceRule | undefined => {
    const base = ruleOf(key, r);
    return base && { ...base, least: Number(r!.least) };
  };
  const floorOf = (key: string): FloorRule | undefined => {
    const r = merged(key);
    return r && { least: amount(key, r.least!).value, severity: r.severity! };
  };
  const use = merged("utilization");
  return {
    alpha: raw.alpha ?? 0.05,
    undecided: raw.undecided ?? "warn",
    accuracy: ruleOf("accuracy", merged("accuracy")),
    size: ruleOf("size", merged("size")),
    latency: ruleOf("latency", merged("latency")),
    throughput: ruleOf("throughput", merged("throughput")),
    memory: ruleOf("memory", merged("memory")),
    attack: ruleOf("attack", merged("attack")),
    utilization: use && { most: amount("utilization", use.most!).value, severity: use.severity! },
    agreement: floorOf("agreement"),
    sqnr: floorOf("sqnr"),
    classes: sliceOf("classes", merged("classes")),
    groups: sliceOf("groups", merged("groups")),
    slices: Object.fromEntries(
      Object.entries(raw.slices ?? {}).map(([name, r]) => [
        name,
        sliceOf(`slices.${name}`, { ...FALLBACK, ...(DEFAULTS["groups"] as RawRule), ...r })!,
      ]),
    ),
  };
}
