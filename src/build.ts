import { type ArtifactWish, type BuildConfig, parseBuild, wishesOf } from "./build-config.ts";
import { check } from "./check.ts";
import { quantize } from "./compile.ts";
import { openData } from "./data/index.ts";
import { QcError } from "./diagnostics.ts";
import { BUILD } from "./gate-options.ts";
import { writeAtomic } from "./io/atomic.ts";
import { sha256 } from "./io/hash.ts";
import { LIMITS } from "./io/limits.ts";
import { fileNameOf, folderOf, isFile, joinPath, namesIn } from "./io/path.ts";
import { codeHash } from "./io/self.ts";
import { readFile } from "./io/source.ts";
import { RUN_KEYS, type RunOptions } from "./job.ts";
import { DEFAULT_SAMPLES, parseNumber, settle, type Wished } from "./options.ts";
import { jsonText, readJson } from "./outputs.ts";
import { calibrate } from "./partial.ts";
import { recipeOf } from "./plan/recipes/index.ts";
import { copyCompanions, isPresetModel, layOut, presetConfig } from "./preset.ts";
import { isRecipeFile, readRecipe } from "./recipe-file.ts";
import { machineInfo } from "./runtime/machine.ts";
import { inputsOf, readSource } from "./source.ts";
import { TOOL } from "./version.ts";

export interface BuildOptions extends Omit<Wished<typeof BUILD>, "memory">, RunOptions {
  readonly memory?: number | undefined;
  readonly onArtifact?: ((a: Artifact) => void) | undefined;
}

export interface Artifact {
  readonly name: string;
  readonly state: "built" | "cached" | "up to date" | "stale";
  readonly key: string;
  readonly files: Readonly<Record<string, string>>;
  readonly missed: readonly { readonly limit: string; readonly got: string }[];
  readonly gate: readonly string[];
  readonly seconds: number;
}
export interface BuildResult {
  readonly ok: boolean;
  readonly artifacts: readonly Artifact[];
  readonly lock: string;
  /** Calibrations that were run, and those that were there. */
  readonly calibrations: { readonly run: number; readonly reused: number };
}

interface Lock {
  readonly schema: "qc.lock/1";
  readonly tool: string;
  /** Hash of the code that made them: another version of it makes them anew. */
  readonly code: string;
  readonly artifacts: Readonly<Record<string, LockRow>>;
}
interface LockRow {
  readonly key: string;
  readonly inputs: Readonly<Record<string, string>>;
  /** SHA-256 of what is the same on every machine; reports carry times and are not listed. */
  readonly files: Readonly<Record<string, string>>;
  readonly missed: Artifact["missed"];
  readonly gate: readonly string[];
}

interface Wish extends ArtifactWish {
  readonly key: string;
  readonly statsKey: string | undefined;
  readonly inputs: Readonly<Record<string, string>>;
  readonly sizeBytes: number;
}

/**
 * Makes what a config file names. An artefact's key is the hash of all that decides its bytes: code, model, set, options. What the cache
 * holds under the key is copied, and statistics have a key of their own, without target and recipe.
 */
export async function build(file: string, given: BuildOptions = {}): Promise<BuildResult> {
  const { onArtifact, ...rest } = given;
  const options = settle(BUILD, rest as Readonly<Record<string, unknown>>, RUN_KEYS);
  const { preset } = options;
  for (const flag of ["data", "out"] as const)
    if (preset === undefined && options[flag] !== undefined)
      throw new QcError({
        code: "cli/bad-value",
        flag: `--${flag}`,
        got: options[flag],
        want: "--preset beside it; a config says it itself",
      });
  const config =
    preset === undefined ? parseBuild(new TextDecoder().decode(readFile(file)), file) : presetConfig(file, { ...options, preset });
  const folder = preset === undefined ? folderOf(file) : "";
  const out = joinPath(folder, config.out ?? "artifacts");
  const cache = joinPath(folder, config.cache ?? ".qc-cache");
  const lockFile = preset === undefined ? `${file.replace(/\.ya?ml$/, "")}.lock.json` : `${out}.lock.json`;
  const lock = readLock(lockFile);
  const wishes = await keysOf(wishesOf(config), folder);
  if (options.check) {
    const artifacts = wishes.map((w) => stateOf(w, lock, out));
    for (const a of artifacts) onArtifact?.(a);
    const gone = Object.keys(lock?.artifacts ?? {}).filter((n) => !wishes.some((w) => w.name === n));
    return {
      ok: gone.length === 0 && artifacts.every((a) => a.state === "up to date"),
      artifacts,
      lock: lockFile,
      calibrations: { run: 0, reused: 0 },
    };
  }
  const stats = new Map<string, Promise<string>>();
  const calibrations = { run: 0, reused: 0 };
  const statsFor = (w: Wish): Promise<string> => {
    const at = joinPath(cache, `${w.statsKey!}.stats`);
    let made = stats.get(at);
    if (made !== undefined) return made;
    made = (async () => {
      if (isFile(at)) calibrations.reused++;
      else {
        calibrations.run++;
        const { data, samples, seed, provider } = w.options as { data: string; samples?: number; seed?: number; provider?: string };
        await calibrate(joinPath(folder, w.model), {
          data: joinPath(folder, data),
          samples,
          seed,
          provider,
          out: at,
          threads,
          ...runOf(given),
        });
      }
      return at;
    })();
    stats.set(at, made);
    return made;
  };
  const jobs = jobsOf(config, options, wishes);
  // Bytes do not depend on threads, and jobs that each take all cores only get into each other's way.
  const threads = Math.max(1, Math.floor(machineInfo().cores / Math.max(1, Math.min(jobs, wishes.length))));
  const one = async (w: Wish): Promise<Artifact> => {
    const start = performance.now();
    const seconds = () => (performance.now() - start) / 1000;
    const before = options.force ? undefined : stateOf(w, lock, out);
    if (before?.state === "up to date") return before;
    const store = joinPath(cache, w.key);
    const doneFile = joinPath(store, "done.json");
    const cached = !options.force && isFile(doneFile);
    if (!cached) await make(w, store, doneFile);
    const row = JSON.parse(new TextDecoder().decode(readFile(doneFile))) as Omit<LockRow, "key" | "inputs">;
    const at = joinPath(out, w.layout?.folder ?? "");
    for (const name of w.layout === undefined ? namesIn(store) : Object.keys(row.files))
      if (name !== "done.json") writeAtomic(joinPath(at, name), readFile(joinPath(store, name), LIMITS.modelBytes));
    return { name: w.name, state: cached ? "cached" : "built", key: w.key, ...row, seconds: seconds() };
  };
  const make = async (w: Wish, store: string, doneFile: string): Promise<void> => {
    const source = joinPath(folder, w.model);
    const model = joinPath(store, `${w.name}.onnx`);
    if (w.copy) {
      const files = Object.fromEntries(layOut(source, model, w.layout!).map((f) => [fileNameOf(f), hashOfFile(f)]));
      writeAtomic(doneFile, jsonText({ files: sorted(files), missed: [], gate: [] }));
      return;
    }
    const { data, ...others } = w.options as { data?: string };
    const named = Object.entries(fileOptionsOf(w)).map(([key, file]) => [key, joinPath(folder, file)]);
    const result = await quantize(source, {
      ...others,
      ...Object.fromEntries(named),
      ...(data === undefined ? {} : { data: joinPath(folder, data) }),
      ...(w.statsKey === undefined ? {} : { stats: await statsFor(w) }),
      out: model,
      threads,
      ...runOf(given),
    });
    const gate = await gateOf(w, source, model);
    const files: Record<string, string> = {};
    const kept = w.layout === undefined ? result.files.filter((f) => !/\.report\.(json|html)$/.test(f)) : layOut(model, model, w.layout);
    for (const f of kept) files[fileNameOf(f)] = hashOfFile(f);
    // Written last: a store without it is not done.
    writeAtomic(doneFile, jsonText({ files: sorted(files), missed: result.missed, gate }));
  };
  const gateOf = async (w: Wish, source: string, model: string): Promise<readonly string[]> => {
    if (w.gate === undefined) return [];
    const { data } = w.options as { data?: string };
    const judged = await check([source, model], {
      ...(data === undefined ? {} : { data: joinPath(folder, data) }),
      ...(typeof w.gate === "string" ? { gate: joinPath(folder, w.gate) } : {}),
      rounds: w.rounds,
      threads,
      ...runOf(given),
    });
    return judged.failed.map((f) => `${f.check} (${f.severity}): ${f.note}`);
  };
  const artifacts = await sideBySide(wishes, jobs, async (w) => {
    const a = await one(w);
    onArtifact?.(a);
    return a;
  });
  const rows = artifacts.map((a, i): [string, LockRow] => [
    a.name,
    { key: a.key, inputs: wishes[i]!.inputs, files: a.files, missed: a.missed, gate: a.gate },
  ]);
  const presets = Object.values(config.models).filter(isPresetModel);
  if (presets.length > 0)
    copyCompanions(
      presets.map((m) => joinPath(folder, m.file)),
      out,
      artifacts.flatMap((a) => Object.keys(a.files).flatMap((f) => (f.endsWith("_data") ? [f.slice(0, -"_data".length)] : []))),
      (diagnostic) => given.onEvent?.({ kind: "diagnostic", diagnostic }),
    );
  const text = jsonText({ schema: "qc.lock/1", tool: TOOL, code: codeHash(), artifacts: sorted(Object.fromEntries(rows)) } satisfies Lock);
  if (!isFile(lockFile) || new TextDecoder().decode(readFile(lockFile)) !== text) writeAtomic(lockFile, text);
  return { ok: artifacts.every((a) => a.missed.length === 0 && a.gate.length === 0), artifacts, lock: lockFile, calibrations };
}

const runOf = (o: BuildOptions): RunOptions => ({ signal: o.signal, onEvent: o.onEvent });

/** A job holds the model, its optimized copy, its plan and activations: eight times the file and the engine, by measurement. */
const TIMES_MODEL = 8;
const ENGINE_BYTES = 300e6;

/** As many as were asked for, and no more than memory is given for. */
function jobsOf(
  config: BuildConfig,
  o: { readonly jobs?: number | undefined; readonly memory?: number | undefined },
  wishes: readonly Wish[],
): number {
  const jobs = Math.min(o.jobs ?? config.jobs ?? 1, machineInfo().cores);
  const memory =
    o.memory ??
    (config.memory === undefined
      ? undefined
      : parseNumber("memory", String(config.memory), { type: "number", hint: "BYTES", bytes: true, min: 1, help: "" }));
  if (memory === undefined) return jobs;
  const largest = Math.max(0, ...wishes.map((w) => w.sizeBytes));
  return Math.max(1, Math.min(jobs, Math.floor(memory / (TIMES_MODEL * largest + ENGINE_BYTES))));
}

async function sideBySide<T, R>(items: readonly T[], jobs: number, work: (item: T) => Promise<R>): Promise<R[]> {
  const out: R[] = new Array<R>(items.length);
  let next = 0;
  const lane = async () => {
    while (next < items.length) {
      const i = next++;
      out[i] = await work(items[i]!);
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, items.length) }, lane));
  return out;
}

/** Hashes of everything that decides an artefact's bytes. Models and sets are opened once each. */
async function keysOf(wishes: readonly ArtifactWish[], folder: string): Promise<readonly Wish[]> {
  const twice = wishes.find((w, i) => wishes.findIndex((v) => v.name === w.name) !== i);
  if (twice !== undefined)
    throw new QcError({ code: "cli/would-overwrite", path: `${twice.name}.onnx`, what: "another artefact of this build" });
  const models = new Map<string, ReturnType<typeof readSource>>();
  const sets = new Map<string, string>();
  const out: Wish[] = [];
  for (const w of wishes) {
    const path = joinPath(folder, w.model);
    const source = models.get(path) ?? readSource(path);
    models.set(path, source);
    const { data, ...options } = w.options as { data?: string; seed?: number; samples?: number; recipe: string };
    const setKey = data === undefined ? undefined : `${data}\0${path}`;
    if (setKey !== undefined && !sets.has(setKey))
      sets.set(setKey, (await openData(joinPath(folder, data!), inputsOf(source.model), { seed: options.seed ?? 0 })).sha256);
    const set = setKey === undefined ? undefined : sets.get(setKey)!;
    const gate = typeof w.gate === "string" ? sha256(readFile(joinPath(folder, w.gate))) : w.gate;
    const { structure, weights } = source.hashes;
    const files = fileOptionsOf(w);
    const inputs = {
      structure,
      weights,
      ...(set === undefined ? {} : { data: set }),
      ...(typeof gate === "string" ? { gate } : {}),
      ...Object.fromEntries(Object.entries(files).map(([key, file]) => [key, hashOfFile(joinPath(folder, file))])),
    };
    const base = files.recipe === undefined ? options.recipe : readRecipe(joinPath(folder, files.recipe)).base;
    const recipe = w.copy ? undefined : recipeOf(base === "auto" ? "int8" : base);
    out.push({
      ...w,
      inputs,
      sizeBytes: source.sizeBytes,
      key: hashOf({
        code: codeHash(),
        name: w.name,
        inputs,
        options: sorted(options),
        gate: gate ?? null,
        rounds: w.rounds,
        layout: w.layout ?? null,
      }),
      statsKey:
        set === undefined || !recipe?.data
          ? undefined
          : hashOf({ code: codeHash(), structure, weights, set, samples: options.samples ?? DEFAULT_SAMPLES, seed: options.seed ?? 0 }),
    });
  }
  return out;
}
/** Options that name files: what stands in them decides, not their names. */
function fileOptionsOf(w: ArtifactWish): { readonly recipe?: string; readonly start?: string; readonly costTable?: string } {
  const { recipe, start, costTable } = w.options as { recipe?: string; start?: string; costTable?: string };
  return {
    ...(recipe !== undefined && isRecipeFile(recipe) ? { recipe } : {}),
    ...(start === undefined ? {} : { start }),
    ...(costTable === undefined ? {} : { costTable }),
  };
}
const hashOfFile = (path: string) => sha256(readFile(path, LIMITS.modelBytes));
const hashOf = (value: object) => sha256(JSON.stringify(value)).slice(0, 32);
const sorted = <T>(o: Readonly<Record<string, T>>): Record<string, T> =>
  Object.fromEntries(Object.entries(o).sort(([a], [b]) => (a < b ? -1 : 1)));

function readLock(file: string): Lock | undefined {
  if (!isFile(file)) return undefined;
  const lock = readJson(file, "docs/build.md") as Lock;
  if (lock?.schema !== "qc.lock/1")
    throw new QcError({ code: "data/config", file, line: undefined, at: "schema", detail: "is not qc.lock/1", page: "docs/build.md" });
  return lock;
}

function stateOf(w: Wish, lock: Lock | undefined, out: string): Artifact {
  const row = lock?.artifacts[w.name];
  const at = joinPath(out, w.layout?.folder ?? "");
  const fresh =
    row !== undefined &&
    row.key === w.key &&
    Object.entries(row.files).every(([name, hash]) => isFile(joinPath(at, name)) && hashOfFile(joinPath(at, name)) === hash);
  return {
    name: w.name,
    state: fresh ? "up to date" : "stale",
    key: w.key,
    files: row?.files ?? {},
    missed: row?.missed ?? [],
    gate: row?.gate ?? [],
    seconds: 0,
  };
}
