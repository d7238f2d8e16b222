import { QcError } from "../diagnostics.ts";
import { pathOfNode } from "../graph/walk.ts";
import { chooseAsymmetric, chooseSymmetric, codeBounds, MIN_SCALE } from "../quant/affine.ts";
import { mxfp8Exponent, nvfp4BlockScale, nvfp4TensorScale } from "../quant/blockfloat.ts";
import { isCodebookDType } from "../quant/codebook.ts";
import { isIntDType } from "../quant/dtype.ts";
import { absmaxOf, minmaxOf } from "../quant/encode.ts";
import { FLOAT8_MAX } from "../quant/float8.ts";
import type { WeightSite } from "./proposal.ts";

export interface WeightParams {
  readonly scale: Float32Array;
  readonly zeroPoint: Int32Array;
  /** The whole tensor's scale, where blocks have theirs in a second level. */
  readonly tensorScale?: number;
}
const cache = new WeakMap<WeightSite, WeightParams>();

/**
 * Parameters of round-to-nearest weights: of each tensor, channel or block, scale = max|w| / 127 (int8; 63 where the scheme takes 7 bits of
 * it, whose products with uint8 never saturate a 16-bit sum), or min and max where the scheme is asymmetric.
 */
export function weightParams(w: WeightSite): WeightParams {
  const known = cache.get(w) ?? choose(w);
  cache.set(w, known);
  return known;
}

function choose(w: WeightSite): WeightParams {
  const x = w.float32();
  const { dtype, symmetric, granularity } = w.scheme;
  if (isCodebookDType(dtype)) {
    const absmax = absmaxOf(x, w.shape, granularity);
    finite(w, absmax);
    return { scale: Float32Array.from(absmax, (m) => (m >= MIN_SCALE ? m : 1)), zeroPoint: new Int32Array(absmax.length) };
  }
  if (w.form === "nvfp4" || w.form === "mxfp8") {
    const absmax = absmaxOf(x, w.shape, granularity);
    finite(w, absmax);
    const zeroPoint = new Int32Array(absmax.length);
    if (w.form === "mxfp8") return { scale: Float32Array.from(absmax, (m) => 2 ** mxfp8Exponent(m)), zeroPoint };
    const tensorScale = nvfp4TensorScale(absmax.reduce((a, b) => Math.max(a, b), 0));
    return { scale: Float32Array.from(absmax, (m) => nvfp4BlockScale(m, tensorScale)), zeroPoint, tensorScale };
  }
  if (dtype === "float8e4m3fn") {
    const absmax = absmaxOf(x, w.shape, granularity);
    finite(w, absmax);
    return { scale: Float32Array.from(absmax, float8Scale), zeroPoint: new Int32Array(absmax.length) };
  }
  if (!isIntDType(dtype)) throw new Error(`internal: no round-to-nearest parameters of ${dtype}`);
  if (symmetric) {
    const absmax = absmaxOf(x, w.shape, granularity);
    finite(w, absmax);
    const { bits } = w.scheme;
    const widen = bits === undefined ? 1 : codeBounds(dtype, false).max / codeBounds(dtype, false, bits).max;
    // All 16 codes at 4 bits: the lowest is worth 2 to 5 points of accuracy.
    const all = !w.scheme.narrow && (dtype === "int4" || dtype === "int2");
    const params = Array.from(absmax, (m) => chooseSymmetric(m * widen, dtype, all));
    return { scale: Float32Array.from(params, (p) => p.scale), zeroPoint: Int32Array.from(params, (p) => p.zeroPoint) };
  }
  const { min, max } = minmaxOf(x, w.shape, granularity);
  finite(w, min);
  finite(w, max);
  const params = Array.from(min, (lo, i) => chooseAsymmetric(lo, max[i]!, dtype));
  return { scale: Float32Array.from(params, (p) => p.scale), zeroPoint: Int32Array.from(params, (p) => p.zeroPoint) };
}

/** The largest magnitude lands on the largest float8: scale = absmax / 448. A dead channel gets 1. */
export function float8Scale(absmax: number): number {
  const s = Math.fround(absmax / FLOAT8_MAX);
  return s >= MIN_SCALE ? s : 1;
}

function finite(w: WeightSite, x: Float64Array): void {
  if (!x.every(Number.isFinite)) throw new QcError({ code: "plan/not-finite", value: w.path, node: pathOfNode(w.nodes[0]!) });
}
