import { QcError } from "../diagnostics.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Model, Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { type Dim, tensorType, type ValueType } from "../graph/types.ts";
import { pathOf, valuesByPath } from "../graph/walk.ts";
import { DTYPES, elementCount } from "../quant/dtype.ts";
import { exposeValues } from "../runtime/expose.ts";
import type { Feeds, IoInfo, Runtime } from "../runtime/types.ts";
import { inferRanks } from "./ranks.ts";
import { declaredTypes, inferElems, type Types } from "./types.ts";

/** Constants of more elements than this are no shapes, axes or pads: type inference does not read them. */
const SHAPE_LIKE = 64;

export interface Probed {
  /** What holds for every sample: the file's own word, then the runtime's inference. */
  readonly types: Types;
  /** Shapes without an unknown that the runtime derived from the graph inputs alone: not even the file's own word is in them. */
  readonly derived: ReadonlyMap<Value, readonly number[]>;
  /** With `feeds`: the shapes of that one sample. */
  readonly seen: Types;
}

/**
 * Types of all values: what the file declares, then what the runtime infers on loading the model with every value exposed. Nothing runs:
 * weights enter as graph inputs, so loading is quick whatever they weigh. With `feeds`, `seen` has the shapes of that sample: where the
 * inferred shapes leave nothing open but the inputs' own symbols those are put in, else the sample is run, and shapes inside If, Loop and
 * Scan are seen too where they were reached.
 */
export async function probeTypes(model: Model, runtime: Runtime, feeds?: Feeds): Promise<Probed> {
  const types = declaredTypes(model.graph);
  inferElems(model.graph, types);
  const derived = new Map<Value, readonly number[]>();
  const want = [...model.graph.values.values()].filter((v) => v.producer && exposable(types.get(v)));
  const names = want.map((v) => v.name);
  const open = (light: boolean) => {
    const m = cloneModel(model);
    if (light) dropWeights(m);
    for (const v of want) {
      const c = m.graph.values.get(v.name);
      const t = types.get(v);
      // The element type keeps foreign types (bfloat16, 4 bit) off the runtime's border. The file's shapes stay out: tools that change a
      // batch size leave old ones behind, and the runtime would take them for its own.
      if (c && t?.kind === "tensor") c.type = t.elem && { kind: "tensor", elem: t.elem, shape: undefined };
    }
    return runtime.open(writeModel(exposeValues(m, names).model), { label: "the model with every value exposed" });
  };
  const session = await firstOf(
    () => open(true),
    () => open(false),
  );
  const infos = new Map(session.outputs.map((o) => [o.name, o]));
  await session.release();
  for (const v of want) {
    const info = infos.get(v.name);
    if (!info) continue;
    if (info.dims.length > 0 && info.dims.every((d) => typeof d === "number" && d >= 0)) derived.set(v, info.dims as readonly number[]);
    types.set(v, merge(types.get(v), info));
  }
  inferElems(model.graph, types);
  inferRanks(model.graph, types);
  const seen = feeds ? (shapesBySymbols(model, feeds, want, types, infos) ?? (await shapesByRun(model, runtime, feeds, types))) : new Map();
  return { types, derived, seen };
}

/** Some operators want a constant where the light model has an input. */
async function firstOf<T>(first: () => Promise<T>, second: () => Promise<T>): Promise<T> {
  try {
    return await first();
  } catch (e) {
    if (!(e instanceof QcError)) throw e;
    return second();
  }
}

const exposable = (t: ValueType | undefined): boolean =>
  t === undefined || (t.kind === "tensor" && (t.elem === undefined || DTYPES[t.elem].kind !== "complex"));

function dropWeights(m: Model): void {
  const g = m.graph;
  for (const v of [...g.values.values()]) {
    if (!v.isConstant || DTYPES[v.data!.dtype].kind !== "float" || elementCount(v.data!.shape) <= SHAPE_LIKE || v.isOutput) continue;
    v.type = tensorType(v.data!.dtype, v.data!.shape);
    v.data = undefined;
    v.sparse = undefined;
    g.inputs.push(v);
  }
}

/** The runtime knows ranks and types; names of dimensions stay those of the file. */
function merge(old: ValueType | undefined, info: IoInfo): ValueType {
  const seen: Dim[] = info.dims.map((d) => (d === "?" ? undefined : d));
  const known = old?.kind === "tensor" ? old.shape : undefined;
  // The runtime's border says "no dimensions" both for a scalar and for a value of unknown rank.
  const shape = seen.length === 0 ? known : known?.length === seen.length ? seen.map((d, i) => d ?? known[i]) : seen;
  const elem = old?.kind === "tensor" && old.elem ? old.elem : info.dtype;
  return { kind: "tensor", elem, shape };
}

/** The shapes of a sample by putting its dimensions for the inputs' symbols; undefined when that leaves something open. */
function shapesBySymbols(
  model: Model,
  feeds: Feeds,
  want: readonly Value[],
  types: Types,
  infos: ReadonlyMap<string, IoInfo>,
): Types | undefined {
  if (model.graph.nodes.some((n) => n.subgraphs.length > 0)) return undefined;
  const symbols = new Map<string, number>();
  for (const v of model.graph.inputs) {
    const dims = feeds[v.name]?.dims;
    if (v.type?.kind !== "tensor" || !dims) continue;
    for (const [i, d] of (v.type.shape ?? []).entries()) {
      if (typeof d !== "string") continue;
      if (symbols.has(d) && symbols.get(d) !== dims[i]) return undefined;
      symbols.set(d, dims[i]!);
    }
  }
  const seen: Types = new Map();
  for (const v of want) {
    const t = types.get(v);
    const dims = infos.get(v.name)?.dims.map((d) => (typeof d === "number" && d >= 0 ? d : symbols.get(String(d))));
    if (t?.kind !== "tensor" || !dims || dims.length === 0 || dims.some((d) => d === undefined)) return undefined;
    seen.set(v, { ...t, shape: dims });
  }
  return seen;
}

/** One run with the real weights that hands out the shape of every value, not the value: memory stays that of a plain run. */
async function shapesByRun(model: Model, runtime: Runtime, feeds: Feeds, types: Types): Promise<Types> {
  const m = cloneModel(model);
  const copies = valuesByPath(m);
  const shapes = new Map<string, Value>();
  for (const [path, v] of valuesByPath(model)) {
    const t = types.get(v);
    const c = copies.get(path);
    if (!v.producer || !c || t?.kind !== "tensor" || t.elem === undefined) continue;
    const shape = c.graph.append({ op: "Shape", inputs: [c] }).outputs[0]!;
    shape.type = tensorType("int64", [t.shape?.length]);
    shapes.set(pathOf(shape), v);
  }
  const session = await runtime.open(writeModel(exposeValues(m, [...shapes.keys()]).model), {
    label: "the model with every shape exposed",
  });
  const seen: Types = new Map();
  try {
    const out = await session.run(
      feeds,
      session.outputs.map((o) => o.name).filter((name) => shapes.has(name)),
    );
    for (const [path, v] of shapes) {
      const t = types.get(v);
      const got = out[path];
      if (t?.kind !== "tensor" || !(got?.data instanceof BigInt64Array)) continue;
      const inside = v.graph.parent !== undefined;
      if (inside && got.data.length === 0) continue; // the other branch ran
      // Out of Loop and Scan come the shapes of all iterations: the last one's are taken.
      const rank = got.dims[got.dims.length - 1]!;
      seen.set(v, { ...t, shape: Array.from(got.data.subarray(got.data.length - rank), Number) });
    }
  } finally {
    await session.release();
  }
  return seen;
}

/** Types by the path of each value, as plans and stats name it. */
export function typesByPath(types: Types): Map<string, ValueType> {
  const out = new Map<string, ValueType>();
  for (const [v, t] of types) if (v.graph.values.get(v.name) === v) out.set(pathOf(v), t);
  return out;
}
