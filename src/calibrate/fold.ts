import { QcError } from "../diagnostics.ts";
import { halfToFloat } from "../graph/constant.ts";
import type { Fold, Tensor } from "../runtime/types.ts";
import { Observer } from "./observer.ts";
import type { ValueStats } from "./types.ts";

/** Outputs of the reductions that `reduceRanges` puts into the graph: one element a value. */
export const REDUCED = {
  min: "qc_calibrate_min",
  max: "qc_calibrate_max",
  magnitude: "qc_calibrate_magnitude",
  size: "qc_calibrate_size",
} as const;

/**
 * A run in which max |x| exceeds this many times mean |x| may hold outliers that an 8-bit range over them would drown the rest in
 * (below one bit, 6 dB: step / sqrt(12) > rms / 2), and only a histogram can tell. Otherwise the rest is safe: the largest 0.1 % hold at
 * most 0.001 max of the mean, so the others have rms >= mean >= (1 / 180 - 0.001) max = max / 220 = 2 (max / 127) / sqrt(12).
 */
const OUTLYING = 180;

/** Where the runtime's thread finds `observe`. */
export const MODULE: string = import.meta.url;

export interface ObserveArgs {
  /** Whole tensors handed to observers: graph outputs, or graph inputs (taken from the feeds). */
  readonly whole: readonly string[];
  /** The same, but without a histogram. */
  readonly bare: readonly string[];
  /** Values of which only the reductions leave the graph, in the order of the reduced outputs. */
  readonly reduced: readonly string[];
}

export interface Observed {
  readonly values: readonly ValueStats[];
  /** Runs in which a reduction met NaN or infinity: nothing of them was counted. */
  readonly notFinite: readonly number[];
  /** Of the reduced values, those that had a run with outliers. */
  readonly outlying: readonly string[];
}

/** The observers of one session; lives in the worker beside it. */
export function observe(args: ObserveArgs): Fold {
  const whole = [...args.whole.map((name) => new Observer(name)), ...args.bare.map((name) => new Observer(name, false))];
  const reduced = args.reduced.map((name) => new Observer(name, false));
  const notFinite: number[] = [];
  const outlying = new Set<string>();
  return {
    update(outputs, feeds, index) {
      if (reduced.length > 0) {
        const min = floatsOf(outputs[REDUCED.min], REDUCED.min);
        const max = floatsOf(outputs[REDUCED.max], REDUCED.max);
        const magnitude = floatsOf(outputs[REDUCED.magnitude], REDUCED.magnitude);
        // A sum is not finite when an element is not (or when it overflows: then the elements are looked at, no harm done).
        // Minimum and maximum alone may lose a NaN.
        if (!magnitude.every(Number.isFinite)) {
          notFinite.push(index);
          return;
        }
        const size = outputs[REDUCED.size]!.data as BigInt64Array;
        for (let i = 0; i < reduced.length; i++) {
          const n = Number(size[i]!);
          reduced[i]!.addRange(min[i]!, max[i]!, n);
          const mean = magnitude[i]! / n;
          if (Math.max(max[i]!, -min[i]!) > OUTLYING * mean) outlying.add(reduced[i]!.name);
        }
      }
      for (const o of whole) o.add(floatsOf(outputs[o.name] ?? feeds[o.name], o.name));
    },
    finish(): Observed {
      return { values: [...whole, ...reduced].map((o) => o.result()), notFinite, outlying: [...outlying] };
    },
  };
}

function floatsOf(t: Tensor | undefined, name: string): Float32Array | Float64Array {
  if (t === undefined) throw new Error(`internal: value "${name}" did not leave the graph`);
  if (t.data instanceof Float32Array || t.data instanceof Float64Array) return t.data;
  if (t.dtype === "float16") return halfToFloat(t.data as Uint16Array);
  throw new QcError({ code: "calibrate/not-float", value: name, dtype: t.dtype });
}
