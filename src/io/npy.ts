import { QcError } from "../diagnostics.ts";
import { DTYPES, type DType, elementCount } from "../quant/dtype.ts";
import { LIMITS } from "./limits.ts";
import { type ByteSource, memorySource } from "./source.ts";

export type NdData =
  | Float32Array
  | Float64Array
  | Uint16Array
  | Int16Array
  | Uint8Array
  | Int8Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | string[];

/** An array in C order. float16: bit patterns. complex: real and imaginary parts in turn. bool: 0 and 1. */
export interface NdArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: NdData;
}

type Ctor = { new (b: ArrayBufferLike, offset: number, length: number): Exclude<NdData, string[]>; readonly BYTES_PER_ELEMENT: number };

/** NumPy's kind and size → our type, its array, and array elements per item. */
const TYPES: Readonly<Record<string, readonly [DType, Ctor, 1 | 2]>> = {
  b1: ["bool", Uint8Array, 1],
  i1: ["int8", Int8Array, 1],
  u1: ["uint8", Uint8Array, 1],
  i2: ["int16", Int16Array, 1],
  u2: ["uint16", Uint16Array, 1],
  i4: ["int32", Int32Array, 1],
  u4: ["uint32", Uint32Array, 1],
  i8: ["int64", BigInt64Array, 1],
  u8: ["uint64", BigUint64Array, 1],
  f2: ["float16", Uint16Array, 1],
  f4: ["float32", Float32Array, 1],
  f8: ["float64", Float64Array, 1],
  c8: ["complex64", Float32Array, 2],
  c16: ["complex128", Float64Array, 2],
};

/** A `.npy` whose header is read and whose rows are read when asked for. */
export interface NpyFile {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly label: string;
  /** The whole array. */
  all(): NdArray;
  /** `count` slices along the first axis, that axis kept; only their bytes are read (except from Fortran order, which needs all). */
  rows(from: number, count: number): NdArray;
}

export function readNpy(bytes: Uint8Array, label?: string): NdArray {
  return openNpy(memorySource(bytes, label)).all();
}

export function openNpy(source: ByteSource): NpyFile {
  const h = readHeader(source);
  const count = elementCount(h.shape);
  if (count * h.itemBytes > source.size - h.offset)
    throw malformed(source, source.size, `${count} items of ${h.itemBytes} bytes are promised, ${source.size - h.offset} bytes are there`);
  let whole: NdArray | undefined;
  const decode = (from: number, shape: readonly number[]): NdArray => {
    const bytes = source.read(h.offset + from, elementCount(shape) * h.itemBytes);
    return { dtype: h.dtype, shape, data: decodeItems(bytes, h) };
  };
  const all = (): NdArray => {
    whole ??= h.fortran && h.shape.length > 1 ? toC(decode(0, h.shape), h) : decode(0, h.shape);
    return whole;
  };
  const rowItems = h.shape.length === 0 ? 1 : elementCount(h.shape.slice(1));
  return {
    dtype: h.dtype,
    shape: h.shape,
    label: source.label,
    all,
    rows(from, n) {
      const have = h.shape[0] ?? 0;
      if (!(from >= 0 && n >= 0 && from + n <= have)) throw new RangeError(`internal: rows ${from}..${from + n} of ${have}`);
      const shape = [n, ...h.shape.slice(1)];
      if (!h.fortran || h.shape.length < 2) return decode(from * rowItems * h.itemBytes, shape);
      const a = all();
      const per = rowItems * h.perItem;
      return { dtype: h.dtype, shape, data: a.data.slice(from * per, (from + n) * per) };
    },
  };
}

interface NpyHeader {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly fortran: boolean;
  readonly offset: number;
  readonly itemBytes: number;
  readonly perItem: 1 | 2;
  readonly ctor: Ctor | undefined;
  /** "U" and "S": text of fixed width. */
  readonly text: "U" | "S" | undefined;
  readonly swap: boolean;
}

function readHeader(source: ByteSource): NpyHeader {
  const start = source.read(0, Math.min(12, source.size));
  if (start.byteLength < 12 || start[0] !== 0x93 || new TextDecoder("latin1").decode(start.subarray(1, 6)) !== "NUMPY")
    throw malformed(source, 0, "it does not begin with the NumPy signature");
  const version = start[6]!;
  if (version < 1 || version > 3) throw malformed(source, 6, `format version ${version}; 1 to 3 are read`);
  const v = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const length = version === 1 ? v.getUint16(8, true) : v.getUint32(8, true);
  const at = version === 1 ? 10 : 12;
  if (length > LIMITS.npyHeader)
    throw new QcError({ code: "io/limit", file: source.label, limit: "npyHeader", most: LIMITS.npyHeader, got: length, at: "the header" });
  const text = new TextDecoder(version === 3 ? "utf-8" : "latin1").decode(source.read(at, length));
  const descr = /['"]descr['"]\s*:\s*(?:['"]([^'"]*)['"]|(\[))/.exec(text);
  const fortran = /['"]fortran_order['"]\s*:\s*(True|False)/.exec(text);
  const shape = /['"]shape['"]\s*:\s*\(([^)]*)\)/.exec(text);
  if (descr === null || fortran === null || shape === null) throw malformed(source, at, "the header lacks descr, fortran_order or shape");
  const bad = (d: string, why: string) => new QcError({ code: "io/npy-type", file: source.label, descr: d, why });
  if (descr[2] !== undefined) throw bad("(structured)", "records are not tensors");
  const dims = shape[1]!
    .split(",")
    .map((s) => s.trim())
    .filter((s) => s !== "");
  if (!dims.every((s) => /^\d{1,15}L?$/.test(s))) throw malformed(source, at, `shape (${shape[1]})`);
  if (dims.length > LIMITS.rank)
    throw new QcError({ code: "io/limit", file: source.label, limit: "rank", most: LIMITS.rank, got: dims.length, at: "the shape" });
  const sizes = dims.map((s) => Number.parseInt(s, 10));
  if (!Number.isSafeInteger(sizes.reduce((a, b) => a * Math.max(b, 1), 1)))
    throw malformed(source, at, "the shape has more than 2^53 items");
  const common = { shape: sizes, fortran: fortran[1] === "True", offset: at + length };
  const m = /^([<>|=])([a-zA-Z])(\d+)$/.exec(descr[1]!);
  if (descr[1] === "|O" || m?.[2] === "O") throw bad(descr[1]!, "pickled objects are refused: unpickling runs code");
  if (m === null) throw bad(descr[1]!, "it is not read");
  const swap = m[1] === ">";
  if (m[2] === "U" || m[2] === "S") {
    const itemBytes = Number(m[3]) * (m[2] === "U" ? 4 : 1);
    if (itemBytes === 0 && elementCount(sizes) > 0) throw bad(descr[1]!, "its items are empty");
    return { ...common, dtype: "string", itemBytes, perItem: 1, ctor: undefined, text: m[2], swap };
  }
  const row = TYPES[`${m[2]}${m[3]}`];
  if (row === undefined) throw bad(descr[1]!, m[2] === "V" ? "raw bytes have no number type" : "it has no ONNX counterpart");
  const [dtype, ctor, perItem] = row;
  return { ...common, dtype, itemBytes: ctor.BYTES_PER_ELEMENT * perItem, perItem, ctor, text: undefined, swap };
}

function decodeItems(bytes: Uint8Array, h: NpyHeader): NdData {
  if (h.ctor === undefined) return decodeText(bytes, h);
  const width = h.ctor.BYTES_PER_ELEMENT;
  // A view of someone else's buffer stays a view when it is aligned; only swapping needs a copy of its own. A Buffer's slice would not be one.
  const b = bytes.byteOffset % width !== 0 || (h.swap && width > 1) ? new Uint8Array(bytes) : bytes;
  if (h.swap && width > 1) swapBytes(b, width);
  return new h.ctor(b.buffer, b.byteOffset, b.byteLength / width);
}

function swapBytes(b: Uint8Array, width: number): void {
  for (let i = 0; i < b.length; i += width) b.subarray(i, i + width).reverse();
}

function decodeText(bytes: Uint8Array, h: NpyHeader): string[] {
  const out: string[] = [];
  const v = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.byteLength; at += h.itemBytes) {
    if (h.text === "U") {
      let s = "";
      for (let i = 0; i < h.itemBytes; i += 4) {
        const code = v.getUint32(at + i, !h.swap);
        if (code !== 0) s += code > 0x10ffff ? "\ufffd" : String.fromCodePoint(code);
      }
      out.push(s);
    } else {
      let end = at + h.itemBytes;
      while (end > at && bytes[end - 1] === 0) end--;
      out.push(new TextDecoder().decode(bytes.subarray(at, end)));
    }
  }
  return out;
}

/** Fortran order → C order: item (i0, …, ik) stands at Σ i_j · Π_{l<j} shape_l in the former. */
function toC(a: NdArray, h: NpyHeader): NdArray {
  const rank = a.shape.length;
  const stride = new Array<number>(rank);
  let s = 1;
  for (let j = 0; j < rank; j++) {
    stride[j] = s;
    s *= a.shape[j]!;
  }
  const out = a.data.slice();
  const index = new Array<number>(rank).fill(0);
  const n = elementCount(a.shape);
  let from = 0;
  for (let to = 0; to < n; to++) {
    for (let k = 0; k < h.perItem; k++) out[to * h.perItem + k] = a.data[from * h.perItem + k]!;
    for (let j = rank - 1; j >= 0; j--) {
      from += stride[j]!;
      if (++index[j]! < a.shape[j]!) break;
      from -= stride[j]! * a.shape[j]!;
      index[j] = 0;
    }
  }
  return { dtype: a.dtype, shape: a.shape, data: out };
}

const DESCR: Partial<Record<DType, string>> = Object.fromEntries(
  Object.entries(TYPES).map(([code, [dtype, ctor]]) => [dtype, `${ctor.BYTES_PER_ELEMENT === 1 ? "|" : "<"}${code}`]),
);

/** The `.npy` file of an array, format 1.0 (2.0 when the header is long), as `numpy.save` writes it. Strings become `<U`. */
export function writeNpy(a: NdArray): Uint8Array {
  const { descr, body } = encode(a);
  const count = elementCount(a.shape);
  const perItem = DTYPES[a.dtype].kind === "complex" ? 2 : 1;
  if (a.data.length !== count * perItem)
    throw new RangeError(`internal: ${a.data.length} elements for shape [${a.shape.join(", ")}] of ${a.dtype}`);
  const shape = a.shape.length === 1 ? `(${a.shape[0]},)` : `(${a.shape.join(", ")})`;
  const dict = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${shape}, }`;
  const two = dict.length + 80 > 0xffff;
  const prefix = two ? 12 : 10;
  const total = Math.ceil((prefix + dict.length + 1) / 64) * 64;
  const out = new Uint8Array(total + body.byteLength);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, two ? 2 : 1, 0]);
  const v = new DataView(out.buffer);
  if (two) v.setUint32(8, total - prefix, true);
  else v.setUint16(8, total - prefix, true);
  out.set(new TextEncoder().encode(`${dict.padEnd(total - prefix - 1)}\n`), prefix);
  out.set(body, total);
  return out;
}

function encode(a: NdArray): { descr: string; body: Uint8Array } {
  if (!Array.isArray(a.data)) {
    const descr = DESCR[a.dtype];
    if (descr === undefined) throw new TypeError(`internal: NumPy has no type for ${a.dtype}`);
    return { descr, body: new Uint8Array(a.data.buffer, a.data.byteOffset, a.data.byteLength) };
  }
  const points = a.data.map((s) => [...s].map((c) => c.codePointAt(0)!));
  const width = Math.max(1, ...points.map((p) => p.length));
  const out = new Uint32Array(points.length * width);
  points.forEach((p, i) => {
    out.set(p, i * width);
  });
  return { descr: `<U${width}`, body: new Uint8Array(out.buffer) };
}

function malformed(source: ByteSource, offset: number, detail: string): QcError {
  return new QcError({ code: "io/malformed", file: source.label, at: "the NumPy array", offset, detail });
}
