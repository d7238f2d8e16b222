import { QcError } from "../diagnostics.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Graph, Model, Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { type Dim, tensorType, type ValueType } from "../graph/types.ts";
import { holderOf, pathOf, valuesByPath } from "../graph/walk.ts";
import { DTYPES, elementCount } from "../quant/dtype.ts";
import { exposeValues } from "../runtime/expose.ts";
import type { Feeds, IoInfo, Runtime } from "../runtime/types.ts";
import { declaredTypes, inferElems, type Types } from "./types.ts";

/** Constants of more elements than this are no shapes, axes or pads: type inference does not read them. */
const SHAPE_LIKE = 64;

/**
 * Types of all values: what the file declares, then what the runtime infers on loading the model with every value exposed. Nothing runs:
 * weights enter as graph inputs, so loading is quick whatever they weigh. With `feeds`, one sample is run with the real weights and every
 * shape is the one seen there, inside If, Loop and Scan too where they were reached.
 */
export async function probeTypes(model: Model, runtime: Runtime, feeds?: Feeds): Promise<Types> {
  const types = declaredTypes(model.graph);
  inferElems(model.graph, types);
  const light = cloneModel(model);
  if (!feeds) dropWeights(light);
  const want = [...model.graph.values.values()].filter((v) => v.producer && exposable(types.get(v)));
  const infos = await outputsOf(model, light, want, types, runtime);
  const byName = new Map(infos.map((i) => [i.name, i]));
  for (const v of want) {
    const info = byName.get(v.name);
    if (info) types.set(v, merge(types.get(v), info));
  }
  inferElems(model.graph, types);
  if (feeds) await runOnce(model, runtime, feeds, types);
  return types;
}

const exposable = (t: ValueType | undefined): boolean =>
  t === undefined || (t.kind === "tensor" && (t.elem === undefined || DTYPES[t.elem].kind !== "complex"));

/** Loads the model with `want` exposed; when the runtime refuses the model without its weights, with them. */
async function outputsOf(model: Model, light: Model, want: readonly Value[], types: Types, runtime: Runtime): Promise<readonly IoInfo[]> {
  const names = want.map((v) => v.name);
  const open = async (m: Model) => {
    // Elements known here keep foreign types (bfloat16, 4 bit) off the runtime's border.
    for (const v of want) {
      const c = m.graph.values.get(v.name);
      const t = types.get(v);
      if (c && c.type === undefined && t) c.type = t;
    }
    const session = await runtime.open(writeModel(exposeValues(m, names).model), { label: "the model with every value exposed" });
    const { outputs } = session;
    await session.release();
    return outputs;
  };
  try {
    return await open(light);
  } catch (e) {
    if (!(e instanceof QcError)) throw e;
    return open(cloneModel(model));
  }
}

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

/** One run with every value exposed; the shapes come back, the values stay beside the engine. */
async function runOnce(model: Model, runtime: Runtime, feeds: Feeds, types: Types): Promise<void> {
  const typed = cloneModel(model);
  const copies = valuesByPath(typed);
  const paths: string[] = [];
  const byPath = new Map<string, Value>();
  for (const [path, v] of valuesByPath(model)) {
    if (!v.producer || !exposable(types.get(v))) continue;
    byPath.set(path, v);
    paths.push(path);
    const c = copies.get(path);
    if (c && c.type === undefined) c.type = types.get(v);
  }
  const { model: exposed } = exposeValues(typed, paths);
  const session = await runtime.open(writeModel(exposed), { label: "the model with every value exposed" });
  try {
    const shapes = (await session.fold([feeds], { module: import.meta.url, name: "shapesFold", args: undefined })) as Record<
      string,
      readonly number[]
    >;
    for (const [path, v] of byPath) {
      const dims = shapes[path];
      if (dims === undefined) continue;
      const t = types.get(v);
      const elem = t?.kind === "tensor" ? t.elem : undefined;
      const stacked = loopsAround(v.graph);
      const absent = v.graph !== model.graph && dims.length === 1 && dims[0] === 0; // the other branch ran
      if (!absent) types.set(v, { kind: "tensor", elem, shape: dims.slice(stacked) });
    }
  } finally {
    await session.release();
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
