import { type Emit, gradients, type Rule } from "../grad/index.ts";
import { Graph, type Model, type Value } from "../graph/ir.ts";
import { floats, type TensorData } from "../graph/tensor.ts";
import { tensorType } from "../graph/types.ts";
import { elementCount } from "../quant/dtype.ts";
import { type Optimizer, optimizerStates, update } from "./optimizer.ts";

/** One trained tensor. `value` is the constant in the graph that it takes the place of. */
export interface Param {
  readonly name: string;
  readonly value: Value;
  readonly shape: readonly number[];
  readonly init: Float32Array;
  /** Factor on the learning rate: the size of a sensible step in this tensor's own units. */
  readonly rate: number;
  /** Subject to weight decay. */
  readonly decay: boolean;
}

/** A tensor carried from step to step without a gradient (running averages). */
export interface Carried {
  readonly name: string;
  readonly value: Value;
  readonly next: Value;
  readonly init: Float32Array;
  readonly shape: readonly number[];
}

export interface StepSpec {
  /** The forward graph with its losses; it is taken over and becomes the body of the loop. */
  readonly model: Model;
  readonly params: readonly Param[];
  readonly carried?: readonly Carried[];
  /** Graph inputs that hold the batch; every other graph input must be in `schedule`. */
  readonly batch: readonly Value[];
  /** Scalars (shape []) to minimize the sum of; each is reported. */
  readonly losses: readonly Value[];
  /** Further gradients that arrive at inner values (damping). */
  readonly seeds?: readonly { readonly value: Value; readonly seed: Value }[];
  /** Scalar inputs (shape []) that follow a schedule, beside the learning rate. */
  readonly schedule?: readonly Value[];
  /** The emitter that appended the losses: it knows the types of the forward values at this batch size. */
  readonly emit: Emit;
  readonly rules?: ReadonlyMap<string, Rule>;
  readonly optimizer: Optimizer;
  /** Gradients of this many steps are averaged before the parameters move. */
  readonly accumulate: number;
  /** Keep a moving average of the parameters. */
  readonly ema: boolean;
  /** Called after the backward pass is in place: virtual operators become real ones. */
  readonly finish?: (graph: Graph, e: Emit) => void;
}

/** A model that makes T steps in one run, and how its inputs and outputs are named. */
export interface StepGraph {
  readonly model: Model;
  /** State tensors by name: "params", optimizer moments, "gradient" (when accumulating), "ema", then the carried ones. */
  readonly states: readonly { readonly name: string; readonly shape: readonly number[]; readonly init: Float32Array }[];
  /** Names of the scheduled inputs, each fed as float [T]; "rate", "epsilon", … first. */
  readonly scheduled: readonly string[];
  readonly losses: number;
  /** Nodes per parameter group with no gradient path, for messages. */
  readonly blocked: readonly { readonly node: string; readonly op: string; readonly why: string }[];
  /** Parameters that no gradient reaches. */
  readonly unreached: readonly string[];
}

/** Offsets of the parameters in the flat vector. */
export function layout(params: readonly Param[]): { readonly offsets: readonly number[]; readonly size: number } {
  const offsets: number[] = [];
  let size = 0;
  for (const p of params) {
    offsets.push(size);
    size += elementCount(p.shape);
  }
  return { offsets, size };
}
export function flatInit(params: readonly Param[]): Float32Array {
  const { offsets, size } = layout(params);
  const out = new Float32Array(size);
  for (let i = 0; i < params.length; i++) out.set(params[i]!.init, offsets[i]!);
  return out;
}

/** Makes the constants of `params` slices of one vector, which becomes a graph input. */
export function bindParams(model: Model, params: readonly Param[]): Value {
  const g = model.graph;
  const { size } = layout(params);
  const flat = g.addInput(g.freshName("params"), tensorType("float32", [size]));
  if (params.length === 0) return flat;
  const first = g.nodes[0]!;
  const sizes = g.constant(int64(params.map((p) => elementCount(p.shape))), "params/sizes");
  const split = g.insertBefore(first, {
    op: "Split",
    inputs: [flat, sizes],
    attrs: { axis: 0 },
    name: "params/split",
    outputs: params.map((p) => g.freshName(`params/${p.name}/flat`)),
  });
  params.forEach((p, i) => {
    const part = split.outputs[i]!;
    part.type = tensorType("float32", [elementCount(p.shape)]);
    const shaped = g.insertBefore(first, {
      op: "Reshape",
      inputs: [part, g.constant(int64(p.shape), "params/shape")],
      outputs: [g.freshName(`params/${p.name}`)],
      name: g.freshName(`params/${p.name}/reshape`),
    }).outputs[0]!;
    shaped.type = tensorType("float32", p.shape);
    g.replaceAllUses(p.value, shaped);
    for (let o = 0; o < g.outputs.length; o++) if (g.outputs[o] === p.value) g.outputs[o] = shaped;
    if (!p.value.isInput) g.removeValue(p.value);
  });
  return flat;
}

const int64 = (values: readonly number[]): TensorData => {
  const b = new Uint8Array(BigInt64Array.from(values, (v) => BigInt(v)).buffer);
  return { dtype: "int64", shape: [values.length], byteLength: b.byteLength, bytes: () => b };
};

/**
 * Forward, backward and update as the body of one ONNX Loop:
 *
 *   state 0 = parameters as one vector [n]; moments, average and gradient sum are vectors of the same length, so that the update is a
 *   dozen nodes whatever the number of tensors; batch inputs are stacked [T, …] and taken by the iteration number; losses come out as [T, L].
 */
export function buildStep(spec: StepSpec): StepGraph {
  const { model, params } = spec;
  const body = model.graph;
  const flat = bindParams(model, params);
  const found = gradients(model, {
    of: [...spec.losses, ...(spec.seeds ?? [])],
    wrt: [flat],
    emit: spec.emit,
    ...(spec.rules ? { rules: spec.rules } : {}),
  });
  const e = found.emit;
  const reached = reachedParams(params, found.of.get(flat));
  const gradient = found.of.get(flat) ?? e.zeros(flat);
  spec.finish?.(body, e);

  // Update.
  e.hint = "update";
  const { size } = layout(params);
  const n = tensorType("float32", [size]);
  const scheduled: { name: string; value: Value }[] = [];
  const schedule = (name: string): Value => {
    const v = body.addInput(body.freshName(`schedule/${name}`), tensorType("float32", []));
    scheduled.push({ name, value: v });
    return v;
  };
  const states: { name: string; in: Value; out: Value; shape: readonly number[]; init: Float32Array }[] = [];
  const state = (name: string, init: Float32Array = new Float32Array(size)): Value => {
    const v = body.addInput(body.freshName(`state/${name}`), n);
    states.push({ name, in: v, out: v, shape: [size], init });
    return v;
  };
  const setNext = (name: string, v: Value) => {
    const s = states.find((t) => t.name === name)!;
    s.out = v;
  };
  states.push({ name: "params", in: flat, out: flat, shape: [size], init: flatInit(params) });
  const vector = (f: (p: Param) => number): Value => {
    const values = new Float32Array(size);
    const { offsets } = layout(params);
    params.forEach((p, i) => {
      values.fill(f(p), offsets[i]!, offsets[i]! + elementCount(p.shape));
    });
    return body.constant(floats(values, [size]), "update/per_parameter");
  };
  const moments = optimizerStates(spec.optimizer).map((name) => ({ name, value: state(name) }));
  let g = gradient;
  let due: Value | undefined;
  if (spec.accumulate > 1) {
    const sum = state("gradient");
    const total = e.op("Add", [sum, e.op("Mul", [gradient, e.scalar(1 / spec.accumulate, "float32")])]);
    due = e.op("Greater", [schedule("due"), e.scalar(0.5, "float32")]);
    g = total;
    setNext("gradient", e.op("Where", [due, e.scalar(0, "float32"), total]));
  }
  const result = update(e, spec.optimizer, {
    params: flat,
    gradient: g,
    moments: moments.map((m) => m.value),
    rates: vector((p) => p.rate),
    decay: vector((p) => (p.decay ? p.rate : 0)),
    schedule,
  });
  const step = (fresh: Value, old: Value): Value => (due ? e.op("Where", [due, fresh, old]) : fresh);
  setNext("params", step(result.params, flat));
  for (const [i, m] of moments.entries()) setNext(m.name, step(result.moments[i]!, m.value));
  if (spec.ema) {
    const average = state("ema", flatInit(params));
    const toward = e.op("Sub", [states[0]!.out, average]);
    setNext("ema", e.op("Add", [average, e.op("Mul", [toward, schedule("ema")])]));
  }
  for (const c of spec.carried ?? []) {
    const v = body.addInput(body.freshName(`state/${c.name}`), tensorType("float32", c.shape));
    body.replaceAllUses(c.value, v);
    if (!c.value.isInput) body.removeValue(c.value);
    states.push({ name: c.name, in: v, out: c.next, shape: c.shape, init: c.init });
  }
  const losses = e.op(
    "Concat",
    spec.losses.map((l) => e.op("Reshape", [l, e.ints([1])])),
    { axis: 0 },
  );
  for (const v of spec.schedule ?? []) scheduled.push({ name: v.name, value: v });
  wrap(model, spec, states, scheduled, losses);
  return {
    model,
    states: states.map(({ name, shape, init }) => ({ name, shape, init })),
    scheduled: scheduled.map((s) => s.name),
    losses: spec.losses.length,
    blocked: found.blocked.map((b) => ({ node: b.node.name, op: b.node.op, why: b.why })),
    unreached: params.filter((_, i) => !reached[i]).map((p) => p.name),
  };
}

/** Which parameters have a gradient: looks at what the Split's row concatenated (zeros stand for none). */
function reachedParams(params: readonly Param[], gradient: Value | undefined): boolean[] {
  const concat = gradient?.producer;
  if (!concat) return params.map(() => false);
  const parts = concat.op === "Concat" ? concat.inputs : [gradient];
  return params.map((_, i) => parts[i] !== undefined && parts[i]!.producer?.op !== "ConstantOfShape");
}

/** Puts the graph into a Loop of a new main graph. Batch inputs, scheduled scalars and states change from inputs to slices and carried values. */
function wrap(
  model: Model,
  spec: StepSpec,
  states: readonly { name: string; in: Value; out: Value; shape: readonly number[] }[],
  scheduled: readonly { name: string; value: Value }[],
  losses: Value,
): void {
  const body = model.graph;
  const outer = new Graph("train");
  body.name = "step";
  body.parent = outer;
  for (const o of [...body.outputs]) body.outputs.splice(body.outputs.indexOf(o), 1);
  body.inputs.splice(0, body.inputs.length);
  const iter = body.addInput(body.freshName("iteration"), tensorType("int64", []));
  const go = body.addInput(body.freshName("go"), tensorType("bool", []));
  const first = body.nodes[0]!;
  const sliced = (v: Value, name: string, elem: "float32" | "int64" | "int32" | "bool" | "uint8") => {
    const shape = v.type?.kind === "tensor" ? (v.type.shape ?? []) : [];
    const stacked = outer.addInput(name, tensorType(elem, ["steps", ...shape]));
    const part = body.insertBefore(first, {
      op: "Gather",
      inputs: [stacked, iter],
      attrs: { axis: 0 },
      name: body.freshName(`take/${name}`),
      outputs: [body.freshName(`take/${name}`)],
    }).outputs[0]!;
    body.replaceAllUses(v, part);
    body.removeValue(v);
  };
  const feeds = spec.batch.map((v) => ({ v, name: v.name, elem: v.type?.kind === "tensor" ? v.type.elem : undefined }));
  for (const f of feeds) sliced(f.v, f.name, f.elem as "float32");
  for (const s of scheduled) sliced(s.value, `schedule/${s.name}`, "float32");
  for (const s of states) body.inputs.push(s.in);
  // The condition and every state leave the body as values of their own.
  const through = (v: Value) => {
    const name = body.freshName("next");
    return body.append({ op: "Identity", inputs: [v], name, outputs: [name] }).outputs[0]!;
  };
  const out = (v: Value, elem: "float32" | "bool", shape: readonly (number | string)[]) => {
    const w = through(v);
    w.type = tensorType(elem, shape);
    body.addOutput(w);
  };
  out(go, "bool", []);
  for (const s of states) out(s.out, "float32", s.shape);
  out(losses, "float32", [spec.losses.length]);

  const trips = outer.addInput("train/steps", tensorType("int64", []));
  const begin = states.map((s) => outer.addInput(`state/${s.name}`, tensorType("float32", s.shape)));
  const loop = outer.append({
    op: "Loop",
    name: "loop",
    inputs: [trips, undefined, ...begin],
    outputs: [...states.map((s) => `next/${s.name}`), "train/losses"],
    attrs: { body: { kind: "graph", value: body } },
  });
  loop.outputs.forEach((o, i) => {
    const s = states[i];
    o!.type = s ? tensorType("float32", s.shape) : tensorType("float32", ["steps", spec.losses.length]);
    outer.addOutput(o!);
  });
  model.graph = outer;
}
