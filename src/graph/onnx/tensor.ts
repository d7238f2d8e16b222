import { QcError } from "../../diagnostics.ts";
import { byteCount, DTYPES, type DType, dtypeOf } from "../../quant/dtype.ts";
import type { TensorData, TensorExtras } from "../tensor.ts";
import { type ExternalUse, external, type OpenExternal } from "./external.ts";
import { BYTES, type Place, VARINT, type Wire } from "./wire.ts";

/** What tensors of one file share. */
export interface TensorContext {
  readonly place: Place;
  /** undefined: the model came as bytes without a folder; reading such a tensor fails, all else works. */
  readonly open: OpenExternal | undefined;
  readonly external: ExternalUse[];
}

export type Entry = readonly [string, string];

/** StringStringEntryProto. */
export function readEntry(w: Wire): Entry {
  w.place.piece();
  let key = "";
  let value = "";
  while (w.next()) {
    if (w.field === 1) key = w.text();
    else if (w.field === 2) value = w.text();
    else throw w.bad(`field ${w.field} in a key and value`);
  }
  return [key, value];
}

/** Fields of TensorProto that hold elements one by one. */
const FLOAT_DATA = 4;
const INT32_DATA = 5;
const STRING_DATA = 6;
const INT64_DATA = 7;
const RAW_DATA = 9;
const DOUBLE_DATA = 10;
const UINT64_DATA = 11;

/**
 * The typed field in which onnx.proto stores a type, and how many entries `count` elements take. Sub-byte types fill the entries of
 * int32_data a byte at a time (two 4-bit or four 2-bit elements each).
 */
function typedField(dtype: DType, count: number): { readonly field: number; readonly entries: number; readonly width: number } {
  switch (dtype) {
    case "float32":
      return { field: FLOAT_DATA, entries: count, width: 4 };
    case "complex64":
      return { field: FLOAT_DATA, entries: 2 * count, width: 4 };
    case "float64":
      return { field: DOUBLE_DATA, entries: count, width: 8 };
    case "complex128":
      return { field: DOUBLE_DATA, entries: 2 * count, width: 8 };
    case "int64":
      return { field: INT64_DATA, entries: count, width: 8 };
    case "uint64":
      return { field: UINT64_DATA, entries: count, width: 8 };
    case "uint32":
      return { field: UINT64_DATA, entries: count, width: 4 };
    case "string":
      return { field: STRING_DATA, entries: count, width: 0 };
    default: {
      const width = Math.max(1, DTYPES[dtype].bits / 8);
      return { field: INT32_DATA, entries: byteCount(dtype, count) / width, width };
    }
  }
}

/** The number of elements, after checking each dimension; a hostile shape must not wrap around. */
export function countOf(w: Wire, shape: readonly (number | bigint)[]): number {
  w.place.limit("rank", shape.length);
  let n = 1;
  let zero = false;
  for (const d of shape) {
    if (typeof d === "bigint" || d < 0) throw w.bad(`dimension ${d}`);
    if (d === 0) zero = true;
    else n *= d;
    if (n > Number.MAX_SAFE_INTEGER) throw w.bad(`shape [${shape.join(", ")}] has more than 2^53 elements`);
  }
  return zero ? 0 : n;
}

/** `keepName`: the name is the tensor's own (attributes), not that of a value. */
export function readTensor(w: Wire, ctx: TensorContext, keepName = false): { readonly name: string; readonly data: TensorData } {
  w.place.piece();
  const dims: (number | bigint)[] = [];
  let code = 0;
  let name = "";
  let doc: string | undefined;
  let raw: Uint8Array | undefined;
  let typed = 0;
  let entries = 0;
  let isExternal = false;
  let parts = 0;
  let packed: Uint8Array | undefined;
  const where: Entry[] = [];
  const metadata: Entry[] = [];
  const unknown: Uint8Array[] = [];
  const depth = w.place.path.length;
  w.place.path.push("tensor");
  while (w.next()) {
    switch (w.field) {
      case 1:
        w.ints(dims);
        w.place.limit("rank", dims.length);
        break;
      case 2:
        code = w.int32();
        break;
      case 3:
        throw w.bad("a tensor in segments");
      case 8:
        name = w.text();
        w.place.path[depth] = `tensor "${name}"`;
        break;
      case 12:
        doc = w.text();
        break;
      case RAW_DATA:
        raw = w.bytes();
        break;
      case 13:
        where.push(readEntry(w.message()));
        break;
      case 14: {
        const at = w.int32();
        if (at !== 0 && at !== 1) throw w.bad(`data location ${at}`);
        isExternal = at === 1;
        break;
      }
      case 16:
        metadata.push(readEntry(w.message()));
        break;
      case FLOAT_DATA:
      case INT32_DATA:
      case STRING_DATA:
      case INT64_DATA:
      case DOUBLE_DATA:
      case UINT64_DATA: {
        if (typed !== 0 && typed !== w.field) {
          if (entries > 0) throw w.bad("elements in two fields");
          parts = 0;
        }
        typed = w.field;
        parts++;
        if (w.field === STRING_DATA || w.type !== BYTES) {
          w.skip();
          entries++;
        } else {
          packed = w.bytes();
          entries += countPacked(w, packed, typed);
        }
        break;
      }
      default:
        unknown.push(w.raw());
    }
  }
  const dtype = dtypeOf(code);
  if (dtype === undefined)
    throw new QcError({
      code: "graph/unsupported-type",
      at: w.place.toString(),
      what: code === 0 ? "A tensor without type" : `Element type ${code}`,
    });
  const count = countOf(w, dims);
  const shape = dims as number[];
  const extras = extrasOf(keepName ? name : "", doc, metadata, unknown);
  const byteLength = byteCount(dtype, count);
  if (!Number.isSafeInteger(byteLength)) throw w.bad(`shape [${shape.join(", ")}] has more than 2^53 bytes`);
  const make = (rest: Pick<TensorData, "bytes"> & Partial<TensorData>): TensorData => ({
    dtype,
    shape,
    byteLength,
    ...rest,
    ...(extras && { extras }),
  });
  const finish = (data: TensorData) => {
    w.place.path.length = depth;
    return { name, data };
  };

  if (isExternal) return finish(make(external(w, where, name, dtype, byteLength, ctx)));
  if (dtype === "string") {
    if (raw !== undefined && raw.length > 0) throw w.bad("strings in raw_data");
    if ((typed !== 0 && typed !== STRING_DATA && entries > 0) || entries !== count)
      throw w.bad(`${entries} strings where the shape has ${count}`);
    return finish(make({ bytes: noBytes, strings: lazy(() => readStrings(w)) }));
  }
  if (raw !== undefined && (raw.length > 0 || entries === 0)) {
    if (raw.length !== byteLength) throw w.bad(`raw_data has ${raw.length} bytes, ${dtype}[${shape.join(", ")}] needs ${byteLength}`);
    if (entries > 0) throw w.bad("elements in two fields");
    const bytes = raw;
    return finish(make({ bytes: () => bytes }));
  }
  const want = typedField(dtype, count);
  if (entries > 0 && typed !== want.field) throw w.bad(`elements of ${dtype} in field ${typed}`);
  if (entries !== want.entries) throw w.bad(`${entries} elements, ${dtype}[${shape.join(", ")}] needs ${want.entries}`);
  // One packed run of fixed width is the raw layout already.
  if (packed !== undefined && parts === 1 && (typed === FLOAT_DATA || typed === DOUBLE_DATA)) {
    const bytes = packed;
    return finish(make({ bytes: () => bytes }));
  }
  return finish(make({ bytes: lazy(() => readTyped(w, typed, want.width, byteLength)) }));
}

function extrasOf(
  name: string,
  doc: string | undefined,
  metadata: readonly Entry[],
  unknown: readonly Uint8Array[],
): TensorExtras | undefined {
  if (name === "" && doc === undefined && metadata.length === 0 && unknown.length === 0) return undefined;
  return {
    ...(name !== "" && { name }),
    ...(doc !== undefined && { doc }),
    ...(metadata.length > 0 && { metadata }),
    ...(unknown.length > 0 && { unknown }),
  };
}

function noBytes(): Uint8Array {
  throw new TypeError("internal: bytes() of a string tensor");
}

export function lazy<T>(make: () => T): () => T {
  let value: T | undefined;
  return () => (value ??= make());
}

function countPacked(w: Wire, b: Uint8Array, field: number): number {
  if (field === FLOAT_DATA || field === DOUBLE_DATA) {
    const width = field === FLOAT_DATA ? 4 : 8;
    if (b.length % width !== 0) throw w.bad(`packed numbers of ${b.length} bytes, no multiple of ${width}`);
    return b.length / width;
  }
  // A varint ends at a byte below 128 and has at most 10 bytes.
  let n = 0;
  let run = 0;
  for (let i = 0; i < b.length; i++) {
    run++;
    if (b[i]! < 128) {
      n++;
      run = 0;
    } else if (run === 10) throw w.bad("a number of more than 10 bytes");
  }
  if (run > 0) throw w.bad("packed numbers that end inside one");
  return n;
}

/** Scans the message again for the strings: only their positions cost memory before. */
function readStrings(w: Wire): Uint8Array[] {
  const again = new (w.constructor as typeof Wire)(w.buf, w.start, w.end, w.place);
  const out: Uint8Array[] = [];
  while (again.next()) {
    if (again.field === STRING_DATA) out.push(again.bytes());
    else again.skip();
  }
  return out;
}

/** Elements of a typed field in raw_data layout: `width` bytes each, little endian, the low bits of the stored number. */
function readTyped(w: Wire, field: number, width: number, byteLength: number): Uint8Array {
  const again = new (w.constructor as typeof Wire)(w.buf, w.start, w.end, w.place);
  const out = new Uint8Array(byteLength);
  const view = new DataView(out.buffer);
  let at = 0;
  const fixed = field === FLOAT_DATA || field === DOUBLE_DATA;
  const put = (x: number | bigint) => {
    if (width === 8) view.setBigInt64(at, BigInt(x), true);
    else {
      const low = typeof x === "bigint" ? Number(BigInt.asIntN(32, x)) : x | 0;
      // `|` takes the low 32 bits of a number modulo 2^32, exact below 2^53.
      if (width === 4) view.setInt32(at, low, true);
      else if (width === 2) view.setInt16(at, low, true);
      else out[at] = low;
    }
    at += width;
  };
  while (again.next()) {
    if (again.field !== field) {
      again.skip();
      continue;
    }
    if (fixed) {
      // Packed: the bytes behind the length. Alone: the bytes behind the tag.
      const from = again.type === BYTES ? undefined : again.pos;
      if (from === undefined) {
        const b = again.bytes();
        out.set(b, at);
        at += b.length;
      } else {
        again.skip();
        if (again.pos - from !== width) throw again.bad(`an element of ${again.pos - from} bytes, want ${width}`);
        out.set(again.buf.subarray(from, again.pos), at);
        at += width;
      }
    } else if (again.type === BYTES) {
      const m = again.message();
      while (m.pos < m.end) put(m.varint());
    } else if (again.type === VARINT) put(again.varint());
    else throw again.bad(`an element with wire type ${again.type}`);
  }
  return out;
}
