import { Emit } from "../grad/index.ts";
import type { Model } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { floats, tensorFrom } from "../graph/tensor.ts";
import { tensorType, type ValueType } from "../graph/types.ts";
import type { PlanBundle, Replacement, Site } from "../plan/types.ts";
import { elementCount, isIntDType } from "../quant/dtype.ts";
import type { Feeds, Runtime, Session, Tensor } from "../runtime/types.ts";
import { batchOf } from "./shapes.ts";
import { bindParams, flatInit, layout, type Param } from "./step.ts";
import { buildStudent, type Student, type Trained } from "./student.ts";
import { numbersOf, referenced } from "./tensors.ts";

export interface Judged {
  /** Mean over the outputs of ‖s − t‖²/‖t‖². */
  readonly error: number;
  readonly errorDb: number;
  /** Samples whose largest first output is at the same place as the float graph's; undefined without such an output. */
  readonly agreement: number | undefined;
}

/** What comparing two judgements takes beside them: each sample's part of `error`, in the order of the samples. */
export interface Judgement extends Judged {
  readonly parts: Float64Array;
}

/** One-sided 97.5 % of the normal distribution. */
const SURE = 1.96;

/**
 * Whether `now` beats `start` on the same samples beyond what drawing other samples would change: with d_i = part_i(start) − part_i(now),
 *
 *   mean d > 1.96·sd(d)/√n   and the samples that agree with the float graph are no fewer.
 *
 * An output's error may fall while decisions leave: those are counted as well. A single sample says nothing of its spread and is taken
 * at its word.
 */
export function surelyBetter(now: Judgement, start: Judgement): boolean {
  if ((now.agreement ?? 0) < (start.agreement ?? 0)) return false;
  const n = start.parts.length;
  let mean = 0;
  for (let i = 0; i < n; i++) mean += (start.parts[i]! - now.parts[i]!) / n;
  if (n < 2) return mean > 0;
  let square = 0;
  for (let i = 0; i < n; i++) square += (start.parts[i]! - now.parts[i]! - mean) ** 2;
  return mean > SURE * Math.sqrt(square / (n - 1) / n);
}

interface JudgeBatch {
  readonly feeds: Feeds;
  /** Samples that count: the last batch is filled up. */
  readonly count: number;
  readonly teacher: Readonly<Record<string, Tensor>>;
}

/** The fake-quantized graph with its parameters as an input: judges them on samples, and says what scales and codes they stand for. */
export class Judge {
  readonly #session: Session;
  readonly #student: Student;
  readonly #params: readonly Param[];
  readonly #outputs: readonly string[];
  readonly #names: ReadonlyMap<string, string>;
  readonly #batches: readonly JudgeBatch[];
  readonly #size: number;

  private constructor(
    session: Session,
    student: Student,
    outputs: readonly string[],
    names: ReadonlyMap<string, string>,
    batches: readonly JudgeBatch[],
    size: number,
  ) {
    this.#session = session;
    this.#student = student;
    this.#params = student.params;
    this.#outputs = outputs;
    this.#names = names;
    this.#batches = batches;
    this.#size = size;
  }

  static async open(o: {
    readonly prepared: Model;
    /** What answers are compared with, when that is another float graph. */
    readonly teacher?: Model;
    readonly bundle: PlanBundle;
    readonly trained: Trained;
    readonly types: ReadonlyMap<string, ValueType>;
    readonly runtime: Runtime;
    readonly samples: readonly { readonly id: string; readonly feeds: Feeds }[];
    readonly batch: number;
    readonly threads: number;
  }): Promise<Judge> {
    const student = buildStudent(o.prepared, o.bundle, o.trained);
    const { graph } = student.model;
    const outputs = graph.outputs
      .filter((v) => {
        const t = o.types.get(v.name);
        return t?.kind === "tensor" && t.elem === "float32";
      })
      .map((v) => v.name);
    bindParams(student.model, student.params);
    student.fakeQuants.expand(graph, new Emit(graph, student.model.opsets.get("") ?? 0, o.types));
    // Scales and codes leave under names of their own.
    const names = new Map<string, string>();
    const expose = (key: string, v: Student["weights"][number]["scale"]) => {
      const name = graph.freshName(`judge/${key}`);
      const copy = graph.append({ op: "Identity", inputs: [v], name, outputs: [name] }).outputs[0]!;
      copy.type = tensorType("float32");
      graph.addOutput(copy);
      names.set(key, name);
    };
    student.weights.forEach((w, i) => {
      expose(`w${i}/scale`, w.scale);
      const codes = graph.values.get(w.codes.name);
      if (!codes) throw new Error(`internal: codes of "${w.site.value}" are gone`);
      expose(`w${i}/codes`, codes);
    });
    student.activations.forEach((a, i) => {
      expose(`a${i}/scale`, a.scale);
    });
    const threads = { threads: o.threads };
    const teacher = await o.runtime.open(writeModel(o.teacher ?? o.prepared), { label: "float graph", ...threads });
    const batches: { feeds: Feeds; count: number; teacher: Record<string, Tensor> }[] = [];
    for (let at = 0; at < o.samples.length; at += o.batch) {
      const part = o.samples.slice(at, at + o.batch);
      const count = part.length;
      while (part.length < o.batch) part.push(part[0]!);
      const feeds = batchOf(part);
      batches.push({ feeds, count, teacher: await teacher.run(feeds, outputs) });
    }
    await teacher.release();
    const session = await o.runtime.open(writeModel(student.model), { label: "fake-quantized graph", ...threads });
    return new Judge(session, student, outputs, names, batches, o.batch);
  }

  initial(): Float32Array {
    return flatInit(this.#params);
  }
  #feeds(flat: Float32Array, feeds: Feeds): Feeds {
    return { ...feeds, params: { dtype: "float32", dims: [flat.length], data: flat } };
  }

  async judge(flat: Float32Array): Promise<Judgement> {
    const top = this.#outputs.map(() => 0);
    const bottom = this.#outputs.map(() => 0);
    const samples = this.#batches.reduce((n, b) => n + b.count, 0);
    const each = this.#outputs.map(() => new Float64Array(samples));
    let same = 0;
    let rows = 0;
    let first = 0;
    for (const b of this.#batches) {
      const out = await this.#session.run(this.#feeds(flat, b.feeds), this.#outputs);
      this.#outputs.forEach((name, at) => {
        const s = out[name]!.data as Float32Array;
        const t = b.teacher[name]!.data as Float32Array;
        const width = s.length / this.#size;
        const whole = Number.isInteger(width);
        const n = whole ? width * b.count : s.length;
        const own = each[at]!;
        for (let i = 0; i < n; i++) {
          const d = s[i]! - t[i]!;
          top[at]! += d * d;
          own[first + (whole ? Math.floor(i / width) : 0)]! += d * d;
          bottom[at]! += t[i]! * t[i]!;
        }
        const dims = out[name]!.dims;
        if (at === 0 && dims.length === 2 && dims[1]! > 1) {
          for (let r = 0; r < b.count; r++) {
            if (argmax(s, r * dims[1]!, dims[1]!) === argmax(t, r * dims[1]!, dims[1]!)) same++;
            rows++;
          }
        }
      });
      first += b.count;
    }
    const errors = top.map((e, i) => e / Math.max(bottom[i]!, 1e-30));
    const error = errors.reduce((a, b) => a + b, 0) / Math.max(1, errors.length);
    const parts = new Float64Array(samples);
    each.forEach((own, at) => {
      for (let i = 0; i < samples; i++) parts[i]! += own[i]! / Math.max(bottom[at]!, 1e-30) / each.length;
    });
    return { error, errorDb: -10 * Math.log10(Math.max(error, 1e-30)), agreement: rows > 0 ? same / rows : undefined, parts };
  }

  /** The plan with the scales, codes and biases that these parameters stand for, as the engine computes them. */
  async planOf(flat: Float32Array, bundle: PlanBundle, because: string): Promise<PlanBundle> {
    const wanted = [...this.#names.values()];
    const out = await this.#session.run(this.#feeds(flat, this.#batches[0]!.feeds), wanted);
    const get = (key: string) => out[this.#names.get(key)!]!.data as Float32Array;
    const sites: Site[] = [...bundle.plan.sites];
    const tensors = new Map(bundle.tensors);
    this.#student.weights.forEach((w, i) => {
      const { scheme } = w.site;
      if (!isIntDType(scheme.dtype)) return;
      const stem = `qat${String(i).padStart(4, "0")}`;
      const scale = get(`w${i}/scale`);
      const relative = get(`w${i}/codes`);
      const codes = Int32Array.from(relative, (q, k) => q + w.zeroAt(k));
      tensors.set(`${stem}.codes`, tensorFrom(codes, w.shape));
      const numbers = numbersOf(tensors, `${stem}.scale`, scale);
      for (const at of w.index)
        sites[at] = { ...w.site, consumers: bundle.plan.sites[at]!.consumers, scale: numbers, codes: { tensor: `${stem}.codes` }, because };
    });
    this.#student.activations.forEach((a, i) => {
      const scale = get(`a${i}/scale`);
      for (const at of a.index) {
        const site = sites[at]!;
        if (site.kind !== "static") continue;
        const { range: _, ...rest } = site;
        sites[at] = { ...rest, scale: Array.from(scale) };
      }
    });
    const { offsets } = layout(this.#params);
    const replacements = new Map<string, Replacement>(bundle.plan.replacements.map((r) => [r.value, r]));
    this.#student.biases.forEach((b, i) => {
      const at = offsets[this.#params.indexOf(b)]!;
      const name = `qat_bias${String(i).padStart(4, "0")}`;
      tensors.set(name, floats(flat.slice(at, at + elementCount(b.shape)), b.shape));
      replacements.set(b.name, { value: b.name, tensor: { tensor: name }, because });
    });
    const plan = { ...bundle.plan, sites, replacements: [...replacements.values()] };
    return { plan, tensors: referenced(plan, tensors) };
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}

function argmax(x: Float32Array, from: number, n: number): number {
  let best = from;
  for (let i = from + 1; i < from + n; i++) if (x[i]! > x[best]!) best = i;
  return best - from;
}
