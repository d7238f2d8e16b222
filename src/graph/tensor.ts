import { byteCount, type DType, elementCount } from "../quant/dtype.ts";

/**
 * One constant tensor of any ONNX type. `bytes()` is the ONNX raw_data layout (little endian, sub-byte types packed); it may read
 * lazily from a file, is never copied or widened, and must not be written to. Strings have `strings()` instead.
 */
export interface TensorData {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Stored bytes, known without reading them. 0 for strings. */
  readonly byteLength: number;
  bytes(): Uint8Array;
  /** UTF-8 (or any) byte strings; only for dtype "string". */
  strings?(): readonly Uint8Array[];
  /** Where the bytes live when they are outside the model file. */
  readonly external?: ExternalRef;
  /** What else the TensorProto held; gone when the data is replaced. */
  readonly extras?: TensorExtras;
}

/** `name` only for tensors in attributes: a constant's name is that of its value. */
export interface TensorExtras {
  readonly name?: string;
  readonly doc?: string;
  readonly metadata?: readonly (readonly [string, string])[];
  readonly unknown?: readonly Uint8Array[];
}

export interface ExternalRef {
  /** Path as written in the model: relative to the model's folder. */
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

/** A tensor over bytes in memory (a view: the caller must not write to them afterwards). */
export function tensorFromBytes(dtype: DType, shape: readonly number[], bytes: Uint8Array): TensorData {
  const want = byteCount(dtype, elementCount(shape));
  if (bytes.byteLength !== want)
    throw new RangeError(`internal: ${dtype}[${shape.join(",")}] needs ${want} bytes, got ${bytes.byteLength}`);
  return { dtype, shape: [...shape], byteLength: want, bytes: () => bytes };
}

type NumberArray = Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array;
/** Type of a typed array, by its constructor. */
export const ARRAY_DTYPE: ReadonlyMap<unknown, DType> = new Map<unknown, DType>([
  [Float32Array, "float32"],
  [Float64Array, "float64"],
  [Int8Array, "int8"],
  [Uint8Array, "uint8"],
  [Int16Array, "int16"],
  [Uint16Array, "uint16"],
  [Int32Array, "int32"],
  [Uint32Array, "uint32"],
  [BigInt64Array, "int64"],
  [BigUint64Array, "uint64"],
]);

/** A tensor from a typed array; the dtype follows the array unless given (for float16 bit patterns and the like). */
export function tensorFrom(data: NumberArray | BigInt64Array | BigUint64Array, shape?: readonly number[], dtype?: DType): TensorData {
  const d = dtype ?? ARRAY_DTYPE.get(data.constructor)!;
  return tensorFromBytes(d, shape ?? [data.length], new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}

export function floats(data: ArrayLike<number>, shape?: readonly number[]): TensorData {
  return tensorFrom(Float32Array.from(data), shape ?? [data.length]);
}
export function int64s(data: readonly (number | bigint)[], shape?: readonly number[]): TensorData {
  return tensorFrom(
    BigInt64Array.from(data, (x) => BigInt(x)),
    shape ?? [data.length],
  );
}

/** `bytes()` as a typed array of the same width; copies only when the view is not aligned. */
function aligned(t: TensorData, width: number): Uint8Array {
  const b = t.bytes();
  return b.byteOffset % width === 0 ? b : b.slice();
}

/** The elements of a float32 tensor, without a copy where alignment allows. Do not write to it. */
export function asFloat32(t: TensorData): Float32Array {
  if (t.dtype !== "float32") throw new TypeError(`internal: asFloat32 of ${t.dtype}`);
  const b = aligned(t, 4);
  return new Float32Array(b.buffer, b.byteOffset, b.byteLength / 4);
}

/** The elements of a small integer tensor (shapes, axes, pads) as numbers. Throws when one is beyond 2^53. */
export function asIntegers(t: TensorData): number[] {
  switch (t.dtype) {
    case "int64":
    case "uint64": {
      const b = aligned(t, 8);
      const a =
        t.dtype === "int64"
          ? new BigInt64Array(b.buffer, b.byteOffset, b.byteLength / 8)
          : new BigUint64Array(b.buffer, b.byteOffset, b.byteLength / 8);
      return Array.from(a, (x) => {
        const n = Number(x);
        if (!Number.isSafeInteger(n)) throw new RangeError(`integer ${x} is beyond 2^53`);
        return n;
      });
    }
    case "int32": {
      const b = aligned(t, 4);
      return Array.from(new Int32Array(b.buffer, b.byteOffset, b.byteLength / 4));
    }
    case "uint8":
    case "bool":
      return Array.from(t.bytes());
    case "int8": {
      const b = t.bytes();
      return Array.from(new Int8Array(b.buffer, b.byteOffset, b.byteLength));
    }
    default:
      throw new TypeError(`internal: asIntegers of ${t.dtype}`);
  }
}
