import { fingerprint, machineOf, sameMachine } from "./check.ts";
import { openData } from "./data/index.ts";
import { QcError } from "./diagnostics.ts";
import { BENCH } from "./gate-options.ts";
import { writeAtomic } from "./io/atomic.ts";
import { type Job, RUN_KEYS, type RunOptions, withJob } from "./job.ts";
import { type Parsed, settle, type Wished } from "./options.ts";
import { jsonText, readJson } from "./outputs.ts";
import { elementCount } from "./quant/dtype.ts";
import { type DeviceUse, deviceUse } from "./runtime/device.ts";
import { footprint } from "./runtime/footprint.ts";
import type { Feeds, IoInfo, OptLevel, Session, SessionOptions, Tensor, TensorArray } from "./runtime/types.ts";
import { drawSamples } from "./set.ts";
import { inputsOf, readSource, type Source, sameInputs } from "./source.ts";
import { pairedRatio, type Ratio, unpairedRatio } from "./verify/gate/decide.ts";
import { type LoadResult, loadTest } from "./verify/gate/load.ts";
import { medianOf, throughputInTurn, timeModels } from "./verify/gate/timing.ts";
import { quantileOf } from "./verify/statistics.ts";
import type { Machine } from "./verify/types.ts";
import { TOOL } from "./version.ts";

export interface BenchOptions extends Omit<Wished<typeof BENCH>, "memory">, RunOptions {}

export interface BenchRow {
  readonly model: string;
  readonly weights: string;
  readonly threads: number;
  readonly batch: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
  /** Samples a second at the concurrency. */
  readonly perSecond: number;
  readonly peakBytes: number;
  readonly loadMs: number;
  /** This model's time ÷ the first one's, with its 95 % interval. */
  readonly ratio?: Ratio;
  /** This time ÷ the kept one's. */
  readonly against?: Ratio;
  readonly rounds: readonly number[];
  readonly load?: LoadResult;
}
export interface BenchResult {
  readonly schema: "qc.bench/1";
  readonly tool: string;
  readonly machine: Machine;
  readonly provider: string;
  readonly concurrency: number;
  /** How busy the device was while latency was taken, by whomever; without a share, `from` says why. */
  readonly utilization: DeviceUse;
  readonly rows: readonly BenchRow[];
  /** Batch sizes that a model's fixed shape does not take. */
  readonly refused: readonly { readonly model: string; readonly batch: number; readonly why: string }[];
}

/** Two-sided 95 %. */
const ALPHA = 0.025;
const KEPT = 8;
/** As the gate has it (`utilization`). */
const BUSY = 0.95;

/** All models in turn within each round; percentiles of single runs, throughput, memory, and the ratio to the first with its interval. */
export async function bench(models: readonly string[], given: BenchOptions = {}): Promise<BenchResult> {
  const options = settle(BENCH, given as Readonly<Record<string, unknown>>, RUN_KEYS);
  const kept = options.against === undefined ? undefined : readKept(options.against);
  const threads = numbers("--threads", options.threads);
  const batches = numbers("--batch", options.batch);
  return withJob({ ...given, threads: options.concurrency }, async (job) => {
    const machine = await machineOf(job, options.provider);
    if (kept !== undefined && !sameMachine(kept.machine, machine))
      throw new QcError({
        code: "gate/other-machine",
        file: options.against!,
        theirs: fingerprint(kept.machine),
        ours: fingerprint(machine),
      });
    const sources = models.map((m) => readSource(m));
    sameInputs(sources);
    const samples = await Promise.all(sources.map((s) => samplesOf(job, s, options.data)));
    const rows: BenchRow[] = [];
    const refused: { model: string; batch: number; why: string }[] = [];
    const uses: DeviceUse[] = [];
    for (const t of threads)
      for (const batch of batches) {
        const fit = sources.filter((s) => {
          const why = batch === 1 ? undefined : fixedBatch(s);
          if (why !== undefined) refused.push({ model: s.label, batch, why });
          return why === undefined;
        });
        if (fit.length > 0)
          rows.push(
            ...(await measure(
              job,
              fit,
              fit.map((s) => batched(samples[sources.indexOf(s)]!, batch)),
              t,
              batch,
              options,
              kept,
              uses,
            )),
          );
      }
    const busiest = uses.reduce((a, b) => ((b.share ?? -1) > (a.share ?? -1) ? b : a), uses[0] ?? { from: "nothing was run" });
    if ((busiest.share ?? 0) > BUSY) job.report({ code: "gate/busy", share: busiest.share!, from: busiest.from });
    const result: BenchResult = {
      schema: "qc.bench/1",
      tool: TOOL,
      machine,
      provider: options.provider,
      // One device takes one run at a time.
      concurrency: options.provider === "webgpu" ? 1 : job.runtime.workers,
      utilization: busiest,
      rows,
      refused,
    };
    if (options.save !== undefined) writeAtomic(options.save, jsonText(result));
    return result;
  });
}

function numbers(flag: string, list: readonly string[]): readonly number[] {
  const out = list.map(Number);
  const bad = out.findIndex((n) => !(Number.isSafeInteger(n) && n >= 1 && n <= 4096));
  if (bad >= 0)
    throw new QcError({ code: "cli/bad-value", flag, got: list[bad]!, want: "whole numbers from 1 to 4096, joined with commas" });
  return out.length === 0 ? [1] : out;
}

async function measure(
  job: Job,
  sources: readonly Source[],
  feeds: readonly (readonly Feeds[])[],
  threads: number,
  batch: number,
  o: Parsed<typeof BENCH>,
  kept: BenchResult | undefined,
  uses: DeviceUse[],
): Promise<readonly BenchRow[]> {
  const opening = (s: Source): SessionOptions => ({
    level: o.level as OptLevel,
    threads,
    provider: o.provider as "cpu" | "cuda" | "webgpu",
    label: s.label,
  });
  const open: Session[] = [];
  try {
    const pools: (readonly Session[])[] = [];
    for (const s of sources) {
      const pool = await job.runtime.openPool(s.runnable.model, opening(s));
      pools.push(pool);
      open.push(...pool);
    }
    const use = deviceUse(o.provider as "cpu" | "cuda" | "webgpu");
    // One feed list for all: models of one network take the same inputs.
    const timed = await timeModels(
      sources.map((s) => ({ label: s.label, model: s.runnable.model, options: opening(s) })),
      feeds[0]!,
      o.rounds,
      job.signal,
    );
    uses.push(use());
    const rates = await throughputInTurn(pools, feeds[0]!, Math.max(5, Math.ceil(o.rounds / 4)), job.signal);
    const rows: BenchRow[] = [];
    for (const [i, s] of sources.entries()) {
      const all = Float64Array.from(timed[i]!.all).sort();
      const memory = await footprint({ model: s.runnable.model, options: opening(s), feeds: feeds[i]![0]!, repeats: 3 }, job.signal);
      const before = kept?.rows.find((r) => r.weights === s.hashes.weights && r.threads === threads && r.batch === batch);
      rows.push({
        model: s.label,
        weights: s.hashes.weights,
        threads,
        batch,
        p50Ms: quantileOf(all, 0.5),
        p90Ms: quantileOf(all, 0.9),
        p99Ms: quantileOf(all, 0.99),
        perSecond: batch * medianOf(rates[i]!),
        peakBytes: memory.peakBytes,
        loadMs: memory.loadMs,
        ...(i === 0 ? {} : { ratio: pairedRatio(timed[0]!.rounds, timed[i]!.rounds, ALPHA) }),
        ...(before === undefined ? {} : { against: unpairedRatio(before.rounds, timed[i]!.rounds, ALPHA) }),
        rounds: timed[i]!.rounds,
        ...(o.rate === undefined || o.rate === 0
          ? {}
          : { load: await loadTest(pools[i]!, feeds[i]!, { rate: o.rate, seconds: o.seconds, signal: job.signal }) }),
      });
    }
    return rows;
  } finally {
    await Promise.allSettled(open.map((s) => s.release()));
  }
}

function readKept(file: string): BenchResult {
  const kept = readJson(file, "docs/cli.md (qc bench --save)") as BenchResult;
  if (kept?.schema !== "qc.bench/1") throw new QcError({ code: "gate/baseline", file, detail: `its schema is "${String(kept?.schema)}"` });
  return kept;
}

async function samplesOf(job: Job, s: Source, spec: string | undefined): Promise<readonly Feeds[]> {
  const inputs = inputsOf(s.model);
  if (spec === undefined) return [Object.fromEntries(inputs.map((i) => [i.name, zeros(i)]))];
  const data = await openData(spec, inputs, { report: job.report });
  const indices = [...drawSamples(data, "heldOut", KEPT), ...drawSamples(data, "calibrate", KEPT)].slice(0, KEPT);
  return Promise.all(indices.map(async (i) => (await data.sample(i)).feeds));
}

const ARRAYS: Readonly<Record<string, (n: number) => TensorArray>> = {
  float32: (n) => new Float32Array(n),
  float64: (n) => new Float64Array(n),
  float16: (n) => new Uint16Array(n),
  int64: (n) => new BigInt64Array(n),
  uint64: (n) => new BigUint64Array(n),
  int32: (n) => new Int32Array(n),
  uint32: (n) => new Uint32Array(n),
  int16: (n) => new Int16Array(n),
  uint16: (n) => new Uint16Array(n),
  int8: (n) => new Int8Array(n),
  uint8: (n) => new Uint8Array(n),
  bool: (n) => new Uint8Array(n),
};
function zeros(i: IoInfo): Tensor {
  const dims = i.dims.map((d) => (typeof d === "number" ? d : 1));
  const make = ARRAYS[i.dtype];
  if (make === undefined)
    throw new QcError({ code: "cli/needs-option", command: "bench", flag: "--data", why: `input "${i.name}" is ${i.dtype}` });
  return { dtype: i.dtype, dims, data: make(elementCount(dims)) };
}

function fixedBatch(s: Source): string | undefined {
  const fixed = inputsOf(s.model).find((i) => typeof i.dims[0] === "number");
  return fixed === undefined ? undefined : `the first axis of input "${fixed.name}" is ${String(fixed.dims[0])}`;
}

/** `n` samples side by side; samples repeat when there are fewer. Shapes must agree. */
function batched(feeds: readonly Feeds[], n: number): readonly Feeds[] {
  if (n === 1) return feeds;
  const parts = Array.from({ length: n }, (_, i) => feeds[i % feeds.length]!);
  const joined = Object.keys(parts[0]!).map((name): [string, Tensor] => {
    const tensors = parts.map((p) => p[name]!);
    const [first] = tensors;
    if (Array.isArray(first!.data))
      return [name, { ...first!, dims: [n, ...first!.dims.slice(1)], data: tensors.flatMap((t) => t.data as string[]) }];
    const same = tensors.every((t) => t.dims.join() === first!.dims.join());
    const out = ARRAYS[first!.dtype]!(first!.data.length * n) as Float32Array;
    tensors.forEach((t, i) => {
      out.set((same ? t : first!).data as Float32Array, i * first!.data.length);
    });
    return [name, { dtype: first!.dtype, dims: [n * first!.dims[0]!, ...first!.dims.slice(1)], data: out }];
  });
  return [Object.fromEntries(joined)];
}
