import { QcError } from "../diagnostics.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Graph, Model, Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { type Dim, tensorType, type ValueType } from "../graph/types.ts";
import { holderOf, pathOf, valuesByPath } from "../graph/walk.ts";
import { DTYPES, elementCount } from "../quant/dtype.ts";
import { exposeValues } from "../runtime/expose.ts";
import type { Feeds, IoInfo, Runtime, Session } from "../runtime/types.ts";
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
 * weights enter as graph inputs, so loading is quick whatever they weigh. With `feeds`, one sample is run with the real weights in the
 * same session, and `seen` has the shapes found there, inside If, Loop and Scan too where they were reached.
 */
export async function probeTypes(model: Model, runtime: Runtime, feeds?: Feeds): Promise<Probed> {
  const types = declaredTypes(model.graph);
  inferElems(model.graph, types);
  const seen: Types = new Map();
  const derived = new Map<Value, readonly number[]>();
  const paths = valuesByPath(model);
  const want = [...paths].filter(([, v]) => v.producer && exposable(types.get(v)) && (feeds !== undefined || v.graph === model.graph));
  const names = want.map(([path]) => path);
  const open = (light: boolean) => {
    const m = cloneModel(model);
    if (light) dropWeights(m);
    const copies = valuesByPath(m);
    for (const [path, v] of want) {
      const c = copies.get(path);
      const t = types.get(v);
      // The element type keeps foreign types (bfloat16, 4 bit) off the runtime's border. The file's shapes stay out: tools that change a
      // batch size leave old ones behind, and the runtime would take them for its own.
      if (c && t?.kind === "tensor") c.type = t.elem && { kind: "tensor", elem: t.elem, shape: undefined };
    }
    return runtime.open(writeModel(exposeValues(m, names).model), { label: "the model with every value exposed" });
  };
  const session = feeds
    ? await open(false)
    : await firstOf(
        () => open(true),
        () => open(false),
      );
  try {
    const infos = new Map(session.outputs.map((o) => [o.name, o]));
    for (const [path, v] of want) {
      const info = infos.get(path);
      if (!info || v.graph !== model.graph) continue;
      if (info.dims.length > 0 && info.dims.every((d) => typeof d === "number" && d >= 0)) derived.set(v, info.dims as readonly number[]);
      types.set(v, merge(types.get(v), info));
    }
    inferElems(model.graph, types);
    inferRanks(model.graph, types);
    if (feeds) await runOnce(session, feeds, new Map(want), types, seen);
  } finally {
    await session.release();
  }
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

/** One run; the shapes come back, the values stay beside the engine. */
async function runOnce(session: Session, feeds: Feeds, byPath: ReadonlyMap<string, Value>, types: Types, seen: Types): Promise<void> {
  const spec = { module: import.meta.url, name: "shapesFold", args: undefined };
  const shapes = (await session.fold([feeds], spec)) as Record<string, readonly number[]>;
  for (const [path, v] of byPath) {
    const dims = shapes[path];
    if (dims === undefined) continue;
    const t = types.get(v);
    const loops = loopsAround(v.graph);
    const inside = v.graph.parent !== undefined;
    if (inside && dims.length === 1 && dims[0] === 0) continue; // the other branch ran
    seen.set(v, { kind: "tensor", elem: t?.kind === "tensor" ? t.elem : undefined, shape: dims.slice(loops) });
  }
}

/** Levels of Loop and Scan: each stacks what leaves it on a new axis 0. */
function loopsAround(g: Graph): number {
  let count = 0;
  for (let h = holderOf(g); h; h = holderOf(h.node.graph)) if (h.node.op !== "If") count++;
  return count;
}

/** Keeps the shape of each output of the last run. Lives beside the session. */
export function shapesFold(): { update(outputs: Readonly<Record<string, { readonly dims: readonly number[] }>>): void; finish(): unknown } {
  let shapes: Record<string, readonly number[]> = {};
  return {
    update: (outputs) => {
      shapes = Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, t.dims]));
    },
    finish: () => shapes,
  };
}

/** Types by the path of each value, as plans and stats name it. */
export function typesByPath(types: Types): Map<string, ValueType> {
  const out = new Map<string, ValueType>();
  for (const [v, t] of types) if (v.graph.values.get(v.name) === v) out.set(pathOf(v), t);
  return out;
}
