import { chooseRanges } from "./choose.ts";
import { calibrateFor, prepare, propose, settleDecisions } from "./compile.ts";
import { QcError } from "./diagnostics.ts";
import { writeAtomic } from "./io/atomic.ts";
import { sha256 } from "./io/hash.ts";
import { readFile } from "./io/source.ts";
import { RUN_KEYS, type RunOptions, withJob } from "./job.ts";
import { mixOf } from "./mix.ts";
import { Builder } from "./mixed/build.ts";
import type { CostTable } from "./mixed/cost-table.ts";
import { COSTS, settle, type Wished } from "./options.ts";
import { checkOutputs, jsonText } from "./outputs.ts";
import { printTarget } from "./plan/target.ts";
import { createRuntime } from "./runtime/index.ts";
import { machineInfo } from "./runtime/machine.ts";
import type { Feeds, OptLevel } from "./runtime/types.ts";
import { drawSamples, openSet, sessionOf } from "./set.ts";
import { readSource, refuseQuantized } from "./source.ts";
import { TOOL } from "./version.ts";

export interface CostsOptions extends Omit<Wished<typeof COSTS>, "memory">, RunOptions {}

/** Samples that are fed in turn: sizes may differ. */
const FEEDS = 8;
/** Ranges decide which clamps vanish; for that few samples do. */
const CALIBRATE = 64;
const MOST_PROFILE = 256 * 2 ** 20;

/**
 * What every node takes in every scheme of the recipe: measured with onnxruntime's profiler on this machine, or taken over from layer
 * profiles of TensorRT engines (`--profile SCHEME=FILE`).
 */
export async function costs(source: string | Uint8Array, given: CostsOptions): Promise<CostTable> {
  const options = settle(COSTS, given as Readonly<Record<string, unknown>>, RUN_KEYS);
  if (options.data === undefined)
    throw new QcError({
      code: "cli/needs-option",
      command: "costs",
      flag: "--data",
      why: "ranges decide which operators an 8-bit kernel takes in",
    });
  const { data: set, out } = options;
  const settled = settleDecisions({ ...options, calibrator: "minmax" }, true);
  const mix = mixOf({ ...settled, budget: [], wanted: true, fewer: true }, []);
  if (!mix)
    throw new QcError({
      code: "plan/recipe-unavailable",
      recipe: settled.recipe.name,
      target: printTarget(settled.target),
      why: "it has no other schemes to compare with",
    });
  const wish = { ...settled, mix, measured: true };
  const profiles = options.profile.map(parseProfileArg);
  return withJob(given, async (job) => {
    const read = readSource(source);
    refuseQuantized(read.model);
    if (out !== undefined) checkOutputs([out], [read.path, set, ...profiles.map((p) => p.file)]);
    const data = (await openSet(job, read.model, options))!;
    const prepared = await job.stage("prepare", () => prepare(job, read, data));
    const proposal = propose(read, prepared, wish);
    const counted = { ...wish, options: { ...wish.options, samples: options.samples ?? CALIBRATE } };
    const calibrated = await job.stage("calibrate", () => calibrateFor(job, read, prepared, proposal, data, counted));
    const bundle = await chooseRanges(job, {
      proposal,
      prepared: prepared.model,
      calibrated,
      data,
      target: wish.target,
      calibrator: "minmax",
      session: sessionOf(data, options),
    });
    const builder = new Builder({ proposal, bundle, stats: calibrated?.stats, ladder: mix.ladder, pins: new Map() });
    const head = {
      schema: "qc.costs/1",
      tool: TOOL,
      model: read.hashes,
      prepare: prepared.version,
      target: printTarget(wish.target),
    } as const;
    const common = { model: prepared.model, types: prepared.types, builder, target: wish.target };
    let table: CostTable;
    if (profiles.length > 0) {
      const { importProfiles } = await import("./mixed/cost-tensorrt.ts");
      const files = profiles.map((p) => ({ ...p, bytes: readFile(p.file, MOST_PROFILE) }));
      const imported = importProfiles({
        ...common,
        profiles: files.map((f) => ({ scheme: f.scheme, file: f.file, text: new TextDecoder().decode(f.bytes) })),
      });
      table = {
        ...head,
        source: { kind: "tensorrt", profiles: files.map((f) => ({ scheme: f.scheme, sha256: sha256(f.bytes) })) },
        ...imported,
      };
    } else {
      const { measureCosts } = await import("./mixed/cost-measure.ts");
      const feeds: Feeds[] = [];
      for (const i of drawSamples(data, "calibrate", FEEDS)) feeds.push((await data.sample(i)).feeds);
      // A runtime of its own: the sessions of a pool lie on cores of which one may be busy.
      const runtime = createRuntime({ workers: 1, ...(job.signal && { signal: job.signal }) });
      try {
        const { recordingUs, ...measured } = await job.stage("plan", () =>
          measureCosts({
            ...common,
            source: read.runnable.model,
            runtime,
            feeds,
            level: options.level as OptLevel,
            threads: options.threads,
            runs: options.runs,
            seed: options.seed,
            progress: job.progress("plan"),
            ...(job.signal && { signal: job.signal }),
          }),
        );
        const { platform, arch, cpu, cores } = machineInfo();
        table = {
          ...head,
          source: {
            kind: "onnxruntime",
            version: (await runtime.versions()).onnxruntime,
            level: options.level,
            threads: options.threads,
            runs: options.runs,
            recordingUs,
            machine: { platform, arch, cpu, cores },
          },
          ...measured,
        };
      } finally {
        await runtime.close();
      }
    }
    if (out !== undefined) writeAtomic(out, jsonText(table));
    return table;
  });
}

/** `w8a8=engine.json`. */
function parseProfileArg(text: string): { readonly scheme: string; readonly file: string } {
  const at = text.indexOf("=");
  if (at <= 0 || at === text.length - 1)
    throw new QcError({
      code: "cli/bad-value",
      flag: "--profile",
      got: text,
      want: "SCHEME=FILE, such as float=fp32.json or w8a8=int8.json",
    });
  return { scheme: text.slice(0, at), file: text.slice(at + 1) };
}
