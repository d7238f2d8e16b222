import { Emit } from "../grad/index.ts";
import { intAttr } from "../graph/attr.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Graph, Model, Value } from "../graph/ir.ts";
import { opFacts } from "../graph/ops/index.ts";
import { asFloat32, floats } from "../graph/tensor.ts";
import { tensorType } from "../graph/types.ts";
import { elementCount } from "../quant/dtype.ts";
import type { Feeds, Runtime } from "../runtime/types.ts";
import { initialState, openSteps, runSteps, type TrainState } from "./driver.ts";
import { crossEntropy, meanSquare } from "./losses.ts";
import { raisedForTraining } from "./opset.ts";
import { type Optimizer, optimizerSchedule } from "./optimizer.ts";
import { cosine } from "./schedule.ts";
import { shapesOf } from "./shapes.ts";
import { buildStep, type Carried, layout, type Param } from "./step.ts";

export interface FloatTraining {
  /** A float model whose constants hold the initial weights; BatchNormalization in its inference form. It is not changed. */
  readonly model: Model;
  readonly runtime: Runtime;
  /** Name of the output with class scores (`classes`) or values (`values`), and the feed that holds labels: int64 [B] or float like it. */
  readonly loss: { readonly kind: "classes" | "values"; readonly output: string; readonly labels: string };
  /** One batch, labels included, for a step number. Every batch has the same size. */
  readonly batch: (step: number) => Promise<Feeds>;
  readonly steps: number;
  readonly optimizer: Optimizer;
  readonly rate: number;
  readonly warmup?: number;
  readonly chunk?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly progress?: (p: { readonly step: number; readonly steps: number; readonly loss: number; readonly seconds: number }) => void;
}

export interface FloatTrained {
  /** The model with trained constants and running averages; nothing else differs from the input. */
  readonly model: Model;
  readonly losses: readonly number[];
}

/**
 * Trains the weights of a float network with labels. BatchNormalization runs on batch statistics while training and its running averages
 * follow with the node's momentum; the model handed back has them as constants, ready to be folded.
 */
export async function trainFloat(t: FloatTraining): Promise<FloatTrained> {
  const { loss: goal } = t;
  const first = await t.batch(0);
  const labels = first[goal.labels]!;
  const feeds = Object.fromEntries(Object.entries(first).filter(([name]) => name !== goal.labels));
  const model = raisedForTraining(t.model);
  const types = await shapesOf(model, t.runtime, feeds);
  const carried = trainingNorms(model.graph);
  const params = weightParams(model.graph);
  const e = new Emit(model.graph, model.opsets.get("") ?? 0, types);
  e.hint = "loss";
  const target = model.graph.addInput(goal.labels, tensorType(labels.dtype, labels.dims));
  const output = model.graph.outputs.find((o) => o.name === goal.output);
  if (!output) throw new Error(`internal: no output "${goal.output}"`);
  for (const v of model.graph.inputs) {
    const f = first[v.name];
    if (f) v.type = tensorType(f.dtype, f.dims);
  }
  const value = goal.kind === "classes" ? crossEntropy(e, output, target) : meanSquare(e, output, target);
  const graph = buildStep({
    model,
    params,
    carried,
    batch: model.graph.inputs.filter((v) => v.name in first),
    losses: [value],
    emit: e,
    optimizer: t.optimizer,
    accumulate: 1,
    ema: false,
  });
  const session = await openSteps(t.runtime, graph, t.threads);
  const losses: number[] = [];
  const start = performance.now();
  let state: TrainState;
  try {
    state = await runSteps(session, graph, initialState(graph), {
      steps: t.steps,
      chunk: t.chunk ?? 20,
      batch: t.batch,
      schedule: (step) => optimizerSchedule(t.optimizer, t.rate * cosine(step, t.steps, t.warmup ?? 0), step + 1),
      after: async (s, l) => {
        for (const row of l) losses.push(row[0]!);
        const recent = losses.slice(-50);
        t.progress?.({
          step: s.step,
          steps: t.steps,
          loss: recent.reduce((a, b) => a + b, 0) / recent.length,
          seconds: (performance.now() - start) / 1000,
        });
        return "go on";
      },
      ...(t.signal ? { signal: t.signal } : {}),
    });
  } finally {
    await session.release();
  }

  // Back into a copy of the model as it came.
  const trained = cloneModel(t.model);
  const flat = state.tensors.get("params")!;
  const { offsets } = layout(params);
  params.forEach((p, i) => {
    const part = flat.slice(offsets[i]!, offsets[i]! + elementCount(p.shape));
    trained.graph.setData(trained.graph.values.get(p.name)!, floats(part, p.shape));
  });
  for (const c of carried) trained.graph.setData(trained.graph.values.get(c.name)!, floats(state.tensors.get(c.name)!, c.shape));
  return { model: trained, losses };
}

/** BatchNormalization in training form: batch statistics, and its running averages as carried tensors. */
function trainingNorms(g: Graph): Carried[] {
  const carried: Carried[] = [];
  for (const n of [...g.nodes]) {
    if (n.op !== "BatchNormalization" || n.domain !== "" || intAttr(n, "training_mode", 0) === 1) continue;
    const [mean, variance] = [n.inputs[3], n.inputs[4]];
    if (!mean?.isConstant || !variance?.isConstant) continue;
    const y = n.outputs[0]!;
    const fresh = g.insertBefore(n, {
      op: n.op,
      inputs: n.inputs,
      outputs: [g.freshName(`${y.name}/batch`), g.freshName(`${y.name}/mean`), g.freshName(`${y.name}/variance`)],
      attrs: { ...Object.fromEntries(n.attrs), training_mode: 1 },
      name: `${n.name}/training`,
    });
    fresh.outputs[0]!.type = y.type;
    g.replaceAllUses(y, fresh.outputs[0]!);
    if (y.isOutput) g.takeOutput(y, fresh.outputs[0]!);
    g.remove(n);
    for (const [v, next] of [
      [mean, fresh.outputs[1]!],
      [variance, fresh.outputs[2]!],
    ] as const)
      carried.push({ name: v.name, value: v, next, init: asFloat32(v.data!), shape: v.data!.shape });
  }
  return carried;
}

/** What a float network learns: weights and biases of its products, scale and shift of its normalizations. */
export function weightParams(g: Graph): Param[] {
  const found = new Map<Value, Param>();
  const add = (v: Value | undefined, decay: boolean) => {
    if (!v?.isConstant || v.data?.dtype !== "float32" || found.has(v)) return;
    found.set(v, { name: v.name, value: v, shape: v.data.shape, init: asFloat32(v.data), rate: 1, decay });
  };
  for (const n of g.nodes) {
    const facts = opFacts(n);
    if (!facts) continue;
    for (const w of facts.weights) add(w.constant.chain.length === 0 ? w.value : undefined, w.kind === "product");
    if (facts.bias !== undefined) add(n.inputs[facts.bias], false);
    if (NORMS.has(n.op)) for (const i of [1, 2]) add(n.inputs[i], false);
    // The bias of a MatMul is the Add behind it.
    if (n.op === "Add" && n.domain === "") for (const v of n.inputs) add(v, false);
  }
  return [...found.values()];
}
const NORMS = new Set(["BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"]);
