import { DTYPES, type DType, INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import type { TensorArray } from "../runtime/types.ts";
import { allocate, isPlain, numbers, type PlainDType, type TensorItem, toHalf } from "./item.ts";

export type CastResult =
  | { readonly ok: true; readonly item: TensorItem; readonly rounded: boolean }
  | { readonly ok: false; readonly why: string };

/**
 * `item` in another type. `lossless`: every value must survive (float64 into float32 and float into float16 may round, which is
 * reported); integers do not turn into floats by themselves, since pixels nearly always need scaling. `asked`: what a step says is done.
 */
export function castItem(item: TensorItem, to: DType, mode: "lossless" | "asked"): CastResult {
  if (item.dtype === to) return { ok: true, item, rounded: false };
  if (!isPlain(to) || item.dtype === "string") return { ok: false, why: `${item.dtype} does not become ${to}` };
  const from = DTYPES[item.dtype].kind;
  const kind = DTYPES[to].kind;
  if (mode === "lossless" && item.soft !== true) {
    if (kind === "float" && from !== "float") return { ok: false, why: `${item.dtype} is not taken as ${to} unasked` };
    if (kind !== "float" && from === "float") return { ok: false, why: `${item.dtype} does not fit ${to}` };
  }
  const data = convert(item, to);
  if (kind !== "float" && (mode === "lossless" || item.soft)) {
    const bad = firstOutside(item, to);
    if (bad !== undefined) return { ok: false, why: `the value ${bad} does not fit ${to}` };
  }
  const rounded = mode === "lossless" && item.soft !== true && from === "float" && DTYPES[item.dtype].bits > DTYPES[to].bits;
  return { ok: true, item: { ...item, dtype: to, data, soft: false }, rounded };
}

function convert(item: TensorItem, to: PlainDType): TensorArray {
  const wide = item.data instanceof BigInt64Array || item.data instanceof BigUint64Array;
  if (to === "int64" || to === "uint64") {
    if (wide) return to === "int64" ? BigInt64Array.from(item.data as BigInt64Array) : BigUint64Array.from(item.data as BigUint64Array);
    const x = numbers(item);
    const out = allocate(to, x.length) as BigInt64Array;
    for (let i = 0; i < x.length; i++) out[i] = BigInt(Number.isFinite(x[i]!) ? Math.trunc(x[i]!) : 0);
    return out;
  }
  const x = numbers(item);
  const out = allocate(to, x.length) as Float32Array;
  if (to === "float16") for (let i = 0; i < x.length; i++) out[i] = toHalf(x[i]!);
  else if (to === "bool") for (let i = 0; i < x.length; i++) out[i] = x[i] === 0 ? 0 : 1;
  else if (isIntDType(to)) {
    const { min, max } = INT_DTYPES[to];
    for (let i = 0; i < x.length; i++) out[i] = Math.min(max, Math.max(min, Math.trunc(x[i]!)));
  } else for (let i = 0; i < x.length; i++) out[i] = x[i]!;
  return out;
}

/** The first value that is no element of `to`. */
function firstOutside(item: TensorItem, to: PlainDType): number | bigint | undefined {
  if (to === "bool") return numbers(item).find((v) => v !== 0 && v !== 1);
  if (item.data instanceof BigInt64Array || item.data instanceof BigUint64Array) {
    const bits = BigInt(DTYPES[to].bits);
    const signed = DTYPES[to].kind === "int";
    const lo = signed ? -(1n << (bits - 1n)) : 0n;
    const hi = signed ? (1n << (bits - 1n)) - 1n : (1n << bits) - 1n;
    for (const v of item.data) if (v < lo || v > hi) return v;
    return undefined;
  }
  const lo = isIntDType(to) ? INT_DTYPES[to].min : to === "uint64" || to === "uint32" ? 0 : -(2 ** 63);
  const hi = isIntDType(to) ? INT_DTYPES[to].max : to === "uint32" ? 2 ** 32 - 1 : to === "uint64" ? 2 ** 64 : 2 ** 63;
  for (const v of numbers(item)) if (!Number.isInteger(v) || v < lo || v > hi) return v;
  return undefined;
}
