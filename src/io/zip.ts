import { constants, inflateRaw, inflateRawSync } from "node:zlib";
import { deflateSync, Inflate } from "fflate";
import { QcError } from "../diagnostics.ts";
import { crc32 } from "./crc.ts";
import { LIMITS, type Limit } from "./limits.ts";
import type { ByteSource } from "./source.ts";

/**
 * One file inside a zip, read without unpacking the others. `read` of a stored entry goes straight to the source. A deflated entry is
 * unpacked once and kept; beyond `LIMITS.inflateWhole` it is read forward in pieces, and reading backward starts over.
 */
export interface ZipEntry extends ByteSource {
  readonly name: string;
  readonly packedSize: number;
  readonly stored: boolean;
  /** CRC-32 of the content, from the directory. */
  readonly crc: number;
  /** The whole content, its checksum verified. */
  bytes(): Uint8Array;
  /** Unpacks in the thread pool, so that later reads do not block. */
  prepare(): Promise<void>;
}

const EOCD = 0x06054b50;
const EOCD64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const U16 = 0xffff;
const U32 = 0xffffffff;

/** The entries of a zip by name (stored or deflated, zip64 too). Every size and offset is checked against the source before use. */
export function openZip(source: ByteSource): Map<string, ZipEntry> {
  const { offset, size, count } = findDirectory(source);
  limit(source, "zipDirectory", size, "the directory");
  limit(source, "zipEntries", count, "the directory");
  const bytes = source.read(offset, size);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    const bad = (detail: string) => malformed(source, `zip entry ${i}`, offset + at, detail);
    if (at + 46 > size || view.getUint32(at, true) !== CENTRAL) throw bad("no directory entry");
    const flags = view.getUint16(at + 8, true);
    const method = view.getUint16(at + 10, true);
    const nameLength = view.getUint16(at + 28, true);
    const extraLength = view.getUint16(at + 30, true);
    const next = at + 46 + nameLength + extraLength + view.getUint16(at + 32, true);
    if (next > size) throw bad("the directory ends inside it");
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const sizes = sizesOf(view, at, at + 46 + nameLength, extraLength, bad);
    if (flags & 1) throw bad(`"${name}" is encrypted`);
    if (method !== 0 && method !== 8) throw bad(`"${name}" uses compression method ${method}; stored (0) and deflated (8) are read`);
    if (method === 0 && sizes.packed !== sizes.size) throw bad(`"${name}" is stored but its sizes differ`);
    if (sizes.packed > source.size || sizes.offset + 30 > source.size) throw bad(`"${name}" lies outside the file`);
    if (sizes.size > sizes.packed * LIMITS.deflateRatio + 64) throw bad(`"${name}" claims ${sizes.size} bytes out of ${sizes.packed}`);
    if (out.has(name)) throw bad(`"${name}" is there twice`);
    out.set(name, new Entry(source, name, method === 0, sizes, view.getUint32(at + 16, true)));
    at = next;
  }
  return out;
}

interface Sizes {
  readonly size: number;
  readonly packed: number;
  readonly offset: number;
}

function sizesOf(view: DataView, at: number, extra: number, extraLength: number, bad: (d: string) => QcError): Sizes {
  let packed = view.getUint32(at + 20, true);
  let size = view.getUint32(at + 24, true);
  let offset = view.getUint32(at + 42, true);
  for (let e = extra; e + 4 <= extra + extraLength; ) {
    const length = view.getUint16(e + 2, true);
    const end = e + 4 + length;
    if (end > extra + extraLength) throw bad("an extra field runs over its end");
    if (view.getUint16(e, true) === 1) {
      let p = e + 4;
      const big = (): number => {
        if (p + 8 > end) throw bad("the zip64 field is too short");
        const n = Number(view.getBigUint64(p, true));
        p += 8;
        return n;
      };
      if (size === U32) size = big();
      if (packed === U32) packed = big();
      if (offset === U32) offset = big();
    }
    e = end;
  }
  return { size, packed, offset };
}

function findDirectory(source: ByteSource): { offset: number; size: number; count: number } {
  const tail = Math.min(source.size, 22 + U16);
  const bytes = source.read(source.size - tail, tail);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = tail - 22;
  while (at >= 0 && view.getUint32(at, true) !== EOCD) at--;
  if (at < 0) throw malformed(source, "the end", source.size, "no zip directory; the file is truncated or no zip at all");
  let count = view.getUint16(at + 10, true);
  let size = view.getUint32(at + 12, true);
  let offset = view.getUint32(at + 16, true);
  const end = source.size - tail + at;
  if ((count === U16 || size === U32 || offset === U32) && at >= 20 && view.getUint32(at - 20, true) === LOCATOR64) {
    const where = Number(view.getBigUint64(at - 12, true));
    if (where + 56 > source.size) throw malformed(source, "the zip64 locator", end - 20, "it points outside the file");
    const b = source.read(where, 56);
    const v = new DataView(b.buffer, b.byteOffset, b.byteLength);
    if (v.getUint32(0, true) !== EOCD64) throw malformed(source, "the zip64 locator", end - 20, "no directory record there");
    count = Number(v.getBigUint64(32, true));
    size = Number(v.getBigUint64(40, true));
    offset = Number(v.getBigUint64(48, true));
  }
  if (offset + size > end) throw malformed(source, "the zip directory", end, `it should lie at byte ${offset}, ${size} long`);
  if (count * 46 > size) throw malformed(source, "the zip directory", end, `${count} entries do not fit into ${size} bytes`);
  return { offset, size, count };
}

const HEAD = 4096;

class Entry implements ZipEntry {
  readonly name: string;
  readonly label: string;
  readonly size: number;
  readonly packedSize: number;
  readonly stored: boolean;
  readonly #source: ByteSource;
  readonly #offset: number;
  readonly crc: number;
  #data: number | undefined;
  #whole: Uint8Array | undefined;
  #head: Uint8Array | undefined;
  #cursor: Cursor | undefined;

  constructor(source: ByteSource, name: string, stored: boolean, sizes: Sizes, crc: number) {
    this.#source = source;
    this.name = name;
    this.label = `${source.label}:${name}`;
    this.stored = stored;
    this.size = sizes.size;
    this.packedSize = sizes.packed;
    this.#offset = sizes.offset;
    this.crc = crc;
  }

  read(offset: number, length: number): Uint8Array {
    if (offset < 0 || length < 0 || offset + length > this.size)
      throw malformed(this, "the end", this.size, `${length} bytes wanted from byte ${offset}, the entry has ${this.size}`);
    if (this.stored) return this.#source.read(this.#start() + offset, length);
    if (this.size > LIMITS.inflateWhole) {
      if (this.#cursor === undefined || this.#cursor.at > offset)
        this.#cursor = new Cursor(this, this.#source, this.#start(), this.packedSize);
      return this.#cursor.read(offset, length);
    }
    // A header in front is read before anybody knows whether the rest will be wanted.
    if (this.#whole === undefined && offset + length <= HEAD) {
      const head = this.#beginning();
      if (offset + length <= head.byteLength) return head.subarray(offset, offset + length);
    }
    return this.bytes().subarray(offset, offset + length);
  }

  /** What the first bytes of compressed data unpack to: at least `HEAD` bytes, or what there is. */
  #beginning(): Uint8Array {
    if (this.#head === undefined) {
      const packed = this.#source.read(this.#start(), Math.min(HEAD, this.packedSize));
      try {
        this.#head = inflateRawSync(packed, { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: HEAD * LIMITS.deflateRatio });
      } catch (e) {
        throw this.#undone(e);
      }
    }
    return this.#head;
  }

  bytes(): Uint8Array {
    if (this.#whole !== undefined) return this.#whole;
    const packed = this.#source.read(this.#start(), this.packedSize);
    if (this.stored) return this.#verified(packed);
    try {
      return this.#keep(inflateRawSync(packed, this.#options()));
    } catch (e) {
      throw this.#undone(e);
    }
  }

  async prepare(): Promise<void> {
    if (this.stored || this.#whole !== undefined || this.size > LIMITS.inflateWhole) return;
    const packed = this.#source.read(this.#start(), this.packedSize);
    const done = await new Promise<Uint8Array>((resolve, reject) =>
      inflateRaw(packed, this.#options(), (e, b) => (e ? reject(this.#undone(e)) : resolve(b))),
    );
    this.#keep(done);
  }

  /** One buffer of the promised size, and not a byte more. */
  #options(): { readonly maxOutputLength: number; readonly chunkSize: number } {
    return { maxOutputLength: Math.max(1, this.size), chunkSize: Math.max(64, this.size) };
  }

  #keep(b: Uint8Array): Uint8Array {
    this.#whole = this.#verified(new Uint8Array(b.buffer, b.byteOffset, b.byteLength));
    this.#head = undefined;
    return this.#whole;
  }

  #undone(e: unknown): QcError {
    if (e instanceof QcError) return e;
    return malformed(this, "its compressed data", this.#offset, (e as Error).message, e);
  }

  #verified(b: Uint8Array): Uint8Array {
    if (b.byteLength !== this.size) throw malformed(this, "its end", this.#offset, `${b.byteLength} bytes instead of ${this.size}`);
    if (crc32(b) !== this.crc) throw malformed(this, "its content", this.#offset, "the checksum differs");
    return b;
  }

  /** Where the data begins: the local header has name and extra field once more, and their lengths may differ. */
  #start(): number {
    if (this.#data !== undefined) return this.#data;
    const b = this.#source.read(this.#offset, 30);
    const v = new DataView(b.buffer, b.byteOffset, 30);
    if (v.getUint32(0, true) !== LOCAL) throw malformed(this, "its header", this.#offset, "no local header there");
    const start = this.#offset + 30 + v.getUint16(26, true) + v.getUint16(28, true);
    if (start + this.packedSize > this.#source.size) throw malformed(this, "its data", start, "it runs over the end of the file");
    this.#data = start;
    return start;
  }
}

const PIECE = 1 << 18;

/** Forward reading of a deflated entry that is too big to hold: memory is one piece of input, its output, and the bytes asked for. */
class Cursor {
  /** Content offset of the first byte in `#ready`. */
  at = 0;
  readonly #entry: Entry;
  readonly #source: ByteSource;
  readonly #inflate: Inflate;
  readonly #end: number;
  #next: number;
  #ready: Uint8Array[] = [];
  #length = 0;

  constructor(entry: Entry, source: ByteSource, start: number, packed: number) {
    this.#entry = entry;
    this.#source = source;
    this.#next = start;
    this.#end = start + packed;
    this.#inflate = new Inflate((chunk) => {
      this.#ready.push(chunk);
      this.#length += chunk.byteLength;
    });
  }

  read(offset: number, length: number): Uint8Array {
    this.#drop(offset - this.at);
    while (this.#length < length) {
      this.#pull();
      this.#drop(offset - this.at);
    }
    const out = new Uint8Array(length);
    let done = 0;
    for (const piece of this.#ready) {
      if (done === length) break;
      const part = piece.subarray(0, length - done);
      out.set(part, done);
      done += part.byteLength;
    }
    return out;
  }

  #drop(count: number): void {
    while (count > 0 && this.#ready.length > 0) {
      const first = this.#ready[0]!;
      const n = Math.min(count, first.byteLength);
      if (n === first.byteLength) this.#ready.shift();
      else this.#ready[0] = first.subarray(n);
      count -= n;
      this.at += n;
      this.#length -= n;
    }
  }

  #pull(): void {
    if (this.#next >= this.#end) throw malformed(this.#entry, "its compressed data", this.#end, "it ends early");
    const n = Math.min(PIECE, this.#end - this.#next);
    try {
      this.#inflate.push(this.#source.read(this.#next, n), this.#next + n === this.#end);
    } catch (e) {
      throw malformed(this.#entry, "its compressed data", this.#next, (e as Error).message, e);
    }
    this.#next += n;
  }
}

export interface ZipInput {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/**
 * A zip with the entries in the given order, as pieces to be written one after the other. Equal entries give equal bytes: no times, and a
 * deflate that is the same on every machine.
 */
export function writeZip(entries: readonly ZipInput[], options: { readonly deflate?: boolean } = {}): Uint8Array[] {
  const out: Uint8Array[] = [];
  const central: Uint8Array[] = [];
  let at = 0;
  const push = (b: Uint8Array) => {
    out.push(b);
    at += b.byteLength;
  };
  for (const e of entries) {
    const name = new TextEncoder().encode(e.name);
    const crc = crc32(e.bytes);
    const packed = options.deflate ? deflateSync(e.bytes, { level: 6 }) : e.bytes;
    const stored = !options.deflate || packed.byteLength >= e.bytes.byteLength;
    const data = stored ? e.bytes : packed;
    const h = { name, crc, size: e.bytes.byteLength, packed: data.byteLength, offset: at, method: stored ? 0 : 8 };
    push(header(h, false));
    push(data);
    central.push(header(h, true));
  }
  const start = at;
  for (const c of central) push(c);
  const size = at - start;
  if (entries.length >= U16 || start >= U32 || size >= U32) push(end64(entries.length, size, start, at));
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, EOCD, true);
  end.setUint16(8, Math.min(entries.length, U16), true);
  end.setUint16(10, Math.min(entries.length, U16), true);
  end.setUint32(12, Math.min(size, U32), true);
  end.setUint32(16, Math.min(start, U32), true);
  push(new Uint8Array(end.buffer));
  return out;
}

interface Header {
  readonly name: Uint8Array;
  readonly crc: number;
  readonly size: number;
  readonly packed: number;
  readonly offset: number;
  readonly method: number;
}

/** Local header, or directory entry. Sizes of 4 GiB and more move into the zip64 field. */
function header(h: Header, central: boolean): Uint8Array {
  const big = h.size >= U32 || h.packed >= U32 || (central && h.offset >= U32);
  const extra = big ? 4 + 16 + (central ? 8 : 0) : 0;
  const fixed = central ? 46 : 30;
  const out = new Uint8Array(fixed + h.name.byteLength + extra);
  const v = new DataView(out.buffer);
  let p = 0;
  const u16 = (x: number) => {
    v.setUint16(p, x, true);
    p += 2;
  };
  const u32 = (x: number) => {
    v.setUint32(p, x, true);
    p += 4;
  };
  u32(central ? CENTRAL : LOCAL);
  if (central) u16(45);
  u16(big ? 45 : 20);
  u16(0x0800); // names are UTF-8
  u16(h.method);
  u16(0);
  u16(0x0021); // 1980-01-01
  u32(h.crc);
  u32(big ? U32 : h.packed);
  u32(big ? U32 : h.size);
  u16(h.name.byteLength);
  u16(extra);
  if (central) {
    p += 10; // comment length, disk, attributes: all zero
    u32(big ? U32 : h.offset);
  }
  out.set(h.name, p);
  p += h.name.byteLength;
  if (big) {
    u16(1);
    u16(extra - 4);
    for (const x of central ? [h.size, h.packed, h.offset] : [h.size, h.packed]) {
      v.setBigUint64(p, BigInt(x), true);
      p += 8;
    }
  }
  return out;
}

function end64(count: number, size: number, start: number, at: number): Uint8Array {
  const v = new DataView(new ArrayBuffer(56 + 20));
  v.setUint32(0, EOCD64, true);
  v.setBigUint64(4, 44n, true);
  v.setUint16(12, 45, true);
  v.setUint16(14, 45, true);
  v.setBigUint64(24, BigInt(count), true);
  v.setBigUint64(32, BigInt(count), true);
  v.setBigUint64(40, BigInt(size), true);
  v.setBigUint64(48, BigInt(start), true);
  v.setUint32(56, LOCATOR64, true);
  v.setBigUint64(64, BigInt(at), true);
  v.setUint32(72, 1, true);
  return new Uint8Array(v.buffer);
}

function malformed(source: ByteSource, at: string, offset: number, detail: string, cause?: unknown): QcError {
  return new QcError({ code: "io/malformed", file: source.label, at, offset, detail }, cause === undefined ? undefined : { cause });
}

function limit(source: ByteSource, name: Limit, got: number, at: string): void {
  if (got > LIMITS[name]) throw new QcError({ code: "io/limit", file: source.label, limit: name, most: LIMITS[name], got, at });
}
