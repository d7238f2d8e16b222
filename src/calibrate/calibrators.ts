import { QcError, type Report } from "../diagnostics.ts";
import { clippedFraction, fullRange, hull, type Wish } from "./density.ts";
import { entropyRange } from "./entropy.ts";
import { mseRange } from "./mse.ts";
import { percentileRange } from "./percentile.ts";
import type { Calibrator, CalibratorName, Range, RangeChoice, ValueStats } from "./types.ts";

export const DEFAULT_PERCENT = 99.999;
/** Every range below this share of the observed one was a broken one in the measurements behind `auto`. */
const NARROW = 0.3;
/** More than half of the non-zero mass in spikes: the entropy search saw little of the data. */
const SPIKY = 0.5;

export const minmax: Calibrator = { name: "minmax", choose: (s, o) => ({ ...fullRange(s, o), clipped: 0 }) };

/** `percent` in (0, 100]. */
export function percentile(percent = DEFAULT_PERCENT): Calibrator {
  return { name: "percentile", choose: (s, o) => withClipped(s, percentileRange(s, percent, o)) };
}

export const mse: Calibrator = { name: "mse", choose: (s, o) => withClipped(s, mseRange(s, o)) };

export const entropy: Calibrator = {
  name: "entropy",
  choose: (s, o) => {
    const { spikes, ...range } = entropyRange(s, o);
    return { ...withClipped(s, range), spikes };
  },
};

export const CALIBRATORS: Readonly<Record<CalibratorName, Calibrator>> = { minmax, percentile: percentile(), entropy, mse };

function withClipped(s: ValueStats, r: Range): RangeChoice {
  return { min: r.min, max: r.max, clipped: clippedFraction(s, r) };
}

export interface ChooseOptions extends Wish {
  /** A range known from the operator (Softmax, Sigmoid: [0, 1]); no calibrator is asked. */
  readonly fixed?: Range;
  /** The value leaves the graph: entropy must not clip it, for it does not see how far away a clipped value was. */
  readonly output?: boolean;
  readonly report?: Report;
}

/**
 * The range of one value. Warns when it keeps little of what was observed. Fails when the stats have no histogram and the calibrator
 * needs one.
 */
export function chooseRange(s: ValueStats, calibrator: Calibrator, o: ChooseOptions): RangeChoice {
  if (o.fixed !== undefined) {
    const t = Math.max(o.fixed.max, -o.fixed.min);
    const range = o.symmetric ? { min: -t, max: t } : o.fixed;
    return { ...range, clipped: clippedFraction(s, range) };
  }
  const used = o.output === true && calibrator.name === "entropy" ? minmax : calibrator;
  if (used.name !== "minmax" && s.hist === undefined && s.count > 0)
    throw new QcError({ code: "calibrate/needs-histogram", calibrator: used.name, value: s.name });
  const choice = used.choose(s, o);
  const seen = hull(s);
  const full = o.symmetric ? Math.max(seen.max, -seen.min) : seen.max - seen.min;
  const kept = full > 0 ? (o.symmetric ? choice.max : choice.max - choice.min) / full : 1;
  if (kept < NARROW) o.report?.({ code: "calibrate/narrow-range", value: s.name, kept, calibrator: used.name });
  if ((choice.spikes ?? 0) > SPIKY) o.report?.({ code: "calibrate/spiky", value: s.name, removed: choice.spikes! });
  return choice;
}

/** A calibrator by its name on the command line: `minmax`, `percentile`, `percentile=99.99`, `entropy`, `mse`; undefined for others. */
export function calibratorOf(spec: string): Calibrator | undefined {
  const [name, value, ...more] = spec.split("=");
  if (name === undefined || !Object.hasOwn(CALIBRATORS, name) || more.length > 0) return undefined;
  if (value === undefined) return CALIBRATORS[name as CalibratorName];
  const percent = value.trim() === "" ? Number.NaN : Number(value);
  return name === "percentile" && percent > 0 && percent <= 100 ? percentile(percent) : undefined;
}
