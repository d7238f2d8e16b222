import type { NdArray } from "../io/npy.ts";
import { DTYPES, type DType } from "../quant/dtype.ts";
import type { Tensor, TensorArray } from "../runtime/types.ts";

/** What a field of a record is while it goes through the steps of an input: a tensor, text, or an encoded file (image, WAV). */
export type Item = TensorItem | TextItem | FileItem;

export interface TensorItem {
  readonly kind: "tensor";
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly data: TensorArray;
  /** Set by image steps: where the channel axis is. */
  readonly layout?: "hwc" | "chw";
  /** Numbers out of text (JSON, CSV): they have no stored width and take the input's. */
  readonly soft?: boolean;
}
export interface TextItem {
  readonly kind: "text";
  readonly text: string;
}
export interface FileItem {
  readonly kind: "file";
  readonly path: string;
  bytes(): Promise<Uint8Array>;
}
export type Fields = Readonly<Record<string, Item>>;

export function tensorItem(t: Tensor | NdArray): TensorItem {
  return { kind: "tensor", dtype: t.dtype, dims: "dims" in t ? t.dims : t.shape, data: t.data };
}
/** Row `i` of an array, its first axis dropped. */
export function dropFirst(a: NdArray): TensorItem {
  return { kind: "tensor", dtype: a.dtype, dims: a.shape.slice(1), data: a.data };
}

type Numeric = Exclude<TensorArray, string[]>;
/** The typed array of each such type; float16 as bit patterns. */
export const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
} as const satisfies Partial<Record<DType, new (n: number) => Numeric>>;
export type PlainDType = keyof typeof ARRAYS;

/** Types that a plain typed array holds, and so what steps compute with and sessions take. */
export function isPlain(d: string): d is PlainDType {
  return Object.hasOwn(ARRAYS, d);
}
export function allocate(dtype: PlainDType, n: number): Numeric {
  return new ARRAYS[dtype](n);
}

/** The elements as a number array: 64-bit integers as float64 (checked by the caller where it matters), float16 decoded. */
export function numbers(t: {
  readonly dtype: DType;
  readonly data: TensorArray;
}): Float32Array | Float64Array | Int32Array | Uint8Array | Int8Array | Int16Array | Uint16Array | Uint32Array {
  const d = t.data;
  if (Array.isArray(d)) throw new TypeError("internal: text has no numbers");
  if (d instanceof BigInt64Array || d instanceof BigUint64Array) {
    const out = new Float64Array(d.length);
    for (let i = 0; i < d.length; i++) out[i] = Number(d[i]);
    return out;
  }
  if (t.dtype === "float16") return fromHalf(d as Uint16Array);
  return d;
}

/** binary16 bit patterns → float32, exact. */
export function fromHalf(d: Uint16Array): Float32Array {
  const out = new Float32Array(d.length);
  for (let i = 0; i < d.length; i++) {
    const h = d[i]!;
    const e = (h >> 10) & 31;
    const m = h & 1023;
    const v = e === 0 ? m * 2 ** -24 : e === 31 ? (m === 0 ? Number.POSITIVE_INFINITY : Number.NaN) : (1024 + m) * 2 ** (e - 25);
    out[i] = h & 0x8000 ? -v : v;
  }
  return out;
}

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** float → binary16 bit pattern, ties to even; beyond 65504 (rounded) becomes infinite. */
export function toHalf(x: number): number {
  f32[0] = x;
  const u = u32[0]!;
  const sign = (u >>> 16) & 0x8000;
  const a = Math.abs(x);
  if (Number.isNaN(x)) return 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  const step = a < 2 ** -14 ? 2 ** -24 : 2 ** (Math.floor(Math.log2(a)) - 10);
  const q = a / step; // exact: the step is a power of two
  const low = Math.floor(q);
  const rest = q - low;
  const n = rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
  if (a < 2 ** -14) return sign | n;
  // A carry out of the mantissa moves on into the exponent by itself.
  return sign | (((Math.round(Math.log2(step)) + 25) << 10) + (n - 1024));
}

export function describe(dtype: DType, dims: readonly (number | string)[]): string {
  return `${dtype}[${dims.join(",")}]`;
}
export function describeItem(i: Item): string {
  return i.kind === "tensor" ? describe(i.dtype, i.dims) : i.kind === "text" ? "text" : `the file "${i.path}"`;
}
export function isFloat(d: DType): boolean {
  return DTYPES[d].kind === "float";
}
