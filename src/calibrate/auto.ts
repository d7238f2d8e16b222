import type { Feeds, Session, Tensor } from "../runtime/types.ts";
import { CALIBRATORS, minmax, percentile } from "./calibrators.ts";
import type { Calibrator } from "./types.ts";

/** Fewer selection samples than this choose by chance: 16 images chose a detector's worst method, 64 its best. */
export const LEAST_SELECTION = 64;
/** More than this do not change the choice, only its cost. */
const MOST_SELECTION = 256;
/**
 * Methods closer than this on a fold are not told apart by it: the fold's ranges are not the final ones, and changing every scale of a
 * network by 1 % at random moves its output error by 0.4 dB (standard deviation, measured), the difference of two by 0.6.
 */
const CLOSE_DB = 0.7;

/** From here on the samples can overrule the fallback, when they agree among themselves. */
export const LEAST_PAIRED = 8;
const MOST_PAIRED = 32;
/** Standard errors of a paired difference: three in a row of normal luck is 1 in 700. */
const SURE = 3;

export interface AutoCandidate {
  /** As on the command line: `percentile=99.99`. */
  readonly spec: string;
  readonly calibrator: Calibrator;
}

/** min-max is always among them. */
export function autoCandidates(): readonly AutoCandidate[] {
  return [
    { spec: "minmax", calibrator: minmax },
    { spec: "percentile=99.999", calibrator: percentile(99.999) },
    { spec: "percentile=99.99", calibrator: percentile(99.99) },
    { spec: "mse", calibrator: CALIBRATORS.mse },
    { spec: "entropy", calibrator: CALIBRATORS.entropy },
  ];
}

/** What is taken when there are too few samples to choose with. */
export const FALLBACK: AutoCandidate = { spec: "percentile=99.999", calibrator: percentile(99.999) };

export interface AutoFold {
  /** These set the candidates' ranges. */
  readonly ranges: readonly number[];
  /** These judge them. */
  readonly select: readonly number[];
}

export interface AutoSplit {
  /** None: too few samples, take the fallback. */
  readonly folds: readonly AutoFold[];
  /** With more than one fold: the samples that judge the final ranges of the methods that the folds do not tell apart. */
  readonly confirm: readonly number[];
}

/**
 * Samples that set ranges and samples that choose, disjoint: a method chosen on the samples that set its ranges is chosen for how well
 * it fits them. The role `select` alone when it has enough (the ranges are then the final ones); otherwise the calibration samples in two
 * halves, each judging the ranges of the other. Of data with state, whole sequences (`DataSet.sequences`) go to either side.
 */
export function splitForAuto(calibrate: readonly number[], select: readonly number[] = [], sequences?: readonly number[]): AutoSplit {
  const few = sequences === undefined ? thin : (x: readonly number[]) => x;
  if (select.length >= LEAST_SELECTION) return { folds: [{ ranges: calibrate, select: few(select) }], confirm: [] };
  const side = (index: number, at: number): number => (sequences === undefined ? at : sequences[index]!) % 2;
  const odd = calibrate.filter((index, i) => side(index, i) === 1);
  const even = calibrate.filter((index, i) => side(index, i) === 0);
  const half = Math.min(odd.length, even.length);
  if (half < LEAST_PAIRED / 2 || half + select.length < LEAST_PAIRED) return { folds: [], confirm: [] };
  // Few samples may be large ones (windows of text, whole images): one fold answers the paired question at half the cost.
  if (half + select.length < LEAST_SELECTION)
    return { folds: [{ ranges: even, select: [...select, ...odd].slice(0, MOST_PAIRED) }], confirm: [] };
  return {
    folds: [
      { ranges: even, select: few([...select, ...odd]) },
      { ranges: odd, select: few([...select, ...even]) },
    ],
    confirm: few([...select, ...calibrate]),
  };
}

/** At most MOST_SELECTION, evenly spaced. */
function thin(indices: readonly number[]): readonly number[] {
  const n = indices.length;
  if (n <= MOST_SELECTION) return indices;
  return Array.from({ length: MOST_SELECTION }, (_, i) => indices[Math.floor((i * n) / MOST_SELECTION)]!);
}

export interface AutoChoice {
  readonly chosen: AutoCandidate;
  /** Output SQNR in dB on the selection samples, by candidate; empty when there were too few. */
  readonly sqnrDb: ReadonlyMap<string, number>;
  readonly samples: number;
  readonly because: string;
}

/**
 * One method for the whole network, by the error it makes at the network's output. (Choosing tensor by tensor, by local or by output
 * error, lost to this on held-out data: locally optimal clipping adds up to too much clipping.)
 *
 * `evaluate` returns the output noise-to-signal ratio of each candidate on samples that did not set its ranges, `samples` in all.
 * `confirm` does so for the final ranges of those that are close; without it the least error wins.
 */
export async function chooseAuto(o: {
  readonly samples: number;
  readonly candidates?: readonly AutoCandidate[];
  evaluate(candidates: readonly AutoCandidate[]): Promise<readonly number[]>;
  /** The same by candidate and sample, for few samples. */
  each?(candidates: readonly AutoCandidate[]): Promise<readonly (readonly number[])[]>;
  confirm?(candidates: readonly AutoCandidate[]): Promise<readonly number[]>;
}): Promise<AutoChoice> {
  const candidates = o.candidates ?? autoCandidates();
  if (o.samples < LEAST_SELECTION) {
    const because = `${o.samples} samples cannot choose, ${LEAST_SELECTION} could`;
    const none = { chosen: FALLBACK, sqnrDb: new Map<string, number>(), samples: o.samples, because };
    return o.each === undefined || o.samples < LEAST_PAIRED ? none : (paired(candidates, await o.each(candidates), o.samples) ?? none);
  }
  const db = toDb(await o.evaluate(candidates));
  const sqnrDb = new Map(candidates.map((c, i) => [c.spec, db[i]!]));
  const most = Math.max(...db);
  const close = candidates.filter((_, i) => db[i] === most || db[i]! > most - CLOSE_DB);
  if (o.confirm === undefined || close.length === 1) {
    const chosen = candidates[db.indexOf(most)]!;
    return { chosen, sqnrDb, samples: o.samples, because: `least error at the outputs: ${most.toFixed(1)} dB on ${o.samples} samples` };
  }
  const final = toDb(await o.confirm(close));
  const chosen = close[final.indexOf(Math.max(...final))]!;
  const because = `${close.map((c) => c.spec).join(", ")} are within ${CLOSE_DB} dB on ${o.samples} samples that set no range; of their final ranges its err least`;
  return { chosen, sqnrDb, samples: o.samples, because };
}

/**
 * With few samples the means say little, but a method that is better sample by sample is better: it takes the place of the fallback when
 * the mean d of the paired differences in dB is at least CLOSE_DB and SURE standard errors (s / sqrt(n)) above zero.
 */
function paired(candidates: readonly AutoCandidate[], errors: readonly (readonly number[])[], samples: number): AutoChoice | undefined {
  const db = errors.map((e) => toDb(e).map((x) => Math.min(x, MOST_DB)));
  const mean = (x: readonly number[]) => x.reduce((a, b) => a + b, 0) / x.length;
  const base = db[candidates.findIndex((c) => c.spec === FALLBACK.spec)];
  if (base === undefined || base.length < LEAST_PAIRED) return undefined;
  const best = db.map(mean).reduce((at, x, i, all) => (x > all[at]! ? i : at), 0);
  const d = db[best]!.map((x, i) => x - base[i]!);
  const m = mean(d);
  const se = Math.sqrt(d.reduce((a, x) => a + (x - m) ** 2, 0) / (d.length - 1) / d.length);
  if (!(m >= CLOSE_DB && m >= SURE * se)) return undefined;
  const because = `${m.toFixed(1)} ± ${se.toFixed(1)} dB better at the outputs than ${FALLBACK.spec}, sample by sample (${d.length} pairs)`;
  return { chosen: candidates[best]!, sqnrDb: new Map(candidates.map((c, i) => [c.spec, mean(db[i]!)])), samples, because };
}
/** An exact output counts as this many dB: float32 has no more. */
const MOST_DB = 150;

function toDb(ratios: readonly number[]): number[] {
  return ratios.map((r) => (Number.isNaN(r) ? -Infinity : -10 * Math.log10(r)));
}

/**
 * Noise-to-signal ratio at the outputs for each set of parameters: per output sum (y - yq)^2 / sum y^2 over all samples, then the mean
 * over the outputs, so that each output counts the same whatever its size. Memory does not grow with the samples.
 */
export async function outputErrors(
  float: Session,
  quantized: Session,
  samples: AsyncIterable<Feeds> | Iterable<Feeds>,
  parameters: readonly Feeds[],
): Promise<number[]> {
  const names = float.outputs.map((x) => x.name);
  const signal = new Float64Array(names.length);
  const noise = parameters.map(() => new Float64Array(names.length));
  for await (const feeds of samples) {
    const want = float.run(feeds, names);
    const got = parameters.map((p) => quantized.run({ ...feeds, ...p }, names));
    const [y, ...all] = await Promise.all([want, ...got]);
    for (const [o, name] of names.entries()) {
      const x = floatsOf(y![name]!);
      if (x === undefined) continue;
      for (let i = 0; i < x.length; i++) signal[o]! += x[i]! * x[i]!;
      for (const [c, out] of all.entries()) noise[c]![o]! += squaredDistance(x, floatsOf(out[name]!)!);
    }
  }
  const used = [...signal.keys()].filter((o) => signal[o]! > 0);
  return noise.map((n) => used.reduce((sum, o) => sum + n[o]! / signal[o]!, 0) / Math.max(1, used.length));
}

function squaredDistance(x: Float32Array | Float64Array, y: Float32Array | Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) {
    const e = x[i]! - y[i]!;
    sum += e * e;
  }
  return sum;
}

function floatsOf(t: Tensor): Float32Array | Float64Array | undefined {
  return t.data instanceof Float32Array || t.data instanceof Float64Array ? t.data : undefined;
}
