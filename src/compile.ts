import { type Limit, missed, parseBudget } from "./budget.ts";
import { checkStats, readStats, splitForAuto } from "./calibrate/index.ts";
import { type Calibrated, calibrateValues, chooseRanges } from "./choose.ts";
import type { DataSet } from "./data/types.ts";
import { QcError } from "./diagnostics.ts";
import { lower } from "./export/lower/index.ts";
import { checkModel } from "./graph/check.ts";
import type { Model } from "./graph/ir.ts";
import { modelSize, writeModel } from "./graph/onnx/index.ts";
import { shareConstants } from "./graph/share.ts";
import { pathOfNode } from "./graph/walk.ts";
import { sha256 } from "./io/hash.ts";
import { LIMITS } from "./io/limits.ts";
import { readFile } from "./io/source.ts";
import { type Job, RUN_KEYS, type RunOptions, refuseErrors, type StageFacts, withJob } from "./job.ts";
import { type Mix, mixOf, pinned, pinsOf, schemesOf } from "./mix.ts";
import { type CostFile, readCosts } from "./mixed/cost-table.ts";
import { DEFAULT_SAMPLES, type Effort, type Parsed, QUANTIZE, type QuantizeFlags, settle } from "./options.ts";
import { checkOutputs, namesOf, type OutputNames, writeOutputs } from "./outputs.ts";
import { pageOf } from "./page.ts";
import { isBlockSite } from "./plan/blockfloat.ts";
import { parsePlan } from "./plan/io.ts";
import { deployedLevel } from "./plan/level.ts";
import { type Recipe, recipeOf } from "./plan/recipes/index.ts";
import { type Tuning, tuneRecipe } from "./plan/recipes/tune.ts";
import type { Pin } from "./plan/schemes.ts";
import type { Target } from "./plan/target.ts";
import { targetOf } from "./plan/targets/index.ts";
import type { Plan, PlanBundle } from "./plan/types.ts";
import { encodePlan } from "./plan/write.ts";
import { withoutQuantization } from "./prepare/float.ts";
import { type Prepared, prepareModel } from "./prepare/index.ts";
import { type PruneWish, parsePrune } from "./prune-wish.ts";
import type { PrunedNetwork } from "./ptq/proposal.ts";
import { type Proposal, type ProposeInput, proposeSites } from "./ptq/propose.ts";
import { castProposal, castRest, restValues } from "./ptq/rest.ts";
import { isRecipeFile, readRecipe, schemeList } from "./recipe-file.ts";
import { recipeForGraph, recipeWithoutRanges } from "./recurrent.ts";
import { coverageOf, makeReport, nodeCount, type Weighed } from "./report.ts";
import { drawSamples, openSet, sessionOf } from "./set.ts";
import { readSource, refuseQuantized, type Source } from "./source.ts";
import { type Verified, type VerifyReport, verify } from "./verify/index.ts";
import { TOOL } from "./version.ts";

export interface QuantizeOptions extends Omit<QuantizeFlags, "dryRun" | "memory">, RunOptions {}

export interface QuantizeResult {
  readonly model: Model;
  readonly plan: PlanBundle;
  readonly report: VerifyReport;
  /** Written files, the model first; none when no `out` was given and the source is bytes. */
  readonly files: readonly string[];
  /** Limits of the budget that were missed: the command ends with exit code 3. */
  readonly missed: readonly { readonly limit: string; readonly got: string }[];
}

/** What the options come to once they are read. */
export interface Settled {
  readonly options: Parsed<typeof QUANTIZE>;
  readonly target: Target;
  readonly recipe: Recipe;
  readonly budget: readonly Limit[];
  readonly pins: readonly Pin[];
  /** A scheme for each layer, when the budget asks for a search. */
  readonly mix: Mix | undefined;
  /** A plan to start from. */
  readonly start?: Plan;
  /** What every node takes in every scheme. */
  readonly costs?: CostFile;
  /** Channels to take out. */
  readonly prune?: PruneWish;
}

/** The whole compiler. Each line is a stage; what passes between them is data. */
export async function quantize(source: string | Uint8Array, given: QuantizeOptions = {}): Promise<QuantizeResult> {
  const asked = settleWish(given);
  return withJob({ ...given, threads: asked.options.threads }, async (job) => {
    const read = await job.stage(
      "read",
      () => readFloat(job, source, asked.options.requantize),
      (s) => ({ stage: "read", nodes: nodeCount(s.model), bytes: s.sizeBytes }),
    );
    const wish = recipeForGraph(asked, read.model, job.report);
    const names = outputsOf(read, wish);
    sayWhatDataGains(job, wish);
    const data = await job.stage(
      "data",
      () => openSet(job, read.model, wish.options),
      (d) => d && setFacts(d),
    );
    const whole = await job.stage(
      "prepare",
      () => prepare(job, read, data),
      (p) => prepareFacts(read, p),
    );
    const { prepared, network } = await pruneStage(job, read, whole, data, wish);
    const proposal = await job.stage(
      "propose",
      () => proposeMeasured(job, read, prepared, wish, network),
      (p) => ({ stage: "propose", values: p.values.length, weights: p.weights.length }),
    );
    const calibrated = await job.stage(
      "calibrate",
      () => calibrateFor(job, read, prepared, proposal, data, wish),
      (s) => s && { stage: "calibrate", samples: s.stats.samples, values: s.stats.values.size },
    );
    const chosen = await job.stage(
      "plan",
      () =>
        chooseRanges(job, {
          proposal,
          prepared: prepared.model,
          calibrated,
          data,
          target: wish.target,
          calibrator: proposal.values.length === 0 ? "minmax" : wish.options.calibrator,
          session: sessionOf(data, wish.options),
        }),
      (b) => planFacts(prepared, b),
    );
    let weighed: Weighed | undefined;
    const tell = (w: Weighed) => {
      weighed = w;
    };
    const plan = await job.stage(
      "improve",
      async () => {
        const improved = await timed(wish, prepared, await improve(job, prepared, proposal, chosen, calibrated, data, wish, tell));
        const { model, types } = prepared;
        const { recipe, target } = wish;
        const cast = castRest(improved, { model, types, recipe, target, stats: calibrated?.stats, report: job.report });
        return keepFloats(job, prepared, cast, data, wish);
      },
      (b) => improveFacts(chosen, b),
    );
    const model = await job.stage(
      "lower",
      () => lowerPlan(job, prepared.model, plan, wish.target),
      (m) => ({ stage: "lower", nodes: nodeCount(m), opset: m.opsets.get("") ?? 0 }),
    );
    const sizeBytes = modelSize(model);
    const blocks = plan.plan.sites.some(isBlockSite);
    const float32 =
      plan.plan.rest || blocks ? lower(prepared.model, plan, wish.target, { simulateRest: true, simulateBlocks: true }) : model;
    const simulated = blocks || plan.plan.rest?.to === "bfloat16";
    const runnable = () => writeModel(simulated ? float32 : model);
    if (simulated) job.report({ code: "check/simulated", what: blocks ? wish.recipe.name : "bfloat16", target: wish.options.target });
    const verified = await job.stage(
      "verify",
      () => verifyModel(job, { read, prepared, plan, model: float32, sizeBytes, runnable, data, wish }),
      (v) => v && { stage: "verify", n: v.n },
    );
    const report = makeReport({
      job,
      prepared: prepared.model,
      bundle: plan,
      data,
      verified,
      bytes: { before: read.sizeBytes, after: sizeBytes },
      ...(weighed && { weighed }),
      onnxruntime: (await job.runtime.versions()).onnxruntime,
    });
    const files = await job.stage(
      "write",
      async () =>
        names === undefined
          ? []
          : writeOutputs(
              names,
              model,
              plan,
              report,
              await pageOf({ title: read.label, report, plan: plan.plan, stats: calibrated?.stats, data }),
            ),
      (written) => ({ stage: "write", files: written, before: read.sizeBytes, after: sizeBytes }),
    );
    return { model, plan, report, files, missed: missed(wish.budget, report) };
  });
}

/** The plan with what it should take by the cost table, when there is one. */
async function timed({ costs }: Settled, prepared: Prepared, plan: PlanBundle): Promise<PlanBundle> {
  return costs ? (await import("./measured.ts")).withTime(plan, costs, prepared.model) : plan;
}

function sayWhatDataGains(job: Job, { options, recipe, target }: Settled): void {
  if (options.data !== undefined) return;
  const gain =
    recipe.activations === "dynamic"
      ? "ranges would be fixed instead of being computed in every run"
      : recipe.weight === undefined
        ? "what overflows would be known and stay float32"
        : recipe.weight.per === "block"
          ? "weights would be rounded by the error that they make at the outputs"
          : `activations would be 8 bits too, so that ${target.name} can run integer kernels`;
  job.report({ code: "cli/no-data", recipe: recipe.summary, gain: `${gain}, and the result would be verified` });
}

/** Checks every option before anything is read. */
export function settleWish(given: QuantizeOptions): Settled {
  const options = settle(QUANTIZE, given as Readonly<Record<string, unknown>>, RUN_KEYS);
  const wish = settleDecisions(options, options.data !== undefined);
  if (wish.recipe.data && options.data === undefined)
    throw new QcError({
      code: "cli/needs-option",
      command: "quantize",
      flag: "--data",
      why: `recipe ${wish.recipe.name} calibrates activations, and qc never calibrates on random numbers`,
    });
  return { ...wish, options };
}

/** Without data there are no ranges: weights only, or activations quantized while running where the target is fast at that. */
export function settleDecisions<
  T extends {
    readonly target: string;
    readonly recipe: string;
    readonly float?: string | undefined;
    readonly budget?: string | undefined;
    readonly scheme?: readonly string[];
    readonly skip?: readonly string[];
    readonly start?: string | undefined;
    readonly prune?: string | undefined;
    readonly pareto?: string | undefined;
    readonly costTable?: string | undefined;
  } & Tuning,
>(given: T, hasData: boolean): Omit<Settled, "options"> & { readonly options: T } {
  const target = targetOf(given.target);
  const start = given.start === undefined ? undefined : readStart(given.start);
  const file = isRecipeFile(given.recipe) ? readRecipe(given.recipe) : undefined;
  const schemes = [...schemeList(start?.schemes ?? {}), ...schemeList(file?.schemes ?? {}), ...(given.scheme ?? [])];
  const options: T = {
    ...given,
    scheme: schemes,
    recipe: file?.base ?? (given.recipe === "auto" && start ? start.recipe : given.recipe),
    ...(file?.skip && { skip: [...file.skip, ...(given.skip ?? [])] }),
    ...(file?.budget !== undefined && given.budget === undefined && { budget: file.budget }),
  };
  const asked = recipeOf(options.recipe !== "auto" ? options.recipe : hasData ? "int8" : recipeWithoutRanges(target));
  const tuned = tuneRecipe(asked, options);
  const recipe = options.float === undefined ? tuned : { ...tuned, floatType: options.float as Recipe["floatType"] };
  const budget = options.budget === undefined ? [] : parseBudget(options.budget);
  const pins = pinsOf(options.scheme ?? []);
  const prune = parsePrune(options.prune, budget);
  const costs = options.costTable === undefined ? undefined : readCosts(options.costTable);
  return {
    options,
    target,
    recipe,
    budget,
    pins,
    ...(start && { start }),
    ...(prune !== undefined && { prune }),
    ...(costs && { costs }),
    mix: hasData ? mixOf({ recipe, budget, wanted: options.pareto !== undefined, costs }, pins) : undefined,
  };
}

/** The document of a plan to start from: its tensors are made anew. */
function readStart(path: string): Plan {
  return parsePlan(new TextDecoder().decode(readFile(path, LIMITS.modelBytes)), path);
}

/** Channels taken out, where that was asked for; what the plan is about from then on. */
async function pruneStage(
  job: Job,
  read: Source,
  prepared: Prepared,
  data: DataSet | undefined,
  wish: Settled,
): Promise<{ readonly prepared: Prepared; readonly network?: PrunedNetwork | undefined }> {
  if (wish.prune === undefined) return { prepared };
  if (wish.options.stats !== undefined)
    throw new QcError({
      code: "cli/bad-value",
      flag: "--stats",
      got: wish.options.stats,
      want: "nothing beside --prune: a network with fewer channels has statistics of its own",
    });
  const { prune } = await import("./prune.ts");
  return job.stage(
    "prune",
    () => prune(job, { read, prepared, data, ...wish, wish: wish.prune! }),
    ({ macs, network }) => network && { stage: "prune", ...macs, groups: network.pruned.groups },
  );
}

/** The source, taken back to float where that is asked for; it is compared with as it was given. */
function readFloat(job: Job, source: string | Uint8Array, requantize: boolean): Source {
  const read = readSource(source);
  if (!requantize) {
    refuseQuantized(read.model);
    return read;
  }
  const { model, pairs, constants, left } = withoutQuantization(read.model);
  if (left.length > 0)
    throw new QcError({ code: "cli/no-float-form", nodes: left.map((n) => `${n.op} ${pathOfNode(n)}`) }, { exitCode: 1 });
  if (pairs + constants > 0) job.report({ code: "cli/requantized", pairs, constants });
  return { ...read, model };
}

function outputsOf(read: Source, { options, recipe }: Settled): OutputNames | undefined {
  if (read.path === undefined && options.out === undefined) return undefined;
  const names = namesOf(read.path ?? options.out!, recipeFileName(recipe), options);
  checkOutputs(Object.values(names), [read.path, options.data]);
  return names;
}

/** `int8`, or `int8-fp16` when the rest is not what the recipe's name says. */
function recipeFileName({ name, weight, floatType }: Recipe): string {
  if (!weight || floatType === "float32") return name;
  return `${name}-${floatType === "float16" ? "fp16" : "bf16"}`;
}

/** Checks the graph, then rewrites it to the same function in fewer, plainer operators. The first sample tells shapes. */
export async function prepare(job: Job, read: Source, data: DataSet | undefined): Promise<Prepared> {
  refuseErrors(job, checkModel(read.model));
  const first = data?.roles.calibrate[0];
  const feeds = first === undefined ? undefined : (await data!.sample(first)).feeds;
  return prepareModel(read.model, job.runtime, { report: job.report, ...(feeds === undefined ? {} : { feeds }) });
}

/**
 * The proposal, with what is slower in codes left float when a cost table tells. A limit on bytes comes before: codes are smaller, and what
 * they take is then a matter of the search.
 */
export async function proposeMeasured(
  job: Job,
  read: Source,
  prepared: Prepared,
  wish: Omit<Settled, "options"> & { readonly options: Pick<Settled["options"], "skip" | "seed"> },
  network?: PrunedNetwork,
): Promise<Proposal> {
  const { costs, budget, mix, recipe } = wish;
  const late = budget.find((l) => l.kind === "latency");
  if (!costs) {
    if (late && recipe.activations === "static") job.report({ code: "costs/needed", budget: late.text });
    return propose(read, prepared, wish, network);
  }
  const { checkCostsHere, refuseWithPruning, slowNodes } = await import("./measured.ts");
  if (network) refuseWithPruning(costs);
  await checkCostsHere(job, costs, read, prepared, wish.target);
  const all = propose(read, prepared, { ...wish, measured: true });
  if (recipe.activations !== "static" || mix?.limits.bytes !== undefined || mix?.limits.bits !== undefined) return all;
  return propose(read, prepared, { ...wish, measured: true, floats: await slowNodes(costs, prepared, all, mix?.start ?? recipe) });
}

export function propose(
  read: Source,
  prepared: Prepared,
  {
    options,
    target,
    recipe,
    pins,
    mix,
    start,
    measured,
    floats,
  }: Pick<Settled, "target" | "recipe"> &
    Partial<Pick<Settled, "pins" | "mix" | "start">> &
    Pick<ProposeInput, "measured" | "floats"> & { readonly options: Pick<Settled["options"], "skip" | "seed"> },
  network?: PrunedNetwork,
): Proposal {
  // Without a search the plan to start from says what every layer has.
  const own = new Map([
    ...(start && !mix ? schemesOf(prepared.model, start) : []),
    ...(pins && pins.length > 0 ? pinned(prepared.model, pins) : []),
  ]);
  const proposal = (recipe.weight ? proposeSites : castProposal)({
    model: prepared.model,
    types: prepared.types,
    target,
    recipe: mix?.start ?? recipe,
    skip: options.skip,
    ...(measured && { measured }),
    ...(floats && { floats }),
    ...(own.size > 0 && { schemes: own }),
    ...(network && { pruned: network }),
    ...(pins && pins.length > 0 && { pins: Object.fromEntries(pins.map((p) => [p.pattern, p.scheme.name])) }),
    source: read.hashes,
    prepare: prepared.version,
    tool: TOOL,
    seed: options.seed,
  });
  refuseNonFinite(proposal);
  return proposal;
}

/** A scale over NaN or infinity is none. All offenders are named. */
function refuseNonFinite(p: Proposal): void {
  const bad = p.weights.filter((w) => !w.float32().every(Number.isFinite));
  if (bad.length > 0) throw new QcError(bad.map((w) => ({ code: "plan/not-finite", value: w.path, node: pathOfNode(w.nodes[0]!) })));
}

/** Statistics of exactly the values that the proposal asks for; two parts when `auto` needs samples that set no ranges. */
export function calibrateFor(
  job: Job,
  read: Source,
  prepared: Prepared,
  proposal: Proposal,
  data: DataSet | undefined,
  wish: Pick<Settled, "recipe"> & {
    readonly options: Pick<Settled["options"], "samples" | "calibrator" | "provider"> & { readonly stats?: string | undefined };
  },
): Promise<Calibrated | undefined> {
  const rest = wish.recipe.floatType === "float32" || data === undefined ? [] : restValues(prepared.model, prepared.types);
  const values = [...new Set([...proposal.values, ...rest])];
  if (values.length === 0) return Promise.resolve(undefined);
  if (data === undefined) throw new QcError({ code: "plan/no-stats", recipe: wish.recipe.name });
  const { options } = wish;
  if (options.stats !== undefined) {
    const stats = readStats(options.stats);
    checkStats(stats, { model: read.hashes, prepare: prepared.version, values });
    const folds = splitForAuto([], data.roles.select).folds.map((f) => ({ stats, select: f.select }));
    return Promise.resolve({ stats, ...(folds.length > 0 && { trial: { folds, confirm: [] } }) });
  }
  const indices = drawSamples(data, "calibrate", options.samples ?? DEFAULT_SAMPLES);
  return calibrateValues(job, {
    model: prepared.model,
    types: prepared.types,
    values,
    data,
    indices,
    prepare: prepared.version,
    source: read.hashes,
    calibrator: proposal.values.length === 0 ? "minmax" : options.calibrator,
    session: sessionOf(data, options),
  });
}

/** Samples that weight-only rounding takes when nothing else is asked for: more moved the result by less than its noise. */
const MOST_WINDOWS = 32;

/** Steps beyond calibration, each kept only when it helps on select samples; `fast` takes none, and nothing is loaded for it. */
async function improve(
  job: Job,
  prepared: Prepared,
  proposal: Proposal,
  bundle: PlanBundle,
  calibrated: Calibrated | undefined,
  data: DataSet | undefined,
  wish: Settled,
  tell: (w: Weighed) => void,
): Promise<PlanBundle> {
  const { options, target, mix } = wish;
  const effort = options.effort as Effort;
  if (mix !== undefined && data !== undefined) {
    const { solveMix } = await import("./search.ts");
    const { timeOver } = await import("./measured.ts");
    return solveMix(job, {
      tell,
      mix,
      prepared,
      proposal,
      bundle,
      calibrated,
      data,
      target,
      options,
      ...(wish.start && { start: wish.start }),
      ...(wish.costs && { time: timeOver(wish.costs, prepared.model) }),
    });
  }
  if (effort !== "fast" && wish.recipe.activations === "none" && wish.recipe.weight?.per === "block") {
    const { roundWeights } = await import("./ptq/weightonly/index.ts");
    return roundWeights({
      model: prepared.model,
      types: prepared.types,
      bundle,
      ...(data && { data, calibrate: drawSamples(data, "calibrate", options.samples ?? MOST_WINDOWS), select: data.roles.select }),
      target,
      session: sessionOf(data, options),
      runtime: job.runtime,
      seed: options.seed,
      progress: job.progress("improve"),
      ...(job.signal === undefined ? {} : { signal: job.signal }),
    });
  }
  // What can be solved for is codes on an even grid.
  const grid = !bundle.plan.sites.some(isBlockSite);
  if (effort === "fast" || data === undefined || !wish.recipe.weight || !grid) return bundle;
  const { improvePlan } = await import("./ptq/improve.ts");
  return improvePlan({
    model: prepared.model,
    types: prepared.types,
    bundle,
    ...(calibrated && { stats: calibrated.stats }),
    data,
    calibrate: drawSamples(data, "calibrate", options.samples ?? DEFAULT_SAMPLES),
    runtime: job.runtime,
    target,
    effort,
    seed: options.seed,
    session: sessionOf(data, options),
    report: job.report,
    progress: job.progress("improve"),
    ...(job.signal === undefined ? {} : { signal: job.signal }),
  });
}

/** Of what became a 16-bit float, what the outputs cannot do with is float32 again; `fast` leaves it at ranges. */
async function keepFloats(
  job: Job,
  { model }: Prepared,
  bundle: PlanBundle,
  data: DataSet | undefined,
  { options, target }: Settled,
): Promise<PlanBundle> {
  if (bundle.plan.rest === undefined || data === undefined || options.effort === "fast") return bundle;
  const { keepByError } = await import("./ptq/rest-error.ts");
  return keepByError(bundle, {
    model,
    target,
    data,
    runtime: job.runtime,
    session: sessionOf(data, options),
    report: job.report,
    ...(job.signal === undefined ? {} : { signal: job.signal }),
  });
}

/** A plan applied: the same function for `qc quantize` and `qc apply`, so that both write equal bytes. */
export function lowerPlan(job: Job, prepared: Model, bundle: PlanBundle, target: Target): Model {
  const model = lower(prepared, bundle, target);
  shareConstants(model);
  refuseErrors(job, checkModel(model));
  model.metadata = [...model.metadata.filter(([key]) => !key.startsWith("qc.")), ...provenanceOf(bundle)];
  return model;
}

/** What a reader of the file alone can know of its making. The plan's tensors are named in the plan. */
function provenanceOf(bundle: PlanBundle): [string, string][] {
  const { plan } = bundle;
  return [
    ["qc.tool", plan.tool],
    ["qc.plan", sha256(encodePlan(bundle, "plan.tensors").json)],
    ["qc.target", plan.target],
    ["qc.recipe", plan.recipe],
    ...(plan.calibrator === undefined ? [] : [["qc.calibrator", plan.calibrator] as [string, string]]),
    ...(plan.stats === undefined
      ? []
      : [["qc.stats", plan.stats.sha256] as [string, string], ["qc.samples", String(plan.stats.samples)] as [string, string]]),
  ];
}

/** Samples that verify runs at most, and how it spends time. More samples narrow the intervals; the report prints how many there were. */
export const VERIFY = {
  fast: { samples: 64, referenceSamples: 16, layerSamples: 4, rounds: 10 },
  default: { samples: 512, referenceSamples: 128, layerSamples: 16, rounds: 40 },
  best: { samples: 4096, referenceSamples: 512, layerSamples: 32, rounds: 100 },
} as const satisfies Record<Effort, { samples: number; referenceSamples: number; layerSamples: number; rounds: number }>;

/** A session takes a few times the size of its model: of a larger one only the file is made. */
const MOST_OPENED = 2 ** 29;

async function verifyModel(
  job: Job,
  o: {
    read: Source;
    prepared: Prepared;
    plan: PlanBundle;
    model: Model;
    sizeBytes: number;
    runnable: () => Uint8Array;
    data: DataSet | undefined;
    wish: Settled;
  },
): Promise<Verified | undefined> {
  const { options } = o.wish;
  const spend = VERIFY[options.effort as Effort];
  const n = options.verifySamples ?? spend.samples;
  const label = "quantized model";
  const indices = o.data === undefined || n === 0 ? [] : drawSamples(o.data, "heldOut", n);
  if (o.data === undefined || indices.length === 0) {
    // Not compared, but a file that does not load is never written.
    if (o.sizeBytes <= MOST_OPENED) {
      const bytes = o.runnable();
      for (const level of ["disabled", deployedLevel(o.plan)] as const) await (await job.runtime.open(bytes, { level, label })).release();
    } else job.report({ code: "check/not-opened", sizeBytes: o.sizeBytes, most: MOST_OPENED });
    job.report({
      code: "check/not-verified",
      reason: o.data === undefined ? "no data was given" : n === 0 ? "--verify-samples is 0" : "the set has no held-out sample",
    });
    return undefined;
  }
  return verify({
    runtime: job.runtime,
    float: o.read.runnable,
    quantized: { model: o.runnable(), label },
    graphs: {
      float: o.prepared.model,
      quantized: o.model,
      types: o.prepared.types,
      skipped: new Set(o.plan.plan.skips.map((s) => s.node)),
    },
    data: o.data,
    indices,
    layerSamples: spend.layerSamples,
    referenceSamples: spend.referenceSamples,
    latencyRounds: spend.rounds,
    deployed: deployedLevel(o.plan),
    session: sessionOf(o.data, options),
    report: job.report,
    signal: job.signal,
    onProgress: job.progress("verify"),
  });
}

function setFacts(d: DataSet): StageFacts {
  const { calibrate, select, heldOut } = d.roles;
  return { stage: "data", name: d.name, calibrate: calibrate.length, select: select.length, heldOut: heldOut.length };
}
function prepareFacts(read: Source, p: Prepared): StageFacts {
  return { stage: "prepare", before: nodeCount(read.model), after: nodeCount(p.model), rules: p.applied };
}
function improveFacts(before: PlanBundle, after: PlanBundle): StageFacts {
  return { stage: "improve", steps: after.plan.steps.slice(before.plan.steps.length) };
}
function planFacts(p: Prepared, bundle: PlanBundle): StageFacts {
  const c = coverageOf(p.model, bundle);
  return {
    stage: "plan",
    products: c.products,
    quantized: c.both + c.weightOnly,
    schemes: storedForms(bundle),
    floats: new Set(bundle.plan.skips.map((s) => s.node)).size,
    calibrator: bundle.plan.calibrator,
  };
}

/** `w int8/channel`, `a uint8/tensor`: each scheme once. */
function storedForms({ plan }: PlanBundle): readonly string[] {
  return [
    ...new Set(
      plan.sites.map(
        (s) =>
          `${s.kind === "weight" || s.kind === "cast" ? "w" : "a"} ${s.scheme.dtype}/${s.kind === "dynamic" && s.per ? s.per : s.scheme.granularity.kind}${s.kind === "dynamic" ? " dynamic" : ""}`,
      ),
    ),
  ];
}
