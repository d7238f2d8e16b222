import { readdirSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { QcError, type Report } from "../diagnostics.ts";
import { hasher, sha256 } from "../io/hash.ts";
import { fileSource } from "../io/source.ts";
import type { IoInfo } from "../runtime/types.ts";
import { bindInputs, feedOf } from "./bind.ts";
import type { LoadedConfig } from "./config.ts";
import { openLabels } from "./labels.ts";
import { isPattern } from "./sources/files.ts";
import { openSource } from "./sources/open.ts";
import type { Source } from "./sources/types.ts";
import { splitRoles } from "./split.ts";
import type { DataSet, Metric, Sample } from "./types.ts";

export interface OpenOptions {
  /** Seed of the default split (a set file may give its own). */
  readonly seed?: number;
  readonly report?: Report;
}

/**
 * Opens what `--data` names (docs/data.md) for a graph with these inputs. The first sample is loaded, so that what cannot fit fails here.
 */
export async function openData(spec: string, inputs: readonly IoInfo[], options: OpenOptions = {}): Promise<DataSet> {
  const { config, folder, text } = await configOf(spec);
  const report = once(options.report ?? (() => {}));
  const set = config.name ?? nameOf(spec);
  const source = await openSource({ set, folder, config, inputs: inputs.map((i) => i.name) });
  if (source.size === 0) throw new QcError({ code: "data/no-samples", set });
  const labels = openLabels(set, folder, source, config);
  const binding = bindInputs(set, folder, source, inputs, config, labels.fields, report);
  const group = config.group === undefined ? [] : [fieldOrFail(set, source, config.group)];
  const order = config.sequences === undefined ? [] : [config.sequences];
  const wanted = [...new Set([...binding.inputs.flatMap((b) => b.from), ...labels.fields, ...group, ...order])];
  await source.prepare?.(wanted);
  if (config.sha256 !== undefined) verifyChecksum(folder, config.source, config.sha256);

  const classes = labels.classes();
  const sequences = config.sequences === undefined ? source.sequences : sequencesOf(set, source, config.sequences);
  const roles = splitRoles(config.split, {
    set,
    size: source.size,
    seed: options.seed ?? 0,
    folder,
    id: (i) => source.id(i),
    classes,
    sequences,
    given: source.roles,
  });
  if (roles.heldOut.length === 0) report({ code: "data/no-held-out", set, size: source.size });
  const metric = config.metric !== undefined ? await namedMetric(config.metric, folder) : await source.metric?.();
  const state = Object.fromEntries([...binding.state].map(([input, s]) => [input, s.output]));
  const digest = digestOf(source, text);

  const sample = async (index: number): Promise<Sample> => {
    if (!(Number.isInteger(index) && index >= 0 && index < source.size))
      throw new RangeError(`internal: sample ${index} of ${source.size}`);
    const id = source.id(index);
    let fields: Awaited<ReturnType<Source["record"]>>;
    try {
      fields = await source.record(index, wanted);
    } catch (e) {
      if (e instanceof QcError) throw e;
      throw new QcError({ code: "data/sample-unreadable", set, sample: id, detail: (e as Error).message }, { cause: e });
    }
    const feeds = { ...binding.constants };
    if (sequences === undefined || index === 0 || sequences[index] !== sequences[index - 1])
      for (const [name, s] of binding.state) feeds[name] = s.start;
    for (const b of binding.inputs) feeds[b.info.name] = await feedOf(set, id, b, fields, report);
    const label = await labels.of(index, id, fields);
    const file = source.file?.(index);
    const slice = config.group === undefined ? undefined : fields[config.group];
    return {
      id,
      feeds,
      ...(label === undefined ? {} : { label }),
      ...(file === undefined ? {} : { file }),
      ...(slice === undefined
        ? {}
        : { group: slice.kind === "text" ? slice.text : slice.kind === "tensor" ? String(slice.data[0]) : slice.path }),
    };
  };
  await sample(roles.calibrate[0] ?? roles.heldOut[0] ?? 0);
  return {
    name: set,
    size: source.size,
    roles,
    // Two hashes of one digest: the first is published, the second keys what must not be guessed from it.
    sha256: sha256(`public\0${digest}`),
    secret: config.secret === undefined ? sha256(`secret\0${digest}`) : sha256(readAll(resolve(folder, config.secret))),
    metric,
    classes,
    sequences,
    ...(binding.state.size === 0 ? {} : { state }),
    sample,
  };
}

// The schema checker and YAML cost 50 ms to load, which a plain .npz need not pay.
async function namedMetric(metric: NonNullable<LoadedConfig["config"]["metric"]>, folder: string): Promise<Metric> {
  const { metricOf } = await import("./metrics/index.ts");
  return metricOf(metric, { folder });
}

async function loadFile(path: string): Promise<LoadedConfig> {
  const { loadConfig } = await import("./config.ts");
  return loadConfig(path);
}

async function configOf(spec: string): Promise<LoadedConfig> {
  const kind = isPattern(spec) ? undefined : statSync(spec, { throwIfNoEntry: false });
  if (kind === undefined && !isPattern(spec)) throw new QcError({ code: "io/not-found", path: spec });
  if (kind?.isDirectory()) {
    const own = readdirSync(spec).find((f) => /^set\.ya?ml$/.test(f));
    if (own !== undefined) return loadFile(join(spec, own));
    return { config: { source: "." }, folder: resolve(spec), text: "" };
  }
  if (/\.(ya?ml|json)$/.test(spec)) return loadFile(spec);
  return { config: { source: basename(spec) }, folder: resolve(dirname(spec)), text: "" };
}

function nameOf(spec: string): string {
  const base = basename(resolve(spec));
  return /^set\.ya?ml$/.test(base) ? basename(dirname(resolve(spec))) : base.replace(/\.[^.]+$/, "");
}

function fieldOrFail(set: string, source: Source, field: string): string {
  if (!source.fields.has(field)) throw new QcError({ code: "data/no-such-field", set, field, have: [...source.fields.keys()] });
  return field;
}

/** Neighbours with the same value of a field are one sequence; a value that comes back later begins anew. */
function sequencesOf(set: string, source: Source, field: string): readonly number[] {
  const names = source.scalars?.(fieldOrFail(set, source, field));
  if (names === undefined)
    throw new QcError({ code: "data/labels", set, detail: `"${field}" has no single value a sample that could name its sequence` });
  let n = -1;
  return names.map((v, i) => (i > 0 && v === names[i - 1] ? n : ++n));
}

/** The set file's text and the content. Private: it would let outsiders test guesses about small sets. */
function digestOf(source: Source, text: string): string {
  const h = hasher();
  h.update(`qc set\0${text}\0`);
  source.digest(h);
  return h.digest();
}

function verifyChecksum(folder: string, source: unknown, want: string): void {
  if (typeof source !== "string")
    throw new QcError({ code: "data/config", file: folder, line: undefined, at: "sha256", detail: "needs one file as source" });
  const file = resolve(folder, source);
  const got = sha256(pieces(file));
  if (got !== want.toLowerCase()) throw new QcError({ code: "data/checksum", file, want, got });
}

function* pieces(path: string): Generator<Uint8Array> {
  const s = fileSource(path);
  for (let at = 0; at < s.size; at += 1 << 22) yield s.read(at, Math.min(1 << 22, s.size - at));
}

function readAll(path: string): Uint8Array {
  const s = fileSource(path);
  return s.read(0, s.size);
}

/** The same warning is not told for every sample. */
function once(report: Report): Report {
  const told = new Set<string>();
  return (d) => {
    const key = JSON.stringify(d);
    if (told.has(key)) return;
    told.add(key);
    report(d);
  };
}
