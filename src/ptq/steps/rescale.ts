import { calibratorOf, collectStats, minmax } from "../../calibrate/index.ts";
import type { Model } from "../../graph/ir.ts";
import { writeModel } from "../../graph/onnx/index.ts";
import { withOutputs } from "../../runtime/expose.ts";
import { withConstants, withRanges, withSolved } from "../amend.ts";
import { judgedValues } from "../judge.ts";
import { layersOf } from "../layers.ts";
import { absorb, equalize, findRescales, findShifts, type Rescale, type Rescaling, smooth } from "../rescale.ts";
import { solve, trySolved } from "./rounding.ts";
import { ROUNDED, type State, thin } from "./state.ts";

/** Strengths of smoothing that are tried. */
const ALPHAS = [0.3, 0.5, 0.7];
/** Noise ÷ signal that absorbing may put into the float outputs (50 dB): a hundredth of what 8 bits put there. */
export const ABSORB_TOLERANCE = 1e-5;
/** Standard deviations below its mean that a channel is taken to stay above: a normal one does for 99.9 % of its elements. */
const DEVIATIONS = 3;
/** Samples that compare the float networks before and after absorbing. */
const MOST_COMPARED = 64;

/**
 * Cross-layer equalization and absorption of high biases, then ranges and rounding of the changed network. For weights with one scale a
 * tensor: with one a channel equalization has nothing to win, and was seen to cost 10 dB.
 */
export async function equalization(s: State): Promise<void> {
  const layers = layersOf(s.model, s.base);
  if (!layers.some((l) => l.site.scheme.granularity.kind === "tensor")) return;
  const pairs = findRescales(s.model, layers).filter((r) => r.from.kind === "layer");
  if (pairs.length === 0) return;
  const equal = equalize(s.model, pairs);
  await tryRescaled(s, "equalize", equal, `${pairs.length} pairs`);
  const absorbed = await absorbHighBiases(s, equal, findShifts(pairs));
  if (absorbed)
    await tryRescaled(s, "absorb", absorbed.rescaling, `${pairs.length} pairs equalized, ${absorbed.channels} channels shifted`);
}

/** SmoothQuant, then ranges and rounding. */
export async function smoothing(s: State): Promise<void> {
  const places = findRescales(s.model, layersOf(s.model, s.base)).filter((r) => r.from.kind === "factors");
  if (places.length === 0) return;
  const seen = await channelMoments(
    s,
    s.model,
    places.map((r) => ({ value: r.value.name, axis: -1 })),
  );
  const ranges = new Map(places.map((r, i) => [r.value, seen[i]!.most]));
  for (const alpha of ALPHAS)
    await tryRescaled(s, "smooth", smooth(s.model, places, ranges, alpha), `alpha ${alpha}, ${places.length} places`);
}

/**
 * c = max(0, mean − 3 deviations) of each channel in front of its activation, as measured on the calibration samples (the paper takes both
 * from a batch normalization). Where that changes the float outputs by more than the tolerance, c = max(0, least element seen), which
 * changes nothing on these samples. Undefined: no channel stays above 0.
 */
async function absorbHighBiases(
  s: State,
  equal: Rescaling,
  places: readonly Rescale[],
): Promise<{ readonly rescaling: Rescaling; readonly channels: number } | undefined> {
  if (places.length === 0) return undefined;
  const { model } = equal.finish();
  const seen = await channelMoments(
    s,
    model,
    places.map((r) => {
      const layer = r.from.kind === "layer" ? r.from.layer : undefined;
      return { value: layer!.node.outputs[0]!.name, axis: layer!.window ? 1 : -1 };
    }),
  );
  for (const low of [(m: Moments, c: number) => m.mean[c]! - DEVIATIONS * m.deviation[c]!, (m: Moments, c: number) => m.least[c]!]) {
    const rescaling = equal.fork();
    const shifts = new Map(places.map((r, i) => [r, Float64Array.from(seen[i]!.mean, (_, c) => Math.max(0, low(seen[i]!, c)))]));
    const channels = absorb(rescaling, places, shifts);
    if (channels === 0) return undefined;
    if ((await outputChange(s, model, rescaling.finish().model)) <= ABSORB_TOLERANCE) return { rescaling, channels };
  }
  return undefined;
}

/** Noise ÷ signal of one float network beside another, over some calibration samples: the mean over the outputs. */
async function outputChange(s: State, before: Model, after: Model): Promise<number> {
  const { ctx } = s;
  const names = judgedValues(before).map((v) => v.name);
  const sessions = await Promise.all(
    [before, after].map((m) => ctx.runtime.open(writeModel(withOutputs(m, names)), { ...ctx.session, label: "float outputs" })),
  );
  const signal = new Float64Array(names.length);
  const noise = new Float64Array(names.length);
  try {
    for (const i of thin(s.calibrate, MOST_COMPARED)) {
      const { feeds } = await ctx.data.sample(i);
      const [y, z] = await Promise.all(sessions.map((x) => x.run(feeds, names)));
      for (const [o, name] of names.entries()) {
        const a = y![name]!.data;
        const b = z![name]!.data;
        if (!(a instanceof Float32Array) || !(b instanceof Float32Array)) continue;
        for (let p = 0; p < a.length; p++) {
          signal[o]! += a[p]! * a[p]!;
          noise[o]! += (a[p]! - b[p]!) ** 2;
        }
      }
    }
  } finally {
    await Promise.all(sessions.map((x) => x.release()));
  }
  const used = [...signal.keys()].filter((o) => signal[o]! > 0);
  return used.reduce((sum, o) => sum + noise[o]! / signal[o]!, 0) / Math.max(1, used.length);
}

async function tryRescaled(s: State, step: string, rescaled: Rescaling, detail: string): Promise<void> {
  const { ctx } = s;
  const { model, changed } = rescaled.finish();
  const values = [...new Set(s.base.plan.sites.flatMap((x) => (x.kind === "static" ? [x.value] : [])))];
  let bundle = s.base;
  if (values.length > 0) {
    const stats = await collectStats({
      model,
      values,
      data: ctx.data,
      indices: s.calibrate,
      runtime: ctx.runtime,
      ...(ctx.session && { session: ctx.session }),
    });
    const spec = s.base.plan.calibrator ?? "minmax";
    const outputs = new Set(model.graph.outputs.map((v) => v.name));
    bundle = withRanges(s.base, stats, calibratorOf(spec) ?? minmax, spec, outputs);
  }
  // The codes so far are of other weights.
  const solved = await solve(s, model, bundle, { ...s.options, keepCodes: false });
  const weights = new Set(solved.map((x) => x.layer.weight.value.name));
  await trySolved(s, step, withSolved(withConstants(bundle, model, changed, weights, step), solved, ROUNDED), solved, detail, {
    model,
    gains: [],
  });
}

/** Of each channel of a value. */
interface Moments {
  readonly mean: Float64Array;
  readonly deviation: Float64Array;
  readonly least: Float64Array;
  /** max|x|. */
  readonly most: Float64Array;
}

/** Moments and extremes of each channel of values, over the calibration samples. `axis`: where the channels are, -1 the last. */
async function channelMoments(
  s: State,
  model: Model,
  wanted: readonly { readonly value: string; readonly axis: number }[],
): Promise<Moments[]> {
  const { ctx } = s;
  const names = [...new Set(wanted.map((w) => w.value))];
  const session = await ctx.runtime.open(writeModel(withOutputs(model, names)), { ...ctx.session, label: "channels" });
  const found: (Moments & { count: number })[] = [];
  try {
    for (const i of s.calibrate) {
      const got = await session.run((await ctx.data.sample(i)).feeds, names);
      for (const [n, w] of wanted.entries()) {
        const { data, dims } = got[w.value]!;
        const axis = w.axis < 0 ? dims.length + w.axis : w.axis;
        const channels = dims[axis]!;
        found[n] ??= {
          count: 0,
          mean: new Float64Array(channels),
          deviation: new Float64Array(channels),
          least: new Float64Array(channels).fill(Infinity),
          most: new Float64Array(channels),
        };
        const m = found[n];
        const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1);
        const x = data as Float32Array;
        for (let p = 0; p < x.length; p++) {
          const c = Math.floor(p / inner) % channels;
          const v = x[p]!;
          m.mean[c]! += v;
          m.deviation[c]! += v * v;
          if (v < m.least[c]!) m.least[c] = v;
          if (Math.abs(v) > m.most[c]!) m.most[c] = Math.abs(v);
        }
        m.count += x.length / channels;
      }
    }
  } finally {
    await session.release();
  }
  return found.map((m) => {
    const mean = m.mean.map((x) => x / Math.max(1, m.count));
    return { ...m, mean, deviation: m.deviation.map((x, c) => Math.sqrt(Math.max(0, x / Math.max(1, m.count) - mean[c]! ** 2))) };
  });
}
