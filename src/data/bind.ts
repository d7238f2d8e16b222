import { dirname, resolve } from "node:path";
import { nearest } from "../diagnostics/nearest.ts";
import { QcError, type Report } from "../diagnostics.ts";
import { openNpy } from "../io/npy.ts";
import { fileSource } from "../io/source.ts";
import { elementCount } from "../quant/dtype.ts";
import type { Feeds, IoInfo, Tensor, TensorArray } from "../runtime/types.ts";
import { castItem } from "./cast.ts";
import type { InputConfig, SetConfig } from "./config.ts";
import { describe, describeItem, type Fields, type Item, isFloat, numbers, type TensorItem, tensorItem } from "./item.ts";
import type { Source } from "./sources/types.ts";
import { nested } from "./sources/values.ts";
import { type CompiledStep, compileSteps, StepError } from "./steps/index.ts";

/** How one graph input gets its tensor from a record. */
export interface Bound {
  readonly info: IoInfo;
  /** Several fields are columns of a table that become one vector. */
  readonly from: readonly string[];
  readonly steps: readonly CompiledStep[];
  readonly finite: boolean;
}

export interface Binding {
  readonly inputs: readonly Bound[];
  /** The same tensors for every sample. */
  readonly constants: Feeds;
  /** State inputs, with what a sequence starts with. */
  readonly state: ReadonlyMap<string, { readonly output: string; readonly start: Tensor }>;
}

const wantOf = (i: IoInfo) => describe(i.dtype, i.dims);

/** Decides for every graph input where its values come from. All offences are collected. */
export function bindInputs(
  set: string,
  folder: string,
  source: Source,
  infos: readonly IoInfo[],
  config: SetConfig,
  labels: readonly string[],
  report: Report,
): Binding {
  const problems: QcError[] = [];
  const attempt = <T>(f: () => T): T | undefined => {
    try {
      return f();
    } catch (e) {
      if (e instanceof QcError) problems.push(e);
      else throw e;
      return undefined;
    }
  };
  const names = infos.map((i) => i.name);
  const given = spelledOut(config.inputs ?? {}, names);
  for (const name of Object.keys(given)) {
    if (!names.includes(name))
      attempt(() => {
        throw new QcError({ code: "data/no-such-input", set, input: name, have: names, ...hint(nearest(name, names)) });
      });
  }
  const inputs: Bound[] = [];
  const constants: Record<string, Tensor> = {};
  const state = new Map<string, { output: string; start: Tensor }>();
  for (const info of infos) {
    const c = given[info.name] ?? {};
    if (c.constant !== undefined) {
      const t = attempt(() => constantOf(set, folder, info, c.constant));
      if (t) constants[info.name] = t;
    } else if (c.state !== undefined) {
      const t = attempt(() => startOf(set, info, c));
      if (t) state.set(info.name, { output: c.state, start: t });
    } else {
      const from = attempt(() => fieldsFor(set, source, info, c, infos, labels, report));
      if (from) inputs.push({ info, from, steps: compileSteps(c.steps ?? [], folder), finite: c.finite ?? true });
    }
  }
  if (problems.length > 0) throw new QcError(problems.flatMap((p) => p.diagnostics));
  const used = new Set([...inputs.flatMap((b) => b.from), ...labels]);
  if (config.inputs === undefined && source.strict) {
    const unused = [...source.fields.keys()].filter((f) => !used.has(f));
    if (unused.length > 0) report({ code: "data/unused-array", set, arrays: unused });
  }
  return { inputs, constants, state };
}

/** `past.*.key` with `state: present.*.key` stands for every input of that form; an input's own key comes before a pattern. */
function spelledOut(given: Readonly<Record<string, InputConfig>>, names: readonly string[]): Readonly<Record<string, InputConfig>> {
  const out: Record<string, InputConfig> = {};
  for (const [key, c] of Object.entries(given)) {
    const pattern = key.includes("*") && !names.includes(key) ? patternOf(key) : undefined;
    const matching = pattern ? names.filter((n) => pattern.test(n) && !Object.hasOwn(given, n)) : [];
    if (pattern === undefined || matching.length === 0) out[key] = c;
    for (const n of matching) {
      const parts = pattern!.exec(n)!.slice(1);
      out[n] = c.state === undefined ? c : { ...c, state: parts.reduce((s, part) => s.replace("*", part), c.state) };
    }
  }
  return out;
}
const patternOf = (key: string): RegExp => new RegExp(`^${key.split("*").map(escaped).join("(.*)")}$`);
const escaped = (text: string): string => text.replace(/[.+?^${}()|[\]\\]/g, "\\$&");

const hint = (word: string | undefined) => (word === undefined ? {} : { nearest: word });

function fieldsFor(
  set: string,
  source: Source,
  info: IoInfo,
  c: InputConfig,
  infos: readonly IoInfo[],
  labels: readonly string[],
  report: Report,
): readonly string[] {
  const have = [...source.fields.keys()];
  if (c.from !== undefined) {
    const from = typeof c.from === "string" ? [c.from] : c.from;
    for (const field of from)
      if (!source.fields.has(field)) throw new QcError({ code: "data/no-such-field", set, field, have, ...hint(nearest(field, have)) });
    return from;
  }
  if (source.fields.has(info.name)) return [info.name];
  if (infos.length === 1) {
    if (source.main !== undefined) return [source.main];
    // One input, several arrays: the one whose shape fits, if there is just one.
    const fitting = have.filter((f) => !labels.includes(f) && fits(source.fields.get(f)!, info));
    if (fitting.length === 1) {
      report({ code: "data/chosen-array", set, array: fitting[0]!, input: info.name });
      return fitting;
    }
  }
  const listed = have.filter((f) => !labels.includes(f)).map((f) => `${f} ${source.fields.get(f)}`);
  throw new QcError({ code: "data/missing-input", set, input: info.name, want: wantOf(info), have: listed });
}

/** `uint8[96,96,3]` against the dims of an input, the batch axis aside. */
function fits(field: string, info: IoInfo): boolean {
  const m = /^\w+\[([\d,]*)\]$/.exec(field);
  if (m === null) return false;
  const dims = m[1] === "" ? [] : m[1]!.split(",").map(Number);
  return dims.length >= info.dims.length - 1 && withBatch(dims, info) !== undefined;
}

/** The sample's dimensions with its batch axis, when they fit the input: as they are, or with 1 in front. */
export function withBatch(dims: readonly number[], info: IoInfo): readonly number[] | undefined {
  const agree = (d: readonly number[]) =>
    d.length === info.dims.length && d.every((x, i) => typeof info.dims[i] === "string" || info.dims[i] === x);
  if (agree(dims)) return dims;
  return agree([1, ...dims]) ? [1, ...dims] : undefined;
}

/** Runs the steps of an input on its fields and checks what comes out against the graph. */
export async function feedOf(set: string, id: string, bound: Bound, fields: Fields, report: Report): Promise<Tensor> {
  const { info } = bound;
  let item = bound.from.length === 1 ? fields[bound.from[0]!] : stack(set, id, bound.from, fields);
  if (item === undefined)
    throw new QcError({ code: "data/sample-unreadable", set, sample: id, detail: `it has no "${bound.from.join(", ")}"` });
  item = await runSteps(set, id, bound.steps, item);
  if (item.kind === "text" && info.dtype === "string") item = { kind: "tensor", dtype: "string", dims: [], data: [item.text] };
  const want = wantOf(info);
  if (item.kind !== "tensor") {
    const remedy =
      item.kind === "file"
        ? "Say in a set file how it is decoded (steps: [decode, …])."
        : "Text needs a tokenizer: `text:` in the set file.";
    throw new QcError({ code: "data/dtype", set, input: info.name, sample: id, want, got: describeItem(item), remedy });
  }
  const cast = castItem(item, info.dtype, "lossless");
  const got = describe(item.dtype, item.dims);
  if (!cast.ok)
    throw new QcError({
      code: "data/dtype",
      set,
      input: info.name,
      sample: id,
      want,
      got: `${got}: ${cast.why}`,
      remedy: dtypeRemedy(item, info),
    });
  if (cast.rounded) report({ code: "data/rounded", set, input: info.name, want: info.dtype, got: item.dtype });
  const dims = withBatch(item.dims, info);
  if (dims === undefined)
    throw new QcError({ code: "data/shape", set, input: info.name, sample: id, want, got, remedy: shapeRemedy(item, info) });
  if (bound.finite) checkFinite(set, id, info, cast.item.data);
  return { dtype: info.dtype, dims, data: cast.item.data };
}

export async function runSteps(set: string, id: string, steps: readonly CompiledStep[], item: Item): Promise<Item> {
  for (const s of steps) {
    try {
      item = await s.run(item);
    } catch (e) {
      if (e instanceof StepError) throw new QcError({ code: "data/step", set, sample: id, step: s.name, detail: e.message }, { cause: e });
      throw e;
    }
  }
  return item;
}

function stack(set: string, id: string, from: readonly string[], fields: Fields): Item {
  const values = from.map((f) => {
    const item = fields[f];
    if (item?.kind !== "tensor" || elementCount(item.dims) !== 1 || Array.isArray(item.data))
      throw new QcError({ code: "data/sample-unreadable", set, sample: id, detail: `"${f}" is no single number` });
    return Number(item.data[0]);
  });
  return { kind: "tensor", dtype: "float64", dims: [values.length], data: Float64Array.from(values), soft: true };
}

function dtypeRemedy(item: TensorItem, info: IoInfo): string {
  if (isFloat(info.dtype) && !isFloat(item.dtype))
    return "Say in a set file what these numbers mean: steps: [ { divide: 255 } ] scales pixels, { cast: float32 } takes them as they are.";
  return `Store the array as ${info.dtype}, or convert it in a set file: steps: [ { cast: ${info.dtype} } ].`;
}

function shapeRemedy(item: TensorItem, info: IoInfo): string {
  const [h, w, c] = item.dims.slice(-3);
  const want = info.dims.slice(-3);
  if (
    item.dims.length >= 3 &&
    info.dims.length === 4 &&
    want[0] === c &&
    (want[1] === h || typeof want[1] === "string") &&
    (want[2] === w || typeof want[2] === "string")
  )
    return "The channels stand last; the graph wants them first: steps: [ { layout: nchw } ] in a set file.";
  if (item.dims.length >= 3 && info.dims.length === 4 && want[2] === h && (want[0] === w || typeof want[0] === "string"))
    return "The channels stand first; the graph wants them last: steps: [ { transpose: [1, 2, 0] } ] in a set file.";
  const batch = info.dims[0];
  if (typeof batch === "number" && batch > 1)
    return `The graph's first axis is fixed at ${batch}: give samples of that shape (an array [samples, ${info.dims.join(", ")}]), or export the model with a free batch axis.`;
  return "Give each sample the graph's shape, the batch axis aside; reshape, resize and the like are steps of a set file.";
}

const isSpecialHalf = (h: number) => (h & 0x7c00) === 0x7c00;

/** v − v is 0, or NaN for what is not finite: no branch in the loop. */
function allFinite(x: Float32Array | Float64Array): boolean {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! - x[i]!;
  return sum === 0;
}

function checkFinite(set: string, id: string, info: IoInfo, x: TensorArray): void {
  if (!(x instanceof Float32Array || x instanceof Float64Array) && info.dtype !== "float16") return;
  if (info.dtype === "float16" ? !(x as Uint16Array).some(isSpecialHalf) : allFinite(x as Float32Array)) return;
  let nan = 0;
  let inf = 0;
  for (const v of numbers({ dtype: info.dtype, data: x })) {
    if (Number.isNaN(v)) nan++;
    else if (!Number.isFinite(v)) inf++;
  }
  if (nan + inf > 0)
    throw new QcError({
      code: "data/not-finite",
      set,
      input: info.name,
      sample: id,
      what: nan > 0 ? (inf > 0 ? "NaN or infinity" : "NaN") : "infinity",
      count: nan + inf,
    });
}

/** A number, nested lists, or a `.npy`, as the tensor that an input takes in every run. */
function constantOf(set: string, folder: string, info: IoInfo, value: unknown): Tensor {
  const bad = (detail: string) =>
    new QcError({
      code: "data/shape",
      set,
      input: info.name,
      sample: "constant",
      want: wantOf(info),
      got: detail,
      remedy: "Correct `constant:`.",
    });
  let item: TensorItem;
  if (typeof value === "string") {
    item = value.endsWith(".npy")
      ? tensorItem(openNpy(fileSource(resolve(folder, value))).all())
      : { kind: "tensor", dtype: "string", dims: [], data: [value] };
  } else {
    const found = nested(value);
    if (found === undefined) throw bad(JSON.stringify(value));
    item = found;
  }
  const cast = castItem(item, info.dtype, "lossless");
  if (!cast.ok) throw bad(`${describe(item.dtype, item.dims)}: ${cast.why}`);
  const dims = withBatch(item.dims, info) ?? spread(item, info);
  if (dims === undefined) throw bad(describe(item.dtype, item.dims));
  if (elementCount(dims) === cast.item.data.length) return { dtype: info.dtype, dims, data: cast.item.data };
  const one = cast.item.data.slice(0, 1) as Float32Array;
  const Data = one.constructor as new (n: number) => Float32Array;
  return { dtype: info.dtype, dims, data: new Data(elementCount(dims)).fill(one[0]!) };
}

/** One number fills an input whose free dimensions are taken as 1. */
function spread(item: TensorItem, info: IoInfo): readonly number[] | undefined {
  return elementCount(item.dims) === 1 ? info.dims.map((d) => (typeof d === "number" ? d : 1)) : undefined;
}

function startOf(set: string, info: IoInfo, c: InputConfig): Tensor {
  if (c.init !== "empty") return constantOf(set, dirname("."), info, c.init ?? 0);
  // A cache of nothing yet: the first open axis is the batch, what else is open grows from 0.
  const batch = info.dims.findIndex((d) => typeof d !== "number");
  const one = constantOf(set, dirname("."), info, 0);
  const dims = info.dims.map((d, i) => (typeof d === "number" ? d : i === batch ? 1 : 0));
  return { ...one, dims, data: one.data.slice(0, elementCount(dims)) as Tensor["data"] };
}
