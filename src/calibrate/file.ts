import { QcError } from "../diagnostics.ts";
import { writeAtomic } from "../io/atomic.ts";
import { sha256 } from "../io/hash.ts";
import { LIMITS } from "../io/limits.ts";
import { type Npz, openNpz, writeNpz } from "../io/npz.ts";
import { type ByteSource, fileSource } from "../io/source.ts";
import { BINS, gridOf } from "./histogram.ts";
import type { Histogram, Stats, ValueStats } from "./types.ts";

/**
 * A stats file is a zip that `numpy.load` opens: `manifest.json`, and one row a value, in the order of `manifest.values`, of
 *
 *   count zeros nan inf runs min max [V] float64    exp [V] int32    bins [V] int32 (-1: no histogram)    first [V] float64
 *   counts [sum of bins] float64: the histograms one after the other
 */
interface Manifest {
  readonly schema: "qc.stats/1";
  readonly model: { readonly structure: string; readonly weights: string };
  readonly prepare: string;
  readonly samples: number;
  readonly sampleKeys: readonly string[];
  readonly values: readonly string[];
}

const NUMBERS = ["count", "zeros", "nan", "inf", "runs", "min", "max"] as const;
const MANIFEST = "manifest.json";
const KEY = /^[0-9a-f]{64}$/;

export function writeStats(stats: Stats, path: string): void {
  writeAtomic(path, encodeStats(stats));
}

/** A hash of everything that a stats file says; nothing is packed for it. */
export function hashStats(stats: Stats): string {
  return sha256(encodeStats(stats, false));
}

/** Equal stats give equal bytes. */
export function encodeStats(stats: Stats, deflate = true): Uint8Array[] {
  const values = [...stats.values.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  const manifest: Manifest = {
    schema: stats.schema,
    model: stats.model,
    prepare: stats.prepare,
    samples: stats.samples,
    sampleKeys: stats.sampleKeys,
    values: values.map((v) => v.name),
  };
  const f64 = (data: Float64Array) => ({ dtype: "float64", shape: [data.length], data }) as const;
  const i32 = (data: Int32Array) => ({ dtype: "int32", shape: [data.length], data }) as const;
  const counts = new Float64Array(values.reduce((n, v) => n + (v.hist?.counts.length ?? 0), 0));
  let at = 0;
  for (const v of values) {
    if (v.hist === undefined) continue;
    counts.set(v.hist.counts, at);
    at += v.hist.counts.length;
  }
  return writeNpz(
    [
      ...NUMBERS.map((k) => [k, f64(Float64Array.from(values, (v) => v[k]))] as const),
      ["exp", i32(Int32Array.from(values, (v) => v.hist?.exp ?? 0))],
      ["bins", i32(Int32Array.from(values, (v) => v.hist?.counts.length ?? -1))],
      ["first", f64(Float64Array.from(values, (v) => v.hist?.first ?? 0))],
      ["counts", f64(counts)],
    ],
    { deflate, files: [{ name: MANIFEST, bytes: new TextEncoder().encode(`${JSON.stringify(manifest, null, 1)}\n`) }] },
  );
}

export function readStats(path: string): Stats {
  return decodeStats(fileSource(path));
}

/** Everything is checked: what passes is what `collectStats` or `mergeStats` could have made. */
export function decodeStats(source: ByteSource): Stats {
  const bad = (detail: string): QcError => new QcError({ code: "calibrate/stats-invalid", file: source.label, detail });
  const npz = openNpz(source);
  const manifest = readManifest(npz, bad);
  const n = manifest.values.length;
  const row = (name: string, dtype: "float64" | "int32", length?: number): Float64Array | Int32Array => {
    const a = npz.array(name);
    if (a === undefined) throw bad(`the array "${name}" is missing`);
    if (a.dtype !== dtype || a.shape.length !== 1 || (length !== undefined && a.shape[0] !== length))
      throw bad(`"${name}" is ${a.dtype} [${a.shape.join(", ")}], not ${dtype} [${length ?? "n"}]`);
    return a.all().data as Float64Array | Int32Array;
  };
  const numbers = Object.fromEntries(NUMBERS.map((k) => [k, row(k, "float64", n)])) as Record<(typeof NUMBERS)[number], Float64Array>;
  const exp = row("exp", "int32", n);
  const bins = row("bins", "int32", n);
  const first = row("first", "float64", n);
  let total = 0;
  for (const b of bins) {
    if (b < -1 || b === 0 || b > BINS) throw bad(`a histogram of ${b} bins`);
    total += Math.max(0, b);
  }
  const counts = row("counts", "float64", total);
  const values = new Map<string, ValueStats>();
  let at = 0;
  for (let i = 0; i < n; i++) {
    const name = manifest.values[i]!;
    let hist: Histogram | undefined;
    if (bins[i]! > 0) {
      hist = { exp: exp[i]!, first: first[i]!, counts: Float64Array.from(counts.subarray(at, at + bins[i]!)) };
      at += bins[i]!;
    }
    const v = { name, ...(Object.fromEntries(NUMBERS.map((k) => [k, numbers[k][i]!])) as Record<(typeof NUMBERS)[number], number>), hist };
    const wrong = faultOf(v);
    if (wrong !== undefined) throw bad(`"${name}": ${wrong}`);
    values.set(name, v);
  }
  const { values: _names, ...rest } = manifest;
  return { ...rest, values };
}

/** The first way in which numbers contradict each other. */
function faultOf(v: ValueStats): string | undefined {
  for (const k of ["count", "zeros", "nan", "inf", "runs"] as const) if (!Number.isSafeInteger(v[k]) || v[k] < 0) return `${k} is ${v[k]}`;
  if (v.zeros > v.count) return `${v.zeros} zeros among ${v.count} elements`;
  if (v.count === 0) {
    const untouched = v.min === Infinity && v.max === -Infinity && v.hist === undefined;
    return untouched ? undefined : "no element, yet a range";
  }
  if (!Number.isFinite(v.min) || !Number.isFinite(v.max) || v.min > v.max) return `the range [${v.min}, ${v.max}]`;
  if (v.hist === undefined) return undefined;
  const want = gridOf(v.min, v.max);
  const h = v.hist;
  if (h.exp !== want.exp || h.first !== want.first || h.counts.length !== want.length)
    return "a histogram that does not lie over its range";
  let sum = v.zeros;
  for (const c of h.counts) {
    if (!Number.isSafeInteger(c) || c < 0) return `a count of ${c}`;
    sum += c;
  }
  return sum === v.count ? undefined : `${sum} counted elements of ${v.count}`;
}

function readManifest(npz: Npz, bad: (detail: string) => QcError): Manifest {
  const entry = npz.files.get(MANIFEST);
  if (entry === undefined) throw bad(`"${MANIFEST}" is missing`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(entry.bytes()));
  } catch (e) {
    if (e instanceof QcError) throw e;
    throw bad(`"${MANIFEST}" is no JSON text`);
  }
  const m = (typeof json === "object" && json !== null ? json : {}) as Partial<Record<keyof Manifest, unknown>>;
  if (m.schema !== "qc.stats/1") throw bad(`schema ${JSON.stringify(m.schema)}; this qc reads "qc.stats/1"`);
  const model = (typeof m.model === "object" && m.model !== null ? m.model : {}) as Record<string, unknown>;
  if (typeof model["structure"] !== "string" || typeof model["weights"] !== "string") throw bad("the model's hashes are missing");
  if (typeof m.prepare !== "string") throw bad("the version of the prepare rules is missing");
  const keys = m.sampleKeys;
  if (!Array.isArray(keys) || !keys.every((k) => typeof k === "string" && KEY.test(k))) throw bad("sampleKeys are no hashes");
  if (m.samples !== keys.length) throw bad(`${String(m.samples)} samples with ${keys.length} keys`);
  const values = m.values;
  if (!Array.isArray(values) || values.length > LIMITS.values || !values.every((v) => typeof v === "string"))
    throw bad("the names of the values are missing");
  if (new Set(values).size !== values.length) throw bad("a value is there twice");
  return {
    schema: "qc.stats/1",
    model: { structure: model["structure"], weights: model["weights"] },
    prepare: m.prepare,
    samples: keys.length,
    sampleKeys: [...(keys as string[])].sort(),
    values: values as string[],
  };
}

/** Refuses stats of another model or another version of the prepare rules, and stats that lack values. */
export function checkStats(
  stats: Stats,
  of: { readonly model: Stats["model"]; readonly prepare: string; readonly values: readonly string[] },
): void {
  for (const [what, mine, theirs] of [
    ["model (its structure differs)", stats.model.structure, of.model.structure],
    ["model (its weights differ)", stats.model.weights, of.model.weights],
    ["version of the prepare rules", stats.prepare, of.prepare],
  ] as const)
    if (mine !== theirs) throw new QcError({ code: "calibrate/stats-stale", what, stats: mine, model: theirs });
  const values = of.values.filter((v) => !stats.values.has(v));
  if (values.length > 0) throw new QcError({ code: "calibrate/stats-lack", values });
}
