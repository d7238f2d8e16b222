import type { DataSet } from "../data/types.ts";
import { cloneModel } from "../graph/clone.ts";
import { type Graph, type Model, opsetOf, type Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { traitOf } from "../graph/ops/index.ts";
import { tensorType, type ValueType } from "../graph/types.ts";
import { nodeKey } from "../graph/walk.ts";
import { sqnrDbOf } from "../quant/sqnr.ts";
import { withOutputs } from "../runtime/expose.ts";
import type { Runtime, SessionOptions, Tensor } from "../runtime/types.ts";
import { floatsOf } from "./sums.ts";
import type { LayerError } from "./types.ts";

export interface LayerOptions {
  readonly runtime: Runtime;
  /** The prepared float graph, and the graph lowered from it. */
  readonly float: Model;
  readonly quantized: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly skipped: ReadonlySet<string>;
  readonly data: DataSet;
  readonly indices: readonly number[];
  readonly session?: Pick<SessionOptions, "threads" | "provider" | "state" | "externalFolder">;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Where the error starts: SQNR of the same value in both graphs, at the output of every product (convolution, matrix product). Errors of
 * earlier layers are included; `noiseAdded` is what this layer put on top of its noisiest input.
 *
 * Both graphs are joined into one that shares the inputs and reduces each pair to two numbers, so that no activation leaves the engine
 * and memory is that of a plain run:  signal = Σ x²,  noise = Σ (x − y)².
 */
export async function compareLayers(o: LayerOptions): Promise<readonly LayerError[]> {
  const values = comparable(o);
  if (values.length === 0 || o.indices.length === 0) return [];
  const sums = values.map(() => ({ signal: 0, noise: 0 }));
  const joined = joinGraphs(o.float, o.quantized, values);
  if (joined !== undefined) await foldJoined(o, joined, values, sums);
  else await foldApart(o, values, sums);
  return rowsOf(o, values, sums);
}

interface Sums {
  signal: number;
  noise: number;
}

/** Float32 values of the main graph that products make, and that both graphs have. */
function comparable(o: LayerOptions): readonly string[] {
  const out: string[] = [];
  for (const n of o.float.graph.nodes) {
    if (traitOf(n) !== "compute") continue;
    for (const v of n.outputs) {
      const t = v && o.types.get(v.name);
      if (v && t?.kind === "tensor" && t.elem === "float32" && o.quantized.graph.values.get(v.name)?.producer) out.push(v.name);
    }
  }
  return out;
}

/**
 * A copy of the quantized graph with the float graph's nodes beside its own and two scalars per value as outputs. Undefined where that
 * cannot be done: another operator set, or subgraphs, which see outer values by name.
 */
function joinGraphs(float: Model, quantized: Model, values: readonly string[]): Model | undefined {
  for (const [domain, version] of float.opsets) if (opsetOf(quantized, domain) !== version) return undefined;
  if (float.functions.length > 0 || float.graph.nodes.some((n) => n.subgraphs.length > 0)) return undefined;
  const model = cloneModel(quantized);
  const g = model.graph;
  g.outputs.length = 0;
  const twin = new Map<Value, Value>();
  for (const v of float.graph.inputs) {
    const same = g.values.get(v.name);
    if (same === undefined) return undefined;
    twin.set(v, same);
  }
  for (const v of float.graph.initializers) if (!twin.has(v)) twin.set(v, shared(g, v));
  for (const n of float.graph.nodes) {
    const copy = g.append({
      op: n.op,
      domain: n.domain,
      name: n.name === "" ? "" : g.freshName(`float/${n.name}`),
      attrs: Object.fromEntries(n.attrs),
      inputs: n.inputs.map((v) => v && twin.get(v)),
      outputs: n.outputs.map((v) => (v ? g.freshName(`float/${v.name}`) : "")),
    });
    n.outputs.forEach((v, i) => {
      if (v) twin.set(v, copy.outputs[i]!);
    });
  }
  values.forEach((name, i) => {
    const x = twin.get(float.graph.values.get(name)!)!;
    const difference = g.append({ op: "Sub", inputs: [x, g.values.get(name)!] }).outputs[0]!;
    for (const [kind, v] of [
      ["signal", x],
      ["noise", difference],
    ] as const) {
      const sum = g.append({ op: "ReduceSumSquare", inputs: [v], outputs: [`qc/${kind}/${i}`], attrs: { keepdims: 0 } }).outputs[0]!;
      g.setType(sum, tensorType("float32", []));
      g.addOutput(sum);
    }
  });
  return model;
}

/** A constant of the float graph: the same one when the quantized graph still has it, unchanged. */
function shared(g: Graph, v: Value): Value {
  const same = g.values.get(v.name);
  if (same?.data !== undefined && same.data === v.data) return same;
  return g.constant(v.data!, `float/${v.name}`);
}

async function foldJoined(o: LayerOptions, model: Model, values: readonly string[], sums: readonly Sums[]): Promise<void> {
  const session = await o.runtime.open(writeModel(model), { ...o.session, level: "disabled", label: "both graphs side by side" });
  try {
    for (const index of o.indices) {
      o.signal?.throwIfAborted();
      const out = await session.run((await o.data.sample(index)).feeds);
      for (let i = 0; i < values.length; i++) {
        sums[i]!.signal += scalar(out[`qc/signal/${i}`]!);
        sums[i]!.noise += scalar(out[`qc/noise/${i}`]!);
      }
    }
  } finally {
    await session.release();
  }
}
const scalar = (t: Tensor) => (t.data as Float32Array)[0]!;

async function foldApart(o: LayerOptions, values: readonly string[], sums: readonly Sums[]): Promise<void> {
  const open = (m: Model, label: string) => o.runtime.open(writeModel(withOutputs(m, values)), { ...o.session, level: "disabled", label });
  const [float, quantized] = await Promise.all([open(o.float, "float graph"), open(o.quantized, "quantized graph")]);
  try {
    for (const index of o.indices) {
      o.signal?.throwIfAborted();
      const { feeds } = await o.data.sample(index);
      const [x, y] = await Promise.all([float.run(feeds, values), quantized.run(feeds, values)]);
      for (const [i, name] of values.entries()) addPair(sums[i]!, x[name]!, y[name]!);
    }
  } finally {
    await Promise.all([float.release(), quantized.release()]);
  }
}

function addPair(s: Sums, x: Tensor, y: Tensor): void {
  const a = floatsOf(x);
  const b = floatsOf(y);
  if (a === undefined || b === undefined || a.length !== b.length) return;
  let signal = 0;
  let noise = 0;
  for (let i = 0; i < a.length; i++) {
    const p = a[i]!;
    const e = p - b[i]!;
    signal += p * p;
    noise += e * e;
  }
  s.signal += signal;
  s.noise += noise;
}

function rowsOf(o: LayerOptions, values: readonly string[], sums: readonly Sums[]): LayerError[] {
  const ratio = new Map(values.map((name, i) => [name, sums[i]!.signal > 0 ? sums[i]!.noise / sums[i]!.signal : 0]));
  // The noise that reaches each value: its own where compared, else the worst of what its producer reads.
  const reaching = new Map<Value, number>();
  const out: LayerError[] = [];
  for (const n of o.float.graph.nodes) {
    const before = Math.max(0, ...n.inputs.map((v) => (v ? (reaching.get(v) ?? 0) : 0)));
    for (const v of n.outputs) {
      if (!v) continue;
      const own = ratio.get(v.name);
      reaching.set(v, own ?? before);
      if (own === undefined) continue;
      const { signal, noise } = sums[values.indexOf(v.name)]!;
      const node = nodeKey(n);
      out.push({
        node,
        op: n.op,
        value: v.name,
        sqnrDb: sqnrDbOf(signal, noise),
        noiseAdded: Math.max(0, own - before),
        state: o.skipped.has(node) ? "float" : "quantized",
      });
    }
  }
  return out;
}
