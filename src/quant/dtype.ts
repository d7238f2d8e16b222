/**
 * ONNX tensor element types. `code` is TensorProto.DataType (onnx.proto); `bits` is the stored width
 * (0: variable length); `ir` and `opset` say since when the type exists.
 */
export const DTYPES = {
  float32: { code: 1, bits: 32, kind: "float" },
  uint8: { code: 2, bits: 8, kind: "uint" },
  int8: { code: 3, bits: 8, kind: "int" },
  uint16: { code: 4, bits: 16, kind: "uint" },
  int16: { code: 5, bits: 16, kind: "int" },
  int32: { code: 6, bits: 32, kind: "int" },
  int64: { code: 7, bits: 64, kind: "int" },
  string: { code: 8, bits: 0, kind: "string" },
  bool: { code: 9, bits: 8, kind: "bool" },
  float16: { code: 10, bits: 16, kind: "float" },
  float64: { code: 11, bits: 64, kind: "float" },
  uint32: { code: 12, bits: 32, kind: "uint" },
  uint64: { code: 13, bits: 64, kind: "uint" },
  complex64: { code: 14, bits: 64, kind: "complex" },
  complex128: { code: 15, bits: 128, kind: "complex" },
  bfloat16: { code: 16, bits: 16, kind: "float" },
  float8e4m3fn: { code: 17, bits: 8, kind: "float" },
  float8e4m3fnuz: { code: 18, bits: 8, kind: "float" },
  float8e5m2: { code: 19, bits: 8, kind: "float" },
  float8e5m2fnuz: { code: 20, bits: 8, kind: "float" },
  uint4: { code: 21, bits: 4, kind: "uint" },
  int4: { code: 22, bits: 4, kind: "int" },
  float4e2m1: { code: 23, bits: 4, kind: "float" },
  float8e8m0: { code: 24, bits: 8, kind: "float" },
  uint2: { code: 25, bits: 2, kind: "uint" },
  int2: { code: 26, bits: 2, kind: "int" },
} as const satisfies Record<string, { code: number; bits: number; kind: "float" | "int" | "uint" | "bool" | "string" | "complex" }>;

export type DType = keyof typeof DTYPES;

const BY_CODE = new Map<number, DType>((Object.keys(DTYPES) as DType[]).map((d) => [DTYPES[d].code, d]));

/** The type with this TensorProto.DataType number; undefined when ONNX has none (0 is UNDEFINED). */
export function dtypeOf(code: number): DType | undefined {
  return BY_CODE.get(code);
}

/** Integer storage types of quantized values. Bounds are inclusive. */
export const INT_DTYPES = {
  uint2: { bits: 2, min: 0, max: 3 },
  int2: { bits: 2, min: -2, max: 1 },
  uint4: { bits: 4, min: 0, max: 15 },
  int4: { bits: 4, min: -8, max: 7 },
  uint8: { bits: 8, min: 0, max: 255 },
  int8: { bits: 8, min: -128, max: 127 },
  uint16: { bits: 16, min: 0, max: 65535 },
  int16: { bits: 16, min: -32768, max: 32767 },
  int32: { bits: 32, min: -2147483648, max: 2147483647 },
} as const satisfies Partial<Record<DType, { bits: number; min: number; max: number }>>;

export type IntDType = keyof typeof INT_DTYPES;

export function isIntDType(d: string): d is IntDType {
  return Object.hasOwn(INT_DTYPES, d);
}

/** Elements of a shape. Throws when the product leaves the safe integers. */
export function elementCount(shape: readonly number[]): number {
  let n = 1;
  for (const d of shape) n *= d;
  if (!Number.isSafeInteger(n)) throw new RangeError(`internal: shape [${shape.join(", ")}] has more than 2^53 elements`);
  return n;
}

/** Bytes of `count` elements in ONNX raw_data layout: sub-byte types are packed over the whole tensor, without row padding. */
export function byteCount(dtype: DType, count: number): number {
  return Math.ceil((count * DTYPES[dtype].bits) / 8);
}
