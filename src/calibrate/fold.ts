import { QcError } from "../diagnostics.ts";
import { halfToFloat } from "../graph/constant.ts";
import type { Fold, Tensor } from "../runtime/types.ts";
import { Observer } from "./observer.ts";
import type { ValueStats } from "./types.ts";

/** Outputs of the reductions that `reduceRanges` puts into the graph: one element a value. */
export const REDUCED = { min: "qc_calibrate_min", max: "qc_calibrate_max", sum: "qc_calibrate_sum" } as const;

/** Where the runtime's thread finds `observe`. */
export const MODULE: string = import.meta.url;

export interface ObserveArgs {
  /** Whole tensors handed to observers: graph outputs, or graph inputs (taken from the feeds). */
  readonly whole: readonly string[];
  /** Values of which only minimum, maximum and sum leave the graph, in the order of the reduced outputs, and their element counts. */
  readonly reduced: readonly string[];
  readonly counts: readonly number[];
  readonly histogram: boolean;
}

export interface Observed {
  readonly values: readonly ValueStats[];
  /** Runs in which a reduction met NaN or infinity: nothing of them was counted. */
  readonly notFinite: readonly number[];
}

/** The observers of one session; lives in the worker beside it. */
export function observe(args: ObserveArgs): Fold {
  const whole = args.whole.map((name) => new Observer(name, args.histogram));
  const reduced = args.reduced.map((name) => new Observer(name, false));
  const notFinite: number[] = [];
  return {
    update(outputs, feeds, index) {
      if (reduced.length > 0) {
        const min = floatsOf(outputs[REDUCED.min], REDUCED.min);
        const max = floatsOf(outputs[REDUCED.max], REDUCED.max);
        // A sum is not finite when an element is not (or when it overflows: then the elements are looked at, no harm done).
        // Minimum and maximum alone may lose a NaN.
        if (!floatsOf(outputs[REDUCED.sum], REDUCED.sum).every(Number.isFinite)) {
          notFinite.push(index);
          return;
        }
        for (let i = 0; i < reduced.length; i++) reduced[i]!.addRange(min[i]!, max[i]!, args.counts[i]!);
      }
      for (const o of whole) o.add(floatsOf(outputs[o.name] ?? feeds[o.name], o.name));
    },
    finish(): Observed {
      return { values: [...whole, ...reduced].map((o) => o.result()), notFinite };
    },
  };
}

function floatsOf(t: Tensor | undefined, name: string): Float32Array | Float64Array {
  if (t === undefined) throw new Error(`internal: value "${name}" did not leave the graph`);
  if (t.data instanceof Float32Array || t.data instanceof Float64Array) return t.data;
  if (t.dtype === "float16") return halfToFloat(t.data as Uint16Array);
  throw new QcError({ code: "calibrate/not-float", value: name, dtype: t.dtype });
}
