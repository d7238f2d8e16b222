import { calibrateValues, chooseRanges } from "./choose.ts";
import { lowerPlan, prepare, propose, settleDecisions } from "./compile.ts";
import type { DataSet } from "./data/types.ts";
import { QcError } from "./diagnostics.ts";
import type { Model } from "./graph/ir.ts";
import { readModel, saveModel } from "./graph/onnx/index.ts";
import { writeAtomic } from "./io/atomic.ts";
import { sha256 } from "./io/hash.ts";
import { LIMITS } from "./io/limits.ts";
import { folderOf, isFile, removeFile } from "./io/path.ts";
import { fileSource, readFile } from "./io/source.ts";
import { type Job, RUN_KEYS, type RunOptions, withJob } from "./job.ts";
import { DEFAULT_SAMPLES, type Effort, QAT_IMPORT, QAT_INSERT, QAT_TRAIN, settle, type Wished } from "./options.ts";
import { checkOutputs, jsonText, stemOf } from "./outputs.ts";
import { planText, readPlan, writePlan } from "./plan/io.ts";
import { targetOf } from "./plan/targets/index.ts";
import type { PlanBundle } from "./plan/types.ts";
import { type Prepared, prepareModel } from "./prepare/index.ts";
import { prunedModel } from "./ptq/prune/apply.ts";
import type { InsertForm, QatList, QatOptions, QatProgress, QatResult } from "./qat/index.ts";
import { drawSamples, openSet, sessionOf } from "./set.ts";
import { readSource, refuseQuantized, type Source } from "./source.ts";

/** Fine-tuning: training a plan here, or handing it to another trainer and taking it back. */

export interface QatTrainOptions extends Omit<Wished<typeof QAT_TRAIN>, "memory" | "plan">, RunOptions {
  /** A plan to start from: a file or a plan in memory. Without one, the plan that `qc plan` would make. */
  readonly plan?: string | PlanBundle | undefined;
  readonly onTrain?: ((p: QatProgress) => void) | undefined;
}
export interface QatTrained {
  readonly model: Model;
  readonly plan: PlanBundle;
  readonly result: Omit<QatResult, "bundle">;
  /** The model first. */
  readonly files: readonly string[];
}

/** Fine-tunes a plan by distillation from the float graph and lowers it. What comes back is never worse on `select` than the start. */
export async function qatTrain(source: string | Uint8Array, given: QatTrainOptions): Promise<QatTrained> {
  const { plan: from, onTrain, ...rest } = given;
  const options = settle(QAT_TRAIN, { ...rest, ...(typeof from === "string" ? { plan: from } : {}) }, RUN_KEYS);
  if (options.data === undefined)
    throw new QcError({ code: "cli/needs-option", command: "qat train", flag: "--data", why: "training needs samples" });
  const { trainQat, trainedFor, QAT_DEFAULTS, OPTIMIZERS, readCheckpoint, writeCheckpoint } = await import("./qat/index.ts");
  return withJob({ ...given, threads: options.threads }, async (job) => {
    const read = readSource(source);
    refuseQuantized(read.model);
    const file = options.out ?? (read.path === undefined ? undefined : `${stemOf(read.path)}.qat.onnx`);
    const planFile = file === undefined ? undefined : `${stemOf(file)}.plan.json`;
    const resumeFile = file === undefined ? undefined : `${stemOf(file)}.qat.state`;
    if (file !== undefined) checkOutputs([file, planFile!], [read.path, options.data, options.plan]);
    const data = (await openSet(job, read.model, options))!;
    const prepared = await job.stage("prepare", () => prepare(job, read, data));
    const start = await startPlan(job, read, prepared, data, from, options);
    // What the plan speaks of; the whole network teaches it.
    const network = prunedModel(prepared.model, start);
    const wish: QatOptions = {
      ...QAT_DEFAULTS,
      trained: trainedFor(start),
      steps: options.steps,
      batch: options.batch,
      rate: options.rate ?? QAT_DEFAULTS.rate,
      optimizer: OPTIMIZERS[options.optimizer as keyof typeof OPTIMIZERS],
      labels: options.labels ? 1 : 0,
      seed: options.seed,
      patience: options.patience,
    };
    const key = {
      structure: read.hashes.structure,
      weights: read.hashes.weights,
      plan: sha256(new TextEncoder().encode(planText(start))),
      options: sha256(new TextEncoder().encode(JSON.stringify([wish, data.sha256]))),
    };
    const resume =
      options.resume && resumeFile !== undefined && isFile(resumeFile) ? readCheckpoint(fileSource(resumeFile), key) : undefined;
    const progress = job.progress("improve");
    const { bundle, ...result } = await job.stage(
      "improve",
      () =>
        trainQat({
          model: network,
          ...(network !== prepared.model && { teacher: prepared.model }),
          bundle: start,
          data,
          runtime: job.runtime,
          options: wish,
          report: job.report,
          progress: (p) => {
            progress(p.step, p.steps);
            onTrain?.(p);
          },
          ...(resume ? { resume } : {}),
          ...(resumeFile === undefined ? {} : { save: (c) => writeAtomic(resumeFile, writeCheckpoint(c, key)) }),
          ...(job.signal === undefined ? {} : { signal: job.signal }),
        }),
      (r) => ({ stage: "improve", steps: r.bundle.plan.steps.slice(start.plan.steps.length) }),
    );
    const model = await job.stage("lower", () => lowerPlan(job, network, bundle, targetOf(bundle.plan.target)));
    const files: string[] = [];
    if (file !== undefined) {
      const planFiles = writePlan(bundle, planFile!).reverse();
      saveModel(model, file);
      files.push(file, ...planFiles);
      removeFile(resumeFile!);
    }
    return { model, plan: bundle, result, files };
  });
}

/** The plan given, or one made here as `qc plan` makes it, improved by the closed-form steps of the effort. */
async function startPlan(
  job: Job,
  read: Source,
  prepared: Prepared,
  data: DataSet,
  from: string | PlanBundle | undefined,
  options: ReturnType<typeof settle<typeof QAT_TRAIN>>,
): Promise<PlanBundle> {
  if (from !== undefined) {
    const bundle = typeof from === "string" ? readPlan(from) : from;
    refuseOther(read, prepared, bundle);
    return bundle;
  }
  const wish = settleDecisions({ ...options, budget: undefined }, true);
  const proposal = propose(read, prepared, wish);
  const session = sessionOf(data, options);
  const indices = drawSamples(data, "calibrate", options.samples ?? DEFAULT_SAMPLES);
  const calibrated =
    proposal.values.length === 0
      ? undefined
      : await calibrateValues(job, {
          model: prepared.model,
          types: prepared.types,
          values: proposal.values,
          data,
          indices,
          prepare: prepared.version,
          source: read.hashes,
          calibrator: options.calibrator,
          session,
        });
  const bundle = await chooseRanges(job, {
    proposal,
    prepared: prepared.model,
    calibrated,
    data,
    target: wish.target,
    calibrator: options.calibrator,
    session,
  });
  if (options.effort === "fast" || calibrated === undefined) return bundle;
  const { improvePlan } = await import("./ptq/improve.ts");
  return improvePlan({
    model: prepared.model,
    bundle,
    stats: calibrated.stats,
    data,
    calibrate: indices,
    runtime: job.runtime,
    target: wish.target,
    effort: options.effort as Effort,
    seed: options.seed,
    session,
    report: job.report,
    ...(job.signal === undefined ? {} : { signal: job.signal }),
  });
}

function refuseOther(read: Source, prepared: Pick<Prepared, "version">, { plan }: PlanBundle): void {
  for (const part of ["structure", "weights"] as const)
    if (plan.model[part] !== read.hashes[part])
      throw new QcError({ code: "plan/wrong-model", part, want: plan.model[part], got: read.hashes[part] });
  if (prepared.version !== plan.prepare)
    throw new QcError({ code: "plan/wrong-model", part: "prepare", want: plan.prepare, got: prepared.version });
}

export interface QatInsertOptions extends Omit<Wished<typeof QAT_INSERT>, "plan">, RunOptions {
  readonly plan: string | PlanBundle;
}
export interface QatInserted {
  readonly model: Model;
  readonly list: QatList;
  /** The model, then the list. */
  readonly files: readonly string[];
}

/** The graph of a plan with fake quantization in standard operators, for another trainer, and the list of what it may train. */
export async function qatInsert(source: string | Uint8Array, given: QatInsertOptions): Promise<QatInserted> {
  const { plan: from, ...rest } = given;
  const options = settle(QAT_INSERT, rest as Readonly<Record<string, unknown>>, RUN_KEYS);
  const { insertQat } = await import("./qat/index.ts");
  return withJob(given, async (job) => {
    const read = readSource(source);
    const bundle = typeof from === "string" ? readPlan(from) : from;
    const file = options.out ?? (read.path === undefined ? undefined : `${stemOf(read.path)}.trainable.onnx`);
    const listFile = file === undefined ? undefined : `${stemOf(file)}.qat.json`;
    if (file !== undefined) checkOutputs([file, listFile!], [read.path, typeof from === "string" ? from : undefined]);
    const prepared = await prepareModel(read.model, job.runtime, { report: job.report });
    refuseOther(read, prepared, bundle);
    const { model, list } = insertQat(prunedModel(prepared.model, bundle), bundle, options.form as InsertForm);
    if (file === undefined) return { model, list, files: [] };
    writeAtomic(listFile!, jsonText(list));
    saveModel(model, file);
    return { model, list, files: [file, listFile!] };
  });
}

export interface QatImportOptions extends Omit<Wished<typeof QAT_IMPORT>, "plan" | "list">, RunOptions {
  readonly plan: string | PlanBundle;
  readonly list: string | QatList;
}
export interface QatImported {
  readonly plan: PlanBundle;
  readonly files: readonly string[];
}

/** A file that another trainer made from `qatInsert`'s, back into a plan: `qc apply` lowers it. */
export async function qatImport(source: string | Uint8Array, given: QatImportOptions): Promise<QatImported> {
  const { plan: from, list: listed, ...rest } = given;
  const options = settle(QAT_IMPORT, rest as Readonly<Record<string, unknown>>, RUN_KEYS);
  const { importQat, parseQatList } = await import("./qat/index.ts");
  const path = typeof source === "string" ? source : undefined;
  const file = options.out ?? (path === undefined ? undefined : `${stemOf(path)}.plan.json`);
  const inputs = [path, ...[from, listed].map((x) => (typeof x === "string" ? x : undefined))];
  if (file !== undefined) checkOutputs([file], inputs);
  const bytes = typeof source === "string" ? readFile(source, LIMITS.modelBytes) : source;
  const trained = readModel(bytes, path === undefined ? { label: "model" } : { label: path, folder: folderOf(path) });
  const bundle = typeof from === "string" ? readPlan(from) : from;
  const list = typeof listed === "string" ? parseQatList(new TextDecoder().decode(readFile(listed, LIMITS.modelBytes)), listed) : listed;
  const plan = importQat(trained, list, bundle);
  return { plan, files: file === undefined ? [] : writePlan(plan, file).reverse() };
}
