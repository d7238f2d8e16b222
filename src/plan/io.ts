import { Ajv2020, type ErrorObject, type ValidateFunction } from "ajv/dist/2020.js";
import { LineCounter, parseDocument } from "yaml";
import { type Diagnostic, QcError } from "../diagnostics.ts";
import type { TensorData } from "../graph/tensor.ts";
import { tensorFromBytes } from "../graph/tensor.ts";
import { OutputSet } from "../io/atomic.ts";
import { sha256 } from "../io/hash.ts";
import type { NdArray, NdData } from "../io/npy.ts";
import { openNpz, writeNpz } from "../io/npz.ts";
import { fileNameOf, folderOf, joinPath } from "../io/path.ts";
import { fileSource, memorySource, readFile } from "../io/source.ts";
import type { DType } from "../quant/dtype.ts";
import { PLAN_SCHEMA } from "./schema.ts";
import type { Plan, PlanBundle } from "./types.ts";

/** A plan document larger than this is not one: sites are a few hundred bytes each. */
const MOST_JSON = 256 * 2 ** 20;

/** Writes `plan.json` and, where the plan has tensors, `plan.tensors` beside it; both or neither. Returns the paths, the document last. */
export function writePlan(bundle: PlanBundle, path: string): string[] {
  const tensorsPath = tensorsPathOf(path);
  const { json, tensors } = encodePlan(bundle, fileNameOf(tensorsPath));
  const set = new OutputSet();
  try {
    if (tensors) set.write(tensorsPath, tensors);
    set.write(path, json);
    set.commit();
  } finally {
    set.discard();
  }
  return tensors ? [tensorsPath, path] : [path];
}

/** `x.json` -> `x.tensors`; another name gets `.tensors` behind it. */
export function tensorsPathOf(path: string): string {
  return path.endsWith(".json") ? `${path.slice(0, -5)}.tensors` : `${path}.tensors`;
}

/** The two files as text and bytes. Equal plans give equal bytes. */
export function encodePlan(bundle: PlanBundle, tensorsFile: string): { readonly json: string; readonly tensors: Uint8Array[] | undefined } {
  if (bundle.tensors.size === 0) {
    const { tensors: _, ...plan } = bundle.plan;
    return { json: printPlan(plan), tensors: undefined };
  }
  const names = [...bundle.tensors.keys()].sort();
  const tensors = writeNpz(names.map((n) => [n, ndArrayOf(bundle.tensors.get(n)!)] as const));
  return { json: printPlan({ ...bundle.plan, tensors: { file: tensorsFile, sha256: sha256(tensors) } }), tensors };
}

/** The document as `writePlan` writes it; its tensors enter by their hash, so equal texts are equal plans. */
export function planText(bundle: PlanBundle): string {
  return encodePlan(bundle, "plan.tensors").json;
}

const ORDER: readonly (keyof Plan)[] = [
  "schema",
  "tool",
  "model",
  "prepare",
  "target",
  "recipe",
  "calibrator",
  "seed",
  "opset",
  "irVersion",
  "stats",
  "tensors",
  "sites",
  "skips",
  "replacements",
  "insertions",
  "steps",
  "reverts",
];
const KEYS = ["kind", "value", "node", "op", "consumers", "scheme", "scale", "zeroPoint", "range", "codes", "form"];

/** The document: keys in a fixed order, one line for each site, skip, and step, so that two plans can be compared line by line. */
export function printPlan(plan: Plan): string {
  const lines: string[] = [];
  for (const key of ORDER) {
    const v = plan[key];
    if (v === undefined) continue;
    if (!Array.isArray(v)) lines.push(`  ${JSON.stringify(key)}: ${line(v)}`);
    else if (v.length === 0) lines.push(`  ${JSON.stringify(key)}: []`);
    else lines.push(`  ${JSON.stringify(key)}: [\n${v.map((x) => `    ${line(x)}`).join(",\n")}\n  ]`);
  }
  return `{\n${lines.join(",\n")}\n}\n`;
}

/** JSON on one line, with a space after commas and colons; known keys first, the others in the alphabet. Infinite numbers become null. */
function line(x: unknown): string {
  if (Array.isArray(x)) return `[${x.map(line).join(", ")}]`;
  if (x === null || typeof x !== "object") return JSON.stringify(x) ?? "null";
  const rank = (k: string): number => (KEYS.indexOf(k) >= 0 ? KEYS.indexOf(k) : k === "because" || k === "detail" ? 999 : 99);
  const keys = Object.keys(x)
    .filter((k) => (x as Record<string, unknown>)[k] !== undefined)
    .sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  return `{ ${keys.map((k) => `${JSON.stringify(k)}: ${line((x as Record<string, unknown>)[k])}`).join(", ")} }`;
}

/** Reads `plan.json` and the tensors file that it names, from the same folder. Anything unsound is an error that says where. */
export function readPlan(path: string): PlanBundle {
  const plan = parsePlan(new TextDecoder().decode(readFile(path, MOST_JSON)), path);
  if (!plan.tensors) return { plan, tensors: noTensors(plan, path) };
  const file = joinPath(folderOf(path), plan.tensors.file);
  const source = fileSource(file);
  const bytes = source.read(0, source.size);
  return { plan, tensors: decodeTensors(plan, bytes, path, file) };
}

/** The same from memory. */
export function decodePlan(json: string, tensors: Uint8Array | undefined, label = "plan.json"): PlanBundle {
  const plan = parsePlan(json, label);
  if (!plan.tensors) return { plan, tensors: noTensors(plan, label) };
  return { plan, tensors: decodeTensors(plan, tensors ?? new Uint8Array(0), label, plan.tensors.file) };
}

function decodeTensors(plan: Plan, bytes: Uint8Array, label: string, file: string): Map<string, TensorData> {
  const want = plan.tensors!.sha256;
  const got = sha256(bytes);
  if (got !== want) throw new QcError({ code: "plan/tensors-mismatch", file, want, got });
  const npz = openNpz(memorySource(bytes, file));
  const out = new Map<string, TensorData>();
  for (const name of npz.names) out.set(name, tensorOf(npz.array(name)!.all(), `${file}: "${name}"`));
  missing(plan, out, label);
  return out;
}

function noTensors(plan: Plan, label: string): Map<string, TensorData> {
  missing(plan, new Map(), label);
  return new Map();
}

/** Every tensor that the document names, with the place where it does. */
export function* tensorRefs(plan: Plan): Generator<{ readonly at: string; readonly tensor: string }> {
  for (const [i, s] of plan.sites.entries()) {
    if (s.kind !== "static" && s.kind !== "weight") continue;
    if ("tensor" in s.scale) yield { at: `sites[${i}].scale`, tensor: s.scale.tensor };
    if ("tensor" in s.zeroPoint) yield { at: `sites[${i}].zeroPoint`, tensor: s.zeroPoint.tensor };
    if (s.kind === "weight" && s.codes) yield { at: `sites[${i}].codes`, tensor: s.codes.tensor };
  }
  for (const [i, r] of plan.replacements.entries()) yield { at: `replacements[${i}].tensor`, tensor: r.tensor.tensor };
  for (const [i, x] of plan.insertions.entries()) yield { at: `insertions[${i}].by`, tensor: x.by.tensor };
}

function missing(plan: Plan, tensors: ReadonlyMap<string, TensorData>, label: string): void {
  const faults = [...tensorRefs(plan)]
    .filter((r) => !tensors.has(r.tensor))
    .map((r): Diagnostic => ({ code: "plan/malformed", file: label, at: r.at, detail: `plan.tensors has no "${r.tensor}"` }));
  if (faults.length > 0) throw new QcError(faults);
}

let compiled: ValidateFunction | undefined;

/** JSON text to a plan whose form is right (see `checkPlanAgainst` for its meaning). Errors name the line or the place. */
export function parsePlan(json: string, label = "plan.json"): Plan {
  let doc: unknown;
  try {
    doc = JSON.parse(json);
  } catch (e) {
    const message = e instanceof Error ? e.message : String(e);
    const at = `line ${errorLine(json)}`;
    throw new QcError({ code: "plan/malformed", file: label, at, detail: message }, { cause: e });
  }
  compiled ??= new Ajv2020({ allErrors: true, strict: false }).compile(PLAN_SCHEMA);
  if (!compiled(doc)) throw new QcError(faultsOf(compiled.errors ?? [], label));
  return doc as Plan;
}

/** The line of the first fault in a JSON text: JSON.parse does not say, a YAML parser (JSON is YAML) does. */
function errorLine(json: string): number {
  const counter = new LineCounter();
  const first = parseDocument(json, { lineCounter: counter, schema: "json" }).errors[0];
  return first ? counter.linePos(first.pos[0]).line : json.split("\n").length;
}

/** Of the errors about one place, the most telling: alternatives of a union each complain, and only one was meant. */
function faultsOf(errors: readonly ErrorObject[], label: string): Diagnostic[] {
  const byPlace = new Map<string, ErrorObject>();
  for (const e of errors) {
    if (e.keyword === "anyOf" || e.keyword === "const") continue;
    const place = e.instancePath || "the document";
    if (!byPlace.has(place)) byPlace.set(place, e);
  }
  if (byPlace.size === 0) for (const e of errors.slice(0, 1)) byPlace.set(e.instancePath || "the document", e);
  return [...byPlace].slice(0, 10).map(([at, e]): Diagnostic => {
    const extra = e.keyword === "additionalProperties" ? ` ("${e.params.additionalProperty}")` : "";
    return { code: "plan/malformed", file: label, at, detail: `${e.message ?? e.keyword}${extra}` };
  });
}

function ndArrayOf(t: TensorData): NdArray {
  const b = t.bytes();
  const make = VIEWS[t.dtype];
  if (!make) throw new TypeError(`internal: a plan tensor of ${t.dtype}`);
  const copy = b.slice();
  return { dtype: t.dtype, shape: t.shape, data: make(copy.buffer) };
}
const VIEWS: Partial<Record<DType, (b: ArrayBuffer) => NdData>> = {
  float32: (b) => new Float32Array(b),
  float64: (b) => new Float64Array(b),
  float16: (b) => new Uint16Array(b),
  int8: (b) => new Int8Array(b),
  uint8: (b) => new Uint8Array(b),
  int16: (b) => new Int16Array(b),
  uint16: (b) => new Uint16Array(b),
  int32: (b) => new Int32Array(b),
};

function tensorOf(a: NdArray, label: string): TensorData {
  if (!VIEWS[a.dtype] || Array.isArray(a.data))
    throw new QcError({ code: "plan/malformed", file: label, at: "its type", detail: `${a.dtype} has no place in a plan` });
  const d = a.data as Exclude<NdData, string[]>;
  return tensorFromBytes(a.dtype, a.shape, new Uint8Array(d.buffer, d.byteOffset, d.byteLength));
}
