import { Ajv2020, type ErrorObject, type ValidateFunction } from "ajv/dist/2020.js";
import { LineCounter, parseDocument } from "yaml";
import { type Diagnostic, QcError } from "../diagnostics.ts";
import type { TensorData } from "../graph/tensor.ts";
import { tensorFromBytes } from "../graph/tensor.ts";
import { sha256 } from "../io/hash.ts";
import type { NdArray, NdData } from "../io/npy.ts";
import { openNpz } from "../io/npz.ts";
import { folderOf, joinPath } from "../io/path.ts";
import { fileSource, memorySource, readFile } from "../io/source.ts";
import { PLAN_SCHEMA } from "./schema.ts";
import type { Plan, PlanBundle } from "./types.ts";
import { VIEWS } from "./write.ts";

export { encodePlan, planText, printPlan, tensorsPathOf, writePlan } from "./write.ts";

/** A plan document larger than this is not one: sites are a few hundred bytes each. */
const MOST_JSON = 256 * 2 ** 20;

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
  for (const [i, x] of (plan.pruned?.constants ?? []).entries()) yield { at: `pruned.constants[${i}].tensor`, tensor: x.tensor.tensor };
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

function tensorOf(a: NdArray, label: string): TensorData {
  if (!VIEWS[a.dtype] || Array.isArray(a.data))
    throw new QcError({ code: "plan/malformed", file: label, at: "its type", detail: `${a.dtype} has no place in a plan` });
  const d = a.data as Exclude<NdData, string[]>;
  return tensorFromBytes(a.dtype, a.shape, new Uint8Array(d.buffer, d.byteOffset, d.byteLength));
}
