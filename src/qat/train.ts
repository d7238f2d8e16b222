import { Random } from "../data/random.ts";
import type { DataSet, Sample } from "../data/types.ts";
import { QcError, type Report } from "../diagnostics.ts";
import { Emit } from "../grad/index.ts";
import type { Model, Value } from "../graph/ir.ts";
import { tensorType, type ValueType } from "../graph/types.ts";
import type { PlanBundle, StepRecord } from "../plan/types.ts";
import type { Runtime } from "../runtime/types.ts";
import { type BatchSource, batches } from "./batches.ts";
import { initialState, openSteps, runSteps, type TrainState } from "./driver.ts";
import { graft } from "./graft.ts";
import { Judge, type Judged, type Judgement, surelyBetter } from "./judge.ts";
import { type Targets, targetsOf } from "./labels.ts";
import { crossEntropy, distillation, meanSquare, relativeError } from "./losses.ts";
import { raisedForTraining } from "./opset.ts";
import { optimizerSchedule } from "./optimizer.ts";
import { QAT_DEFAULTS, type QatOptions, trainedFor } from "./options.ts";
import { cutPoints, outputPoints } from "./points.ts";
import { cosine } from "./schedule.ts";
import { batchOf, shapesOf } from "./shapes.ts";
import { buildStep, type StepGraph } from "./step.ts";
import { buildStudent } from "./student.ts";

export interface QatProgress {
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  /** dB on `select`: at the start, now, best so far. */
  readonly startDb: number;
  readonly selectDb: number;
  readonly bestDb: number;
  readonly seconds: number;
  readonly etaSeconds: number;
}

/** What a killed run carries on from. */
export interface QatCheckpoint {
  readonly state: TrainState;
  readonly best: { readonly step: number; readonly error: number; readonly params: Float32Array };
  /** Judgements since the best one. */
  readonly waited: number;
}

export interface TrainQat {
  /** The prepared float graph: teacher, and what the plan speaks of. */
  readonly model: Model;
  /** Another float graph with the same outputs that teaches: the whole network, where the plan has channels taken out. */
  readonly teacher?: Model;
  readonly bundle: PlanBundle;
  readonly data: DataSet;
  readonly runtime: Runtime;
  readonly options?: Partial<QatOptions>;
  readonly report?: Report;
  readonly progress?: (p: QatProgress) => void;
  readonly signal?: AbortSignal;
  /** Carry on from here. */
  readonly resume?: QatCheckpoint;
  /** Called after each judgement. */
  readonly save?: (c: QatCheckpoint) => Promise<void> | void;
}

export interface QatResult {
  readonly bundle: PlanBundle;
  readonly start: Judged;
  readonly best: Judged;
  readonly bestStep: number;
  readonly steps: number;
  readonly seconds: number;
  readonly samples: number;
  readonly losses: readonly number[];
}

/** Judgements that gain less than this are not worth a change, however sure. */
const LEAST_GAIN_DB = 0.05;
/** Fewer distinct samples than this are learned by heart within a few hundred steps. */
const FEW_SAMPLES = 64;

/**
 * Fine-tunes a plan: weights, scales and biases move so that the fake-quantized graph answers as the float graph does (distillation; task
 * labels beside it if asked for). The plan that it starts from is step 0 and comes back unless a later step is better on `select` beyond
 * the chance of its samples (`surelyBetter`).
 */
export async function trainQat(t: TrainQat): Promise<QatResult> {
  const o: QatOptions = { ...QAT_DEFAULTS, trained: trainedFor(t.bundle), ...t.options };
  const began = performance.now();
  // The plan's model keeps its opset; training works on a raised copy of the same meaning, with the same names.
  t = { ...t, model: raisedForTraining(t.model), ...(t.teacher && { teacher: raisedForTraining(t.teacher) }) };
  const { data, model, runtime } = t;
  const { train, select } = roles(data, o.seed);
  if (train.length === 0) throw new QcError({ code: "qat/no-data", set: data.name });
  if (train.length < FEW_SAMPLES) t.report?.({ code: "qat/few-samples", set: data.name, samples: train.length, wish: FEW_SAMPLES });
  const samples = await load(data, train);
  const held = await load(data, select);

  const { size, accumulate, types } = await batchSize(t, o, samples);
  const judge = await Judge.open({
    prepared: model,
    ...(t.teacher && { teacher: t.teacher }),
    bundle: t.bundle,
    trained: o.trained,
    types,
    runtime,
    samples: held,
    batch: size,
    threads: o.threads,
  });
  try {
    const start = await judge.judge(judge.initial());
    const none = {
      bundle: t.bundle,
      start: judged(start),
      best: judged(start),
      bestStep: 0,
      steps: 0,
      samples: samples.length,
      losses: [],
    };
    if (o.steps === 0) return { ...none, seconds: seconds(began) };
    const labels = o.labels > 0 ? targetsOf(samples, classesOf(model, types), firstOutput(model, types), data.name) : undefined;
    const graph = await stepGraph(t, o, types, size, accumulate, labels);
    return await descend(t, o, { graph, judge, start, samples, labels, size, accumulate, began, none });
  } finally {
    await judge.close();
  }
}

const judged = ({ error, errorDb, agreement }: Judged): Judged => ({ error, errorDb, agreement });
const seconds = (since: number) => (performance.now() - since) / 1000;

/** Calibrate samples train; `select` judges. Without one, a tenth of the calibrate samples is set aside. */
function roles(data: DataSet, seed: number): { readonly train: readonly number[]; readonly select: readonly number[] } {
  const { calibrate, select } = data.roles;
  if (select.length > 0 || calibrate.length < 2) return { train: calibrate, select: select.length > 0 ? select : calibrate };
  const shuffled = new Random(seed).shuffle([...calibrate]);
  const n = Math.max(1, Math.floor(shuffled.length / 10));
  return { train: shuffled.slice(n), select: shuffled.slice(0, n) };
}

async function load(data: DataSet, indices: readonly number[]): Promise<Sample[]> {
  const out: Sample[] = [];
  for (const i of indices) out.push(await data.sample(i));
  return out;
}

/** The batch that the graph takes, and its values' types there. A graph of fixed batch 1 is trained one sample at a time, accumulated. */
async function batchSize(
  t: TrainQat,
  o: QatOptions,
  samples: readonly Sample[],
): Promise<{ readonly size: number; readonly accumulate: number; readonly types: Map<string, ValueType> }> {
  const typesAt = async (n: number) => {
    const part = Array.from({ length: n }, (_, i) => samples[i % samples.length]!);
    const student = buildStudent(t.model, t.bundle, o.trained);
    const known = await shapesOf(t.model, t.runtime, batchOf(part));
    student.fakeQuants.expand(student.model.graph, new Emit(student.model.graph, student.model.opsets.get("") ?? 0, known));
    const own = await shapesOf(student.model, t.runtime, batchOf(part));
    return new Map([...known, ...own]);
  };
  const fixed = t.model.graph.inputs.some(
    (v) => v.type?.kind === "tensor" && typeof v.type.shape?.[0] === "number" && v.type.shape[0] === 1,
  );
  if (!fixed && o.batch > 1) {
    try {
      return { size: o.batch, accumulate: o.accumulate, types: await typesAt(o.batch) };
    } catch (e) {
      if (!(e instanceof QcError) || e.diagnostics.some((d) => d.code === "qat/unlike-samples")) throw e;
      t.report?.({ code: "qat/batch-of-one", batch: o.batch, why: e.diagnostics[0]!.code });
    }
  }
  return { size: 1, accumulate: o.accumulate * (fixed ? o.batch : 1), types: await typesAt(1) };
}

const isFloat = (types: ReadonlyMap<string, ValueType>) => (v: Value) => {
  const type = types.get(v.name);
  return type?.kind === "tensor" && type.elem === "float32";
};
const shapeIn = (types: ReadonlyMap<string, ValueType>) => (v: Value) => {
  const type = types.get(v.name);
  return type?.kind === "tensor" ? (type.shape as readonly number[] | undefined) : undefined;
};

/** Shape of the first float output at the batch. */
function firstOutput(model: Model, types: ReadonlyMap<string, ValueType>): readonly number[] | undefined {
  const first = model.graph.outputs.find(isFloat(types));
  return first && shapeIn(types)(first);
}

/** Columns of the first output when it is logits. */
function classesOf(model: Model, types: ReadonlyMap<string, ValueType>): number | undefined {
  const point = outputPoints(model, shapeIn(types), isFloat(types))[0];
  return point?.kind === "logits" ? shapeIn(types)(point.value)?.[1] : undefined;
}

/** Student, teacher, losses and the step around them. */
async function stepGraph(
  t: TrainQat,
  o: QatOptions,
  types: ReadonlyMap<string, ValueType>,
  size: number,
  accumulate: number,
  targets: Targets | undefined,
): Promise<StepGraph> {
  const student = buildStudent(t.model, t.bundle, o.trained);
  if (student.params.length === 0) throw new QcError({ code: "qat/nothing-to-train", recipe: t.bundle.plan.recipe });
  const g = student.model.graph;
  for (const v of g.inputs) {
    const type = types.get(v.name);
    if (type) v.type = type;
  }
  const batch = [...g.inputs];
  const teaching = t.teacher ?? t.model;
  const grafted = graft(g, teaching, "teacher/");
  // Values of the network's outputs have the same names in both.
  const teacher = { get: (v: Value) => grafted.get(teaching.graph.values.get(v.name)!) };
  const e = new Emit(g, student.model.opsets.get("") ?? 0, types);
  e.hint = "loss";
  const weighted = (v: Value, k: number) => (k === 1 ? v : e.op("Mul", [v, e.scalar(k, "float32")]));
  const losses: Value[] = [];
  const points = outputPoints(t.model, shapeIn(types), isFloat(types));
  const labels =
    targets &&
    g.addInput(g.freshName("labels"), targets.kind === "classes" ? tensorType("int64", [size]) : tensorType("float32", targets.shape));
  for (const [i, p] of points.entries()) {
    const own = p.softmax ? g.nodes.find((n) => n.name === p.softmax!.name)!.inputs[0]! : g.values.get(p.output)!;
    const theirs = teacher.get(p.value)!;
    const known = e.like(own, p.value);
    losses.push(weighted(relativeError(e, known, theirs), 1 / points.length));
    // Behind a Softmax the output itself is what is judged; its logits steer where it is flat.
    const end = p.softmax && t.model.graph.values.get(p.output);
    if (end) losses.push(weighted(relativeError(e, e.like(g.values.get(p.output)!, end), teacher.get(end)!), 1 / points.length));
    if (p.kind === "logits" && o.distill > 0) losses.push(weighted(distillation(e, known, theirs, o.temperature), o.distill));
    if (i === 0 && labels)
      losses.push(weighted(targets.kind === "classes" ? crossEntropy(e, known, labels) : meanSquare(e, known, labels), o.labels));
  }
  // Inside, another network has other channels.
  if (o.features > 0 && !t.teacher) {
    const cuts = cutPoints(t.model, isFloat(types), o.blocks);
    for (const v of cuts) {
      const own = student.seen.get(v.name) ?? g.values.get(v.name);
      if (own) losses.push(weighted(relativeError(e, e.like(own, v), teacher.get(v)!), o.features / cuts.length));
    }
  }
  const seeds: { value: Value; seed: Value }[] = [];
  const schedule: Value[] = [];
  if (o.damping > 0) {
    // d/dv λ(clip(v) − q)²: nothing outside the range, where clip(v) = q.
    const lambda = g.addInput(g.freshName("damping"), tensorType("float32", []));
    schedule.push(lambda);
    for (const w of student.weights) {
      const inside = e.op("Min", [e.op("Max", [w.inner, w.lo]), w.hi]);
      seeds.push({ value: w.inner, seed: e.op("Mul", [e.op("Sub", [inside, w.codes]), lambda]) });
    }
  }
  for (const v of [...g.outputs]) g.outputs.splice(g.outputs.indexOf(v), 1);
  const graph = buildStep({
    model: student.model,
    params: student.params,
    batch: labels ? [...batch, labels] : batch,
    losses,
    seeds,
    schedule,
    emit: e,
    rules: student.fakeQuants.rules,
    optimizer: o.optimizer,
    accumulate,
    ema: o.ema > 0,
    finish: (body, emit) => student.fakeQuants.expand(body, emit),
  });
  if (graph.unreached.length === student.params.length)
    throw new QcError({ code: "qat/no-path", nodes: graph.blocked.map((b) => `${b.op} ${b.node}: ${b.why}`) });
  if (graph.unreached.length > 0)
    t.report?.({ code: "qat/frozen", params: graph.unreached, blocked: graph.blocked.map((b) => `${b.op} ${b.node}: ${b.why}`) });
  return graph;
}

interface Descent extends BatchSource {
  readonly graph: StepGraph;
  readonly judge: Judge;
  readonly start: Judgement;
  readonly accumulate: number;
  readonly began: number;
  readonly none: Omit<QatResult, "seconds">;
}

async function descend(t: TrainQat, o: QatOptions, d: Descent): Promise<QatResult> {
  const micro = o.steps * d.accumulate;
  const warmup = Math.ceil(o.warmup * o.steps);
  let best = t.resume?.best ?? { step: 0, error: d.start.error, params: d.judge.initial() };
  let bestJudged = judged(d.start);
  let waited = t.resume?.waited ?? 0;
  let now: Judgement = d.start;
  let first = Number.NaN;
  const losses: number[] = [];
  const factor = 10 ** (-LEAST_GAIN_DB / 10);
  const session = await openSteps(t.runtime, d.graph, o.threads);
  let reached = t.resume?.state.step ?? 0;
  const stepping = performance.now();
  try {
    const judgeMicro = Math.max(1, o.judgeEvery) * d.accumulate;
    const chunk = divisorBelow(judgeMicro, Math.max(1, o.chunk));
    await runSteps(session, d.graph, t.resume?.state ?? initialState(d.graph), {
      steps: micro,
      chunk,
      batch: batches(o, d),
      schedule: (m) => {
        const step = Math.floor(m / d.accumulate);
        const rate = o.rate * cosine(step, o.steps, warmup);
        return {
          ...optimizerSchedule(o.optimizer, rate, step + 1),
          due: (m + 1) % d.accumulate === 0 ? 1 : 0,
          // A young average follows at once: 1 − min(decay, (1 + n)/(10 + n)).
          ema: (m + 1) % d.accumulate === 0 ? 1 - Math.min(o.ema, (1 + step) / (10 + step)) : 0,
          damping: 2 * o.damping * 0.5 * (1 - Math.cos((Math.PI * step) / o.steps)),
        };
      },
      after: async (state, rows) => {
        for (const row of rows) losses.push(row.reduce((a, b) => a + b, 0));
        if (Number.isNaN(first)) first = losses[0]!;
        reached = state.step;
        const due = state.step % judgeMicro === 0 || state.step === micro;
        if (due) {
          const params = state.tensors.get(o.ema > 0 ? "ema" : "params")!;
          now = await d.judge.judge(params);
          if (now.error < best.error * (best.step === 0 ? factor : 1) && surelyBetter(now, d.start)) {
            best = { step: state.step / d.accumulate, error: now.error, params };
            bestJudged = judged(now);
            waited = 0;
          } else waited++;
          await t.save?.({ state, best, waited });
        }
        const recent = losses.slice(-Math.max(chunk, 20));
        const spent = seconds(d.began);
        t.progress?.({
          step: Math.floor(state.step / d.accumulate),
          steps: o.steps,
          loss: recent.reduce((a, b) => a + b, 0) / recent.length,
          startDb: d.start.errorDb,
          selectDb: now.errorDb,
          bestDb: -10 * Math.log10(best.error),
          seconds: spent,
          etaSeconds: (seconds(stepping) / losses.length) * (micro - state.step),
        });
        return due && o.patience > 0 && waited >= o.patience ? "stop" : "go on";
      },
      ...(t.signal ? { signal: t.signal } : {}),
    });
  } catch (e) {
    // What was best before the loss left the numbers is kept.
    if (!(e instanceof QcError) || e.diagnostics[0]?.code !== "qat/diverged") throw e;
    t.report?.({ ...e.diagnostics[0], step: Math.floor(e.diagnostics[0].step / d.accumulate), kept: best.step });
  } finally {
    await session.release();
  }
  const spent = seconds(d.began);
  const steps = Math.floor(reached / d.accumulate);
  const record: StepRecord = {
    step: "qat",
    before: d.start.errorDb,
    after: -10 * Math.log10(best.error),
    unit: "dB",
    kept: best.step > 0,
    detail: `${steps} steps of ${d.size * d.accumulate}, best at ${best.step}`,
  };
  const bundle = best.step === 0 ? t.bundle : await d.judge.planOf(best.params, t.bundle, "learned by distillation from the float graph");
  if (best.step > 0 && bestJudged.error !== best.error) bestJudged = judged(await d.judge.judge(best.params));
  return {
    bundle: best.step === 0 ? bundle : { ...bundle, plan: { ...bundle.plan, steps: [...bundle.plan.steps, record] } },
    start: judged(d.start),
    best: bestJudged,
    bestStep: best.step,
    steps,
    seconds: spent,
    samples: d.samples.length,
    losses,
  };
}

/** The largest divisor of n that is at most `most`: judgements fall between runs of the engine. */
function divisorBelow(n: number, most: number): number {
  for (let c = Math.min(n, most); c > 1; c--) if (n % c === 0) return c;
  return 1;
}

/** The graph of a step as `trainQat` runs it: for measuring. */
export async function stepGraphOf(t: TrainQat): Promise<{ readonly graph: StepGraph }> {
  const o: QatOptions = { ...QAT_DEFAULTS, trained: trainedFor(t.bundle), ...t.options };
  t = { ...t, model: raisedForTraining(t.model), ...(t.teacher && { teacher: raisedForTraining(t.teacher) }) };
  const samples = await load(t.data, roles(t.data, o.seed).train);
  const { size, accumulate, types } = await batchSize(t, o, samples);
  return { graph: await stepGraph(t, o, types, size, accumulate, undefined) };
}
