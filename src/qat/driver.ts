import { QcError } from "../diagnostics.ts";
import { writeModel } from "../graph/onnx/index.ts";
import type { Feeds, Runtime, Session, Tensor } from "../runtime/types.ts";
import type { StepGraph } from "./step.ts";

/** Everything that training carries on from: state tensors by name and the number of steps made. */
export interface TrainState {
  readonly step: number;
  readonly tensors: ReadonlyMap<string, Float32Array>;
}

export interface RunSpec {
  readonly steps: number;
  /** Steps in one run of the engine: progress, cancelling and evaluation happen between runs. */
  readonly chunk: number;
  /** The batch of one step, by input name (each without the leading step axis). Depends on the step number alone. */
  readonly batch: (step: number) => Promise<Feeds>;
  /** Scheduled scalars of one step, by name. */
  readonly schedule: (step: number) => Readonly<Record<string, number>>;
  /** Called after each chunk; may stop. */
  readonly after: (state: TrainState, losses: readonly (readonly number[])[]) => Promise<"go on" | "stop">;
  readonly signal?: AbortSignal;
}

export function initialState(graph: StepGraph): TrainState {
  return { step: 0, tensors: new Map(graph.states.map((s) => [s.name, s.init])) };
}

export async function openSteps(runtime: Runtime, graph: StepGraph, threads?: number): Promise<Session> {
  return runtime.open(writeModel(graph.model), { label: "training step", level: "basic", ...(threads ? { threads } : {}) });
}

/** Runs steps from `state` on. Chunks only group steps: their size changes no number. */
export async function runSteps(session: Session, graph: StepGraph, from: TrainState, spec: RunSpec): Promise<TrainState> {
  let state = from;
  let ahead: Promise<Feeds> | undefined;
  // The first step runs alone: it tells how long the rest will take.
  const chunkAt = (step: number) => (step === 0 ? 1 : Math.min(spec.chunk - (step % spec.chunk), spec.steps - step));
  while (state.step < spec.steps) {
    spec.signal?.throwIfAborted();
    const n = chunkAt(state.step);
    const feeds = await (ahead ?? stack(spec, state.step, n, graph));
    const carried = Object.fromEntries(
      graph.states.map((s) => [`state/${s.name}`, { dtype: "float32", dims: s.shape, data: state.tensors.get(s.name)! } satisfies Tensor]),
    );
    const running = session.run({ ...feeds, ...carried });
    const next = state.step + n;
    // The next batches are made ready while the engine works.
    ahead = next < spec.steps ? stack(spec, next, chunkAt(next), graph) : undefined;
    ahead?.catch(() => {});
    const out = await running;
    const flat = out["train/losses"]!.data as Float32Array;
    const losses = Array.from({ length: n }, (_, i) => Array.from(flat.subarray(i * graph.losses, (i + 1) * graph.losses)));
    const bad = losses.findIndex((l) => !l.every(Number.isFinite));
    if (bad >= 0) throw new QcError({ code: "qat/diverged", step: state.step + bad });
    state = { step: next, tensors: new Map(graph.states.map((s) => [s.name, out[`next/${s.name}`]!.data as Float32Array])) };
    if ((await spec.after(state, losses)) === "stop") break;
  }
  return state;
}

/** The feeds of n steps stacked along a new first axis. */
async function stack(spec: RunSpec, step: number, n: number, graph: StepGraph): Promise<Feeds> {
  const batches: Feeds[] = [];
  for (let i = 0; i < n; i++) batches.push(await spec.batch(step + i));
  const out: Record<string, Tensor> = {
    "train/steps": { dtype: "int64", dims: [], data: BigInt64Array.of(BigInt(n)) },
  };
  for (const [name, first] of Object.entries(batches[0]!)) {
    const each = first.data.length;
    const data = new (first.data.constructor as new (n: number) => Float32Array)(each * n);
    for (const [i, b] of batches.entries()) data.set(b[name]!.data as Float32Array, i * each);
    out[name] = { dtype: first.dtype, dims: [n, ...first.dims], data };
  }
  const rows = Array.from({ length: n }, (_, i) => spec.schedule(step + i));
  for (const name of graph.scheduled) {
    const data = Float32Array.from(rows, (r) => {
      const v = r[name];
      if (v === undefined) throw new Error(`internal: no schedule for "${name}"`);
      return v;
    });
    out[`schedule/${name}`] = { dtype: "float32", dims: [n], data };
  }
  return out;
}
