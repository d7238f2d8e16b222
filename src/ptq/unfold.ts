import { halfToFloat } from "../graph/constant.ts";
import { ROUND_MAGIC } from "../quant/affine.ts";
import { uniformAt } from "./random.ts";

/** The window of a convolution over the spatial axes (one or two). `channels`: input channels per group. */
export interface Window {
  readonly channels: number;
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** [begin…, end…], used when autoPad is NOTSET. */
  readonly pads: readonly number[];
  readonly autoPad: string;
}

/** Elements as a frontier has them: numbers, float16 patterns or codes. */
export type Raw = Float32Array | Uint16Array | Uint8Array | Int8Array | Int16Array;

/** A window placed on an input of known size: always two spatial axes, the first of length 1 for one-dimensional convolutions. */
export interface Placed {
  readonly batch: number;
  readonly channels: number;
  readonly groups: number;
  readonly size: readonly [number, number];
  readonly kernel: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly dilation: readonly [number, number];
  readonly before: readonly [number, number];
  readonly out: readonly [number, number];
  /** Output positions, batch included. */
  readonly positions: number;
}

/** Output size and padding of a window on an input [N, C, spatial…] (ONNX Conv). */
export function placeWindow(w: Window, dims: readonly number[], groups: number): Placed {
  const rank = w.kernel.length;
  const two = (list: readonly number[], fill: number): [number, number] => (rank === 2 ? [list[0]!, list[1]!] : [fill, list[0]!]);
  const size = two(dims.slice(2), 1);
  const kernel = two(w.kernel, 1);
  const stride = two(w.strides, 1);
  const dilation = two(w.dilations, 1);
  const begin = two(w.pads.slice(0, rank), 0);
  const end = two(w.pads.slice(rank), 0);
  const out: [number, number] = [0, 0];
  for (let d = 0; d < 2; d++) {
    const span = dilation[d]! * (kernel[d]! - 1) + 1;
    if (w.autoPad === "SAME_UPPER" || w.autoPad === "SAME_LOWER") {
      out[d] = Math.ceil(size[d]! / stride[d]!);
      const total = Math.max(0, (out[d]! - 1) * stride[d]! + span - size[d]!);
      begin[d] = w.autoPad === "SAME_UPPER" ? Math.floor(total / 2) : Math.ceil(total / 2);
    } else {
      if (w.autoPad === "VALID") begin[d] = end[d] = 0;
      out[d] = Math.floor((size[d]! + begin[d]! + end[d]! - span) / stride[d]!) + 1;
    }
  }
  const batch = dims[0]!;
  return {
    batch,
    channels: dims[1]! / groups,
    groups,
    size,
    kernel,
    stride,
    dilation,
    before: begin,
    out,
    positions: batch * out[0] * out[1],
  };
}

/**
 * Columns of the unfolded input (im2col) at chosen output positions: `into[g]` at row `at + p` gets the k = channels · kH · kW values that
 * output position `positions[p]` of group g reads; `outside` where the window leaves the input. Numbers are copied as they are: float16 bit
 * patterns (0 is 0) and codes (their zero point is 0) stay what they are, see `settleRows`.
 */
export function unfold(
  x: Raw,
  p: Placed,
  positions: Int32Array,
  count: number,
  into: readonly Float32Array[],
  at: number,
  outside = 0,
): void {
  const [h, w] = p.size;
  const [kh, kw] = p.kernel;
  const plane = h * w;
  const k = p.channels * kh * kw;
  const perImage = p.out[0] * p.out[1];
  for (let n = 0; n < count; n++) {
    const position = positions[n]!;
    const image = (position / perImage) | 0;
    const rest = position - image * perImage;
    const oy = (rest / p.out[1]) | 0;
    const y0 = oy * p.stride[0] - p.before[0];
    const x0 = (rest - oy * p.out[1]) * p.stride[1] - p.before[1];
    for (let g = 0; g < p.groups; g++) {
      const row = into[g]!;
      let to = (at + n) * k;
      let base = (image * p.groups + g) * p.channels * plane;
      for (let c = 0; c < p.channels; c++, base += plane)
        for (let ky = 0; ky < kh; ky++) {
          const yy = y0 + ky * p.dilation[0];
          const inside = yy >= 0 && yy < h;
          for (let kx = 0; kx < kw; kx++) {
            const xx = x0 + kx * p.dilation[1];
            row[to++] = inside && xx >= 0 && xx < w ? x[base + yy * w + xx]! : outside;
          }
        }
    }
  }
}

/** Rows of the last axis (Gemm, MatMul), or of the first when `columns` (a transposed left operand). */
export function pickRows(x: Raw, k: number, columns: boolean, positions: Int32Array, count: number, into: Float32Array, at: number): void {
  const total = x.length / k;
  for (let n = 0; n < count; n++) {
    const p = positions[n]!;
    const to = (at + n) * k;
    if (columns) for (let i = 0; i < k; i++) into[to + i] = x[i * total + p]!;
    else for (let i = 0; i < k; i++) into[to + i] = x[p * k + i]!;
  }
}

/** A per-tensor Q/DQ: c = q − zeroPoint in [lo, hi]. */
export interface Rounding {
  readonly scale: number;
  readonly lo: number;
  readonly hi: number;
}

/**
 * Rows [from, to) of [·, k] as `unfold` copied them, to what the statistics take: float16 patterns to numbers times `half` (its scale), then
 * quantized and dequantized, or codes to numbers; then minus `shift` [k].
 */
export function settleRows(
  x: Float32Array,
  from: number,
  to: number,
  k: number,
  how: { readonly half?: number | undefined; readonly codes?: { readonly scale: number; readonly zero: number } | undefined },
  rounding: Rounding | undefined,
  shift: Float32Array,
): void {
  const { half, codes } = how;
  if (codes) {
    const { scale, zero } = codes;
    for (let p = from * k; p < to * k; p += k) for (let i = 0; i < k; i++) x[p + i] = Math.fround((x[p + i]! - zero) * scale) - shift[i]!;
    return;
  }
  if (half !== undefined) {
    const table = halves();
    for (let p = from * k; p < to * k; p++) x[p] = table[x[p]!]! * half;
  }
  if (rounding) {
    const { scale, lo, hi } = rounding;
    for (let p = from * k; p < to * k; p++) {
      let q = Math.fround(x[p]! / scale) + ROUND_MAGIC - ROUND_MAGIC;
      if (q < lo) q = lo;
      else if (q > hi) q = hi;
      x[p] = q * scale;
    }
  }
  for (let p = from * k; p < to * k; p += k) for (let i = 0; i < k; i++) x[p + i]! -= shift[i]!;
}

let table: Float32Array | undefined;
/** The value of every float16 pattern. */
export function halves(): Float32Array {
  table ??= halfToFloat(Uint16Array.from({ length: 65536 }, (_, i) => i));
  return table;
}

/**
 * `want` of `total` positions, one from each of `want` equal stretches, at a place that depends on (seed, sample) alone; all of them when
 * `want` reaches `total`. Returns how many.
 */
export function choosePositions(total: number, want: number, seed: number, sample: number, out: Int32Array): number {
  if (want >= total) {
    for (let i = 0; i < total; i++) out[i] = i;
    return total;
  }
  for (let i = 0; i < want; i++) out[i] = Math.min(total - 1, Math.floor(((i + uniformAt(seed, sample, i)) * total) / want));
  return want;
}
