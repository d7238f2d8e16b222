import { openData } from "./data/index.ts";
import type { DataSet } from "./data/types.ts";
import { QcError } from "./diagnostics.ts";
import { CHECK } from "./gate-options.ts";
import { traitOf } from "./graph/ops/index.ts";
import { allNodes } from "./graph/walk.ts";
import { writeAtomic } from "./io/atomic.ts";
import { readFile } from "./io/source.ts";
import { type Job, RUN_KEYS, type RunOptions, withJob } from "./job.ts";
import { type Parsed, settle, type Wished } from "./options.ts";
import { jsonText } from "./outputs.ts";
import { type DeviceUse, deviceName, deviceUse } from "./runtime/device.ts";
import { footprint } from "./runtime/footprint.ts";
import { machineInfo } from "./runtime/machine.ts";
import type { OptLevel, Session, SessionOptions } from "./runtime/types.ts";
import { drawSamples, sessionOf } from "./set.ts";
import { inputsOf, readSource, type Source, sameInputs } from "./source.ts";
import type { AttackKind } from "./verify/gate/attacks.ts";
import {
  type Attacked,
  attackModels,
  DEFAULT_GATE,
  type Finding,
  type Gate,
  type Judged,
  judgeGate,
  parseGate,
  type Scored,
  type Side,
  scoreModels,
} from "./verify/gate/index.ts";
import { throughputInTurn, timeModels } from "./verify/gate/timing.ts";
import type { Machine, MetricComparison, OutputError } from "./verify/types.ts";
import { TOOL } from "./version.ts";

export interface CheckOptions extends Omit<Wished<typeof CHECK>, "memory" | "junit" | "markdown" | "github">, RunOptions {}

/** What one model measured, kept in a repository. Bound to the model and the set by their hashes. */
export interface Baseline {
  readonly schema: "qc.baseline/1";
  readonly tool: string;
  readonly model: { readonly structure: string; readonly weights: string };
  readonly data?: { readonly name: string; readonly sha256: string; readonly seed: number; readonly n: number };
  readonly metric?: Pick<MetricComparison, "name" | "unit" | "better">;
  readonly level: string;
  readonly side: Side;
  readonly machine: Machine;
}

export interface CheckResult extends Judged {
  readonly ok: boolean;
  readonly gate: Gate;
  readonly outputs: readonly OutputError[];
  readonly samples: { readonly n: number; readonly of: number };
  readonly machine: Machine;
  readonly reference: { readonly name: string; readonly structure: string; readonly weights: string };
  readonly candidate: { readonly name: string; readonly structure: string; readonly weights: string };
  readonly baseline?: Baseline;
  readonly attack?: Attacked;
}

/**
 * Judges a candidate against a reference model, or against a baseline that was kept. With `saveBaseline` the only model is measured and
 * kept, and nothing is judged.
 */
export async function check(models: readonly (string | Uint8Array)[], given: CheckOptions): Promise<CheckResult> {
  const options = settle(CHECK, given as Readonly<Record<string, unknown>>, RUN_KEYS);
  const gate = options.gate === undefined ? DEFAULT_GATE : parseGate(new TextDecoder().decode(readFile(options.gate)), options.gate);
  const alone = options.baseline !== undefined || options.saveBaseline !== undefined;
  if (models.length !== (alone ? 1 : 2))
    throw new QcError({
      code: "cli/bad-value",
      flag: "MODEL",
      got: `${models.length} files`,
      want: alone ? "one model with --baseline or --save-baseline" : "a reference and a candidate",
    });
  if (options.attack !== undefined && alone)
    throw new QcError(
      { code: "gate/no-attack", why: "its gradients are those of the reference model, which is not given" },
      { exitCode: 2 },
    );
  const range = options.range === undefined ? undefined : rangeOf(options.range);
  return withJob({ ...given, threads: options.threads }, async (job) => {
    const sources = models.map(readSource);
    sameInputs(sources);
    const data =
      options.data === undefined
        ? undefined
        : await openData(options.data, inputsOf(sources[0]!.model), { seed: options.seed, report: job.report });
    const machine = await machineOf(job, options.provider);
    const kept = options.baseline === undefined ? undefined : readBaseline(options.baseline, data, options);
    const measured = await measure(job, sources, data, options, range);
    const candidate = measured.sides.at(-1)!;
    const metric = data?.metric && { name: data.metric.name, unit: data.metric.unit, better: data.metric.better };
    const same = kept === undefined || sameMachine(kept.machine, machine);
    const own: Baseline = {
      schema: "qc.baseline/1",
      tool: TOOL,
      model: sources[0]!.hashes,
      ...(data === undefined ? {} : { data: dataOf(data, options) }),
      ...(metric === undefined ? {} : { metric }),
      level: options.level,
      side: candidate,
      machine,
    };
    if (options.saveBaseline !== undefined) writeAtomic(options.saveBaseline, jsonText(own));
    const reference = kept?.side ?? measured.sides[0]!;
    const times = same ? {} : { latency: [], throughput: [] };
    const judged =
      options.saveBaseline !== undefined
        ? { findings: [], failed: [] }
        : judgeGate({
            gate,
            reference: { ...reference, ...times },
            candidate,
            ...(metric === undefined ? {} : { metric }),
            ids: measured.scored?.ids ?? [],
            outputs: measured.scored?.outputs ?? [],
            paired: kept === undefined,
            ...(same ? {} : { noTimes: `the baseline comes from another machine (${fingerprint(kept.machine)})` }),
            ...(measured.utilization === undefined ? {} : { utilization: measured.utilization.share ?? measured.utilization.from }),
            ...(measured.attacked === undefined ? {} : { attack: measured.attacked }),
          });
    const nameOf = (s: Source) => ({ name: s.label, ...s.hashes });
    return {
      ok: judged.failed.length === 0,
      ...judged,
      gate,
      outputs: measured.scored?.outputs ?? [],
      samples: { n: measured.scored?.ids.length ?? 0, of: data?.roles.heldOut.length ?? 0 },
      machine,
      reference: kept === undefined ? nameOf(sources[0]!) : { name: "baseline", ...kept.model },
      candidate: nameOf(sources.at(-1)!),
      ...(options.saveBaseline === undefined ? {} : { baseline: own }),
      ...(measured.attacked === undefined ? {} : { attack: measured.attacked }),
    };
  });
}

export type { Finding };

/** Two machines are the same when everything that times depend on is. */
export function sameMachine(a: Machine, b: Machine): boolean {
  return fingerprint(a) === fingerprint(b);
}
export function fingerprint(m: Machine): string {
  const device = m.device === undefined ? "" : `, ${m.device}`;
  return `${m.cpu}, ${m.cores} cores, ${m.platform} ${m.arch}, Node ${m.node.split(".")[0]}, onnxruntime ${m.onnxruntime}${device}`;
}
/** This machine, with the device of a provider other than the CPU. */
export async function machineOf(job: Job, provider: string): Promise<Machine> {
  const device = deviceName(provider as Provider);
  return { ...machineInfo(), onnxruntime: (await job.runtime.versions()).onnxruntime, ...(device === undefined ? {} : { device }) };
}
type Provider = NonNullable<SessionOptions["provider"]>;

const dataOf = (data: DataSet, o: Parsed<typeof CHECK>) => ({
  name: data.name,
  sha256: data.sha256,
  seed: o.seed,
  n: drawSamples(data, "heldOut", o.samples ?? Infinity).length,
});

function readBaseline(file: string, data: DataSet | undefined, o: Parsed<typeof CHECK>): Baseline {
  const bad = (detail: string) => new QcError({ code: "gate/baseline", file, detail });
  let kept: Baseline;
  try {
    kept = JSON.parse(new TextDecoder().decode(readFile(file))) as Baseline;
  } catch (e) {
    if (e instanceof QcError) throw e;
    throw bad(`it is no JSON (${(e as Error).message})`);
  }
  if (kept?.schema !== "qc.baseline/1") throw bad(`its schema is "${String(kept?.schema)}"`);
  const mine = data === undefined ? undefined : dataOf(data, o);
  for (const key of ["sha256", "seed", "n"] as const)
    if (kept.data?.[key] !== mine?.[key])
      throw bad(
        `its ${key === "n" ? "number of samples" : key === "seed" ? "seed" : "set"} is ${kept.data?.[key] ?? "none"}, not ${mine?.[key] ?? "none"}`,
      );
  if (kept.level !== o.level) throw bad(`it was taken at level "${kept.level}", not "${o.level}"`);
  return kept;
}

interface Measured {
  readonly sides: readonly Side[];
  readonly scored: Scored | undefined;
  readonly utilization: DeviceUse | undefined;
  readonly attacked: Attacked | undefined;
}

function rangeOf(text: string): readonly [number, number] {
  const [low, high, more] = text.split(",").map((v) => (v.trim() === "" ? Number.NaN : Number(v)));
  if (more !== undefined || !(Number.isFinite(low) && Number.isFinite(high) && low! < high!))
    throw new QcError({ code: "cli/bad-value", flag: "--range", got: text, want: "two numbers, the smaller first, such as 0,255" });
  return [low!, high!];
}

/** Rounds of throughput are long, and one in three of the latency rounds is enough for a limit four times as wide. */
const THROUGHPUT_SHARE = 3;
/** Runs in the process that measures memory: the second reuses what the first allocated. */
const MEMORY_RUNS = 3;

async function measure(
  job: Job,
  sources: readonly Source[],
  data: DataSet | undefined,
  o: Parsed<typeof CHECK>,
  range: readonly [number, number] | undefined,
): Promise<Measured> {
  const base: SessionOptions = { ...sessionOf(data, o), level: o.level as OptLevel };
  const opening = (s: Source): SessionOptions => ({ ...base, label: s.label });
  const sessions = await Promise.all(sources.map((s) => job.runtime.open(s.runnable.model, opening(s))));
  const open: Session[] = [...sessions];
  try {
    const indices = data === undefined ? [] : drawSamples(data, "heldOut", o.samples ?? Infinity);
    const scored =
      data === undefined || indices.length === 0
        ? undefined
        : await scoreModels({ sessions, data, indices, signal: job.signal, onProgress: job.progress("verify") });
    if (o.attack !== undefined && (data === undefined || indices.length === 0))
      throw new QcError({ code: "cli/needs-option", command: "check", flag: "--data", why: "an attack changes held-out samples" });
    if (o.attack !== undefined && [...allNodes(sources[0]!.model)].some((n) => traitOf(n) === "quantized"))
      throw new QcError({ code: "gate/no-attack", why: "the reference is quantized: rounding has no gradient" });
    const attacked =
      o.attack === undefined
        ? undefined
        : await attackModels({
            options: { kind: o.attack as AttackKind, epsilon: o.epsilon, steps: o.steps, seed: o.seed, range },
            runtime: job.runtime,
            model: sources[0]!.model,
            open: base,
            sessions,
            data: data!,
            indices,
            signal: job.signal,
            onProgress: job.progress("verify"),
          });
    const feeds = scored?.samples.map((s) => s.feeds) ?? [];
    const timed = o.rounds > 0 && feeds.length > 0 && data?.state === undefined;
    const use = timed ? deviceUse(o.provider as Provider) : undefined;
    const latency = timed
      ? await timeModels(
          sources.map((s) => ({ label: s.label, model: s.runnable.model, options: opening(s) })),
          feeds,
          o.rounds,
          job.signal,
        )
      : undefined;
    const utilization = use?.();
    let rates: readonly (readonly number[])[] | undefined;
    if (timed) {
      const pools: (readonly Session[])[] = [];
      for (const s of sources) pools.push(await job.runtime.openPool(s.runnable.model, opening(s)));
      open.push(...pools.flat());
      rates = await throughputInTurn(pools, feeds, Math.max(8, Math.ceil(o.rounds / THROUGHPUT_SHARE)), job.signal);
    }
    const sides: Side[] = [];
    for (const [i, s] of sources.entries()) {
      const memory = timed
        ? await footprint({ model: s.runnable.model, options: opening(s), feeds: feeds[0]!, repeats: MEMORY_RUNS }, job.signal)
        : undefined;
      sides.push({
        sizeBytes: s.sizeBytes,
        ...(scored === undefined ? {} : { score: scored.records[i]! }),
        ...(latency === undefined ? {} : { latency: latency[i]!.rounds }),
        ...(rates === undefined ? {} : { throughput: rates[i]! }),
        ...(memory === undefined ? {} : { memoryBytes: memory.peakBytes }),
      });
    }
    return { sides, scored, utilization, attacked };
  } finally {
    await Promise.allSettled(open.map((s) => s.release()));
  }
}
