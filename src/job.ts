import { type Diagnostic, explain, QcError } from "./diagnostics.ts";
import type { Pruned } from "./plan/types.ts";
import { createRuntime, type NodeRuntime } from "./runtime/index.ts";
import { machineInfo } from "./runtime/machine.ts";

/** Stages in the order in which they run. */
export const STAGES = ["read", "data", "prepare", "prune", "propose", "calibrate", "plan", "improve", "lower", "verify", "write"] as const;
export type Stage = (typeof STAGES)[number];

/** What a finished stage has to tell; numbers, not words. */
export type StageFacts =
  | { readonly stage: "read"; readonly nodes: number; readonly bytes: number }
  | { readonly stage: "data"; readonly name: string; readonly calibrate: number; readonly select: number; readonly heldOut: number }
  | {
      readonly stage: "prepare";
      readonly before: number;
      readonly after: number;
      readonly rules: readonly { readonly rule: string; readonly count: number }[];
    }
  | { readonly stage: "prune"; readonly before: number; readonly after: number; readonly groups: Pruned["groups"] }
  | { readonly stage: "propose"; readonly values: number; readonly weights: number }
  | { readonly stage: "calibrate"; readonly samples: number; readonly values: number }
  | {
      readonly stage: "plan";
      readonly products: number;
      readonly quantized: number;
      readonly schemes: readonly string[];
      readonly floats: number;
      readonly calibrator: string | undefined;
    }
  | {
      readonly stage: "improve";
      readonly steps: readonly { readonly step: string; readonly before: number; readonly after: number; readonly kept: boolean }[];
    }
  | { readonly stage: "lower"; readonly nodes: number; readonly opset: number }
  | { readonly stage: "verify"; readonly n: number }
  | { readonly stage: "write"; readonly files: readonly string[]; readonly before: number; readonly after: number };

export type CompileEvent =
  | { readonly kind: "progress"; readonly stage: Stage; readonly done: number; readonly total: number }
  | { readonly kind: "stage"; readonly seconds: number; readonly facts: StageFacts }
  | { readonly kind: "diagnostic"; readonly diagnostic: Diagnostic };

/** What every function of the API takes beside its options. */
export interface RunOptions {
  /** Aborting stops the run; nothing is left behind. */
  readonly signal?: AbortSignal | undefined;
  readonly onEvent?: ((e: CompileEvent) => void) | undefined;
}
export const RUN_KEYS = ["signal", "onEvent"] as const;

/** One run: its engine, its clock and what it has to say. */
export interface Job {
  readonly runtime: NodeRuntime;
  readonly threads: number;
  readonly signal: AbortSignal | undefined;
  readonly diagnostics: Diagnostic[];
  readonly stages: { stage: Stage; seconds: number }[];
  report(d: Diagnostic): void;
  progress(stage: Stage): (done: number, total: number) => void;
  /** Runs a stage, keeps its time, and tells its facts when there are any. */
  stage<T>(stage: Stage, work: () => Promise<T> | T, facts?: (result: T) => StageFacts | undefined): Promise<T>;
}

/** More workers than this cost memory and win nothing: each holds its own sessions. */
const MOST_WORKERS = 8;

/** Starts the engine's threads at once (they load while the caller reads the model), runs the work, and ends them whatever happens. */
export async function withJob<T>(o: RunOptions & { readonly threads?: number | undefined }, work: (job: Job) => Promise<T>): Promise<T> {
  o.signal?.throwIfAborted();
  const threads = Math.min(o.threads ?? Infinity, machineInfo().cores);
  const runtime = createRuntime({ workers: Math.min(threads, MOST_WORKERS), ...(o.signal === undefined ? {} : { signal: o.signal }) });
  const diagnostics: Diagnostic[] = [];
  const stages: { stage: Stage; seconds: number }[] = [];
  const seen = new Set<string>();
  const job: Job = {
    runtime,
    threads,
    signal: o.signal,
    diagnostics,
    stages,
    report(d) {
      const key = JSON.stringify(d, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v));
      if (seen.has(key)) return;
      seen.add(key);
      diagnostics.push(d);
      o.onEvent?.({ kind: "diagnostic", diagnostic: d });
    },
    progress: (stage) => (done, total) => o.onEvent?.({ kind: "progress", stage, done, total }),
    async stage(stage, run, facts) {
      o.signal?.throwIfAborted();
      const start = performance.now();
      const result = await run();
      const seconds = (performance.now() - start) / 1000;
      stages.push({ stage, seconds });
      const told = facts?.(result);
      if (told !== undefined) o.onEvent?.({ kind: "stage", seconds, facts: told });
      return result;
    },
  };
  try {
    return await work(job);
  } catch (e) {
    // Whatever a stopped engine threw, the reason is the stop.
    o.signal?.throwIfAborted();
    throw e;
  } finally {
    await runtime.close();
  }
}

/** Fails when a check found errors; warnings are reported and pass. */
export function refuseErrors(job: Job, found: readonly Diagnostic[]): void {
  const errors = found.filter((d) => explain(d).severity === "error");
  for (const d of found) if (!errors.includes(d)) job.report(d);
  if (errors.length > 0) throw new QcError(errors);
}
