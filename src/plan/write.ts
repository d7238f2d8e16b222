import type { TensorData } from "../graph/tensor.ts";
import { OutputSet } from "../io/atomic.ts";
import { sha256 } from "../io/hash.ts";
import type { NdArray, NdData } from "../io/npy.ts";
import { writeNpz } from "../io/npz.ts";
import { fileNameOf } from "../io/path.ts";
import type { DType } from "../quant/dtype.ts";
import type { Plan, PlanBundle } from "./types.ts";

// Apart from `io.ts`, which loads a schema checker and YAML: a run that only writes a plan does not pay for them.

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
  "time",
  "tensors",
  "schemes",
  "pruned",
  "sites",
  "skips",
  "replacements",
  "insertions",
  "steps",
  "reverts",
  "rest",
];
const KEYS = ["kind", "value", "node", "op", "consumers", "scheme", "scale", "zeroPoint", "tensorScale", "range", "codes", "form"];

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

function ndArrayOf(t: TensorData): NdArray {
  const b = t.bytes();
  const make = VIEWS[t.dtype];
  if (!make) throw new TypeError(`internal: a plan tensor of ${t.dtype}`);
  const copy = b.slice();
  return { dtype: t.dtype, shape: t.shape, data: make(copy.buffer) };
}
/** Typed arrays that a plan tensor may have. */
export const VIEWS: Partial<Record<DType, (b: ArrayBuffer) => NdData>> = {
  float32: (b) => new Float32Array(b),
  float64: (b) => new Float64Array(b),
  float16: (b) => new Uint16Array(b),
  int8: (b) => new Int8Array(b),
  uint8: (b) => new Uint8Array(b),
  int16: (b) => new Int16Array(b),
  uint16: (b) => new Uint16Array(b),
  int32: (b) => new Int32Array(b),
};
