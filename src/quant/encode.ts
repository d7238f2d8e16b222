import { codeBounds, quantize, ROUND_MAGIC } from "./affine.ts";
import { CODEBOOKS, isCodebookDType, toCodebook } from "./codebook.ts";
import type { IntDType } from "./dtype.ts";
import { fromFloat4, toFloat4 } from "./float4.ts";
import { type CodeDType, fromFloat8, toFloat8 } from "./float8.ts";
import { type Granularity, qparamShape, walkOf } from "./granularity.ts";

/** Parameters of a tensor: one scale and zero point per tensor, channel or block. A list of one stands for all. */
export interface TensorParams<D extends CodeDType = IntDType> {
  readonly dtype: D;
  readonly narrow: boolean;
  readonly granularity: Granularity;
  readonly scale: ArrayLike<number>;
  readonly zeroPoint: ArrayLike<number>;
}

/** How many (scale, zero point) pairs a tensor of `shape` has. */
export function paramCount(shape: readonly number[], g: Granularity): number {
  let n = 1;
  for (const d of qparamShape(shape, g)) n *= d;
  return n;
}

/**
 * Real values to codes: q = saturate(roundHalfEven(x / scale) + zeroPoint) (float8, float4, nf4, fp4: the code of x / scale), each element with the parameters of its tensor, channel or block.
 * x and scale are float32, so the quotient rounded to float32 is the correctly rounded one (53 >= 2 * 24 + 2 bits).
 */
export function encode(x: Float32Array, shape: readonly number[], p: TensorParams<CodeDType>): Int32Array {
  const out = new Int32Array(x.length);
  eachRun(shape, p.granularity, (from, to, index) => {
    const s = at(p.scale, index);
    const z = at(p.zeroPoint, index);
    if (p.dtype === "float8e4m3fn") {
      for (let i = from; i < to; i++) out[i] = toFloat8(Math.fround(x[i]! / s));
      return;
    }
    if (p.dtype === "float4e2m1") {
      for (let i = from; i < to; i++) out[i] = toFloat4(Math.fround(x[i]! / s));
      return;
    }
    if (isCodebookDType(p.dtype)) {
      for (let i = from; i < to; i++) out[i] = toCodebook(Math.fround(x[i]! / s), p.dtype);
      return;
    }
    const { min, max } = codeBounds(p.dtype, p.narrow);
    for (let i = from; i < to; i++) {
      const t = Math.fround(x[i]! / s);
      const r = t > -1e15 && t < 1e15 ? t + ROUND_MAGIC - ROUND_MAGIC : t;
      const q = r + z;
      out[i] = Math.min(max, Math.max(min, q));
    }
  });
  return out;
}

/** Codes to real values: x = (q - zeroPoint) * scale in float32. */
export function decode(codes: ArrayLike<number>, shape: readonly number[], p: Omit<TensorParams<CodeDType>, "narrow">): Float32Array {
  const out = new Float32Array(codes.length);
  eachRun(shape, p.granularity, (from, to, index) => {
    const s = at(p.scale, index);
    const z = at(p.zeroPoint, index);
    if (p.dtype === "float8e4m3fn") for (let i = from; i < to; i++) out[i] = fromFloat8(codes[i]!) * s;
    else if (p.dtype === "float4e2m1") for (let i = from; i < to; i++) out[i] = fromFloat4(codes[i]!) * s;
    else if (isCodebookDType(p.dtype)) for (let i = from; i < to; i++) out[i] = CODEBOOKS[p.dtype][codes[i]!]! * s;
    else for (let i = from; i < to; i++) out[i] = (codes[i]! - z) * s;
  });
  return out;
}

function at(list: ArrayLike<number>, index: number): number {
  return list.length === 1 ? list[0]! : list[index]!;
}

/**
 * Calls `visit(from, to, index)` for each run of consecutive elements that share the parameter `index`. Along an axis that is not the
 * last, a block's runs are one row of `inner` elements whose parameters differ from element to element, so runs have length 1 there.
 */
export function eachRun(shape: readonly number[], g: Granularity, visit: (from: number, to: number, index: number) => void): void {
  if (g.kind === "tensor") {
    visit(
      0,
      shape.reduce((a, b) => a * b, 1),
      0,
    );
    return;
  }
  if (g.kind === "channel") {
    const w = walkOf(shape, g.axis);
    for (let o = 0, i = 0; o < w.outer; o++) for (let a = 0; a < w.axisLength; a++, i += w.inner) visit(i, i + w.inner, a);
    return;
  }
  const w = walkOf(shape, g.axis, g.size);
  for (let o = 0, i = 0; o < w.outer; o++) {
    for (let a = 0; a < w.axisLength; a++) {
      const row = (o * w.blocks + Math.floor(a / w.size)) * w.inner;
      for (let n = 0; n < w.inner; n++, i++) visit(i, i + 1, row + n);
    }
  }
}

/** max |x| of every parameter's elements. NaN where an element is NaN. */
export function absmaxOf(x: Float32Array, shape: readonly number[], g: Granularity): Float64Array {
  const out = new Float64Array(paramCount(shape, g));
  eachRun(shape, g, (from, to, index) => {
    let m = out[index]!;
    for (let i = from; i < to; i++) {
      const a = Math.abs(x[i]!);
      if (!(a <= m)) m = a;
    }
    out[index] = m;
  });
  return out;
}

/** Lowest and highest element of every parameter's elements. */
export function minmaxOf(
  x: Float32Array,
  shape: readonly number[],
  g: Granularity,
): { readonly min: Float64Array; readonly max: Float64Array } {
  const n = paramCount(shape, g);
  const min = new Float64Array(n).fill(Number.POSITIVE_INFINITY);
  const max = new Float64Array(n).fill(Number.NEGATIVE_INFINITY);
  eachRun(shape, g, (from, to, index) => {
    let lo = min[index]!;
    let hi = max[index]!;
    for (let i = from; i < to; i++) {
      const v = x[i]!;
      if (!(v >= lo)) lo = v;
      if (!(v <= hi)) hi = v;
    }
    min[index] = lo;
    max[index] = hi;
  });
  return { min, max };
}

/** One real value to its code and back: the fake quantization that Q and DQ do together. */
export function fakeQuantize(x: number, dtype: IntDType, scale: number, zeroPoint: number): number {
  return Math.fround((quantize(x, { dtype, scale, zeroPoint }) - zeroPoint) * scale);
}
