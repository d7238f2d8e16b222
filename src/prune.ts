import type { Limit } from "./budget.ts";
import { calibratorOf, collectStats } from "./calibrate/index.ts";
import type { DataSet } from "./data/types.ts";
import { QcError } from "./diagnostics.ts";
import { lower } from "./export/lower/index.ts";
import { writeModel } from "./graph/onnx/index.ts";
import { pathOfNode } from "./graph/walk.ts";
import type { Job } from "./job.ts";
import type { Mix } from "./mix.ts";
import { DEFAULT_SAMPLES } from "./options.ts";
import { deployedLevel } from "./plan/level.ts";
import type { Recipe } from "./plan/recipes/index.ts";
import type { Target } from "./plan/target.ts";
import type { PlanBundle } from "./plan/types.ts";
import { type Prepared, prepareModel } from "./prepare/index.ts";
import type { PruneWish } from "./prune-wish.ts";
import type { PrunedNetwork } from "./ptq/proposal.ts";
import { proposeSites } from "./ptq/propose.ts";
import { type PruneResult, prunedModel, pruneModel } from "./ptq/prune/index.ts";
import { planOf } from "./ptq/ranges.ts";
import { drawSamples, sessionOf } from "./set.ts";
import type { Source } from "./source.ts";
import { measureLatency } from "./verify/index.ts";

/** Grid of fractions that `auto` tries, and what it times: enough to tell a tenth. */
const STEP = 0.05;
const MOST = 0.9;
const TRIAL = { samples: 16, rounds: 40, feeds: 4 } as const;

export interface PruneStage {
  readonly prepared: Prepared;
  readonly network: PrunedNetwork | undefined;
  readonly macs: PruneResult["macs"];
}

/** The prepared network with channels taken out, typed anew. */
export async function prune(
  job: Job,
  o: {
    readonly read: Source;
    readonly prepared: Prepared;
    readonly data: DataSet | undefined;
    readonly wish: PruneWish;
    readonly budget: readonly Limit[];
    readonly target: Target;
    readonly recipe: Recipe;
    readonly mix: Mix | undefined;
    readonly options: { readonly samples?: number | undefined; readonly seed: number; readonly provider: string };
  },
): Promise<PruneStage> {
  const { data, prepared } = o;
  if (data === undefined)
    throw new QcError({
      code: "cli/needs-option",
      command: "quantize",
      flag: "--data",
      why: "--prune measures on samples which channels are missed least",
    });
  const calibrate = drawSamples(data, "calibrate", o.options.samples ?? DEFAULT_SAMPLES);
  const cut = (fraction: number) =>
    pruneModel({
      model: prepared.model,
      types: prepared.types,
      runtime: job.runtime,
      data,
      calibrate,
      fraction,
      seed: o.options.seed,
      ...(job.signal && { signal: job.signal }),
    });
  const stageOf = async (r: PruneResult): Promise<PruneStage> => {
    if (!r.pruned) return { prepared, network: undefined, macs: r.macs };
    const { feeds } = await data.sample(calibrate[0]!);
    const again = await prepareModel(r.model, job.runtime, { report: job.report, feeds });
    return {
      prepared: { ...prepared, model: again.model, types: again.types },
      network: { pruned: r.pruned, tensors: r.tensors },
      macs: r.macs,
    };
  };
  if (o.wish !== "auto") return stageOf(await cut(o.wish));
  // The least that meets the limits: fractions from 0 up, by bisection, as if more never cost more.
  const stages = new Map<number, Promise<PruneStage>>();
  const at = (i: number) => {
    if (!stages.has(i)) stages.set(i, cut(i * STEP).then(stageOf));
    return stages.get(i)!;
  };
  const meets = async (i: number) => withinLimits(job, { ...o, data }, await at(i));
  if (await meets(0)) return at(0);
  let [lo, hi] = [0, Math.round(MOST / STEP)];
  if (!(await meets(hi))) return at(hi);
  while (hi - lo > 1) {
    const mid = (lo + hi) >> 1;
    if (await meets(mid)) hi = mid;
    else lo = mid;
  }
  return at(hi);
}

/** Whether the smallest plan of a network keeps the limits on size and latency: rounded to nearest, ranges of a few samples. */
async function withinLimits(
  job: Job,
  o: {
    readonly read: Source;
    readonly data: DataSet;
    readonly budget: readonly Limit[];
    readonly target: Target;
    readonly recipe: Recipe;
    readonly mix: Mix | undefined;
    readonly options: { readonly seed: number; readonly provider: string };
  },
  { prepared }: PruneStage,
): Promise<boolean> {
  const { data, target, mix } = o;
  const input = { model: prepared.model, types: prepared.types, target, recipe: mix?.start ?? o.recipe };
  const all = proposeSites(input);
  const least = mix?.ladder[0];
  const proposal = least
    ? proposeSites({ ...input, schemes: new Map(all.weights.flatMap((w) => w.nodes.map((n) => [pathOfNode(n), least] as const))) })
    : all;
  const indices = drawSamples(data, "calibrate", TRIAL.samples);
  const session = sessionOf(data, o.options);
  const stats =
    proposal.values.length === 0
      ? undefined
      : await collectStats({
          model: prepared.model,
          types: prepared.types,
          values: proposal.values,
          data,
          indices,
          prepare: prepared.version,
          source: o.read.hashes,
          secret: data.secret,
          runtime: job.runtime,
          detail: "range",
          workers: 1,
          session,
          report: () => {},
        });
  const bundle = planOf(proposal, stats, calibratorOf("minmax")!);
  const bytes = writeModel(lower(prepared.model, bundle, target));
  for (const l of o.budget) if (l.kind === "size" && bytes.byteLength > l.most) return false;
  const latency = o.budget.find((l) => l.kind === "latency");
  if (!latency) return true;
  const feeds = await Promise.all(indices.slice(0, TRIAL.feeds).map(async (i) => (await data.sample(i)).feeds));
  const timed = await measureLatency({
    float: o.read.runnable,
    quantized: { model: bytes, label: "pruned plan" },
    feeds,
    rounds: TRIAL.rounds,
    session: { ...session, level: deployedLevel(bundle) },
    signal: job.signal,
  });
  return (latency.unit === "x" ? timed.ratio : timed.quantized.medianMs) <= latency.most;
}

/** The network that a plan speaks of: the prepared one, without the channels that the plan takes out. */
export function networkOf<T extends Pick<Prepared, "model">>(prepared: T, bundle: PlanBundle): T {
  const model = prunedModel(prepared.model, bundle);
  return model === prepared.model ? prepared : { ...prepared, model };
}
