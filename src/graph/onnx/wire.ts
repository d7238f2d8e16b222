import { QcError } from "../../diagnostics.ts";
import { LIMITS, type Limit } from "../../io/limits.ts";

/** Protobuf wire types. */
export const VARINT = 0;
export const FIXED64 = 1;
export const BYTES = 2;
export const FIXED32 = 5;

/** The file that is read and the place in it, for messages; shared by all readers of one file. */
export class Place {
  readonly file: string;
  readonly path: string[] = [];
  #pieces = 0;
  #numbers = 0;
  #strings = 0;
  readonly #mostPieces: number;
  readonly #mostNumbers: number;
  /** `bytes`: of the whole file, which memory stays in proportion to. */
  constructor(file: string, bytes: number) {
    this.file = file;
    this.#mostPieces = Math.max(LIMITS.pieces, bytes / LIMITS.bytesPerPiece);
    this.#mostNumbers = Math.max(LIMITS.numbers, bytes / LIMITS.bytesPerNumber);
  }
  toString(): string {
    return this.path.length === 0 ? "the model" : this.path.join(" > ");
  }
  malformed(offset: number, detail: string): QcError {
    return new QcError({ code: "io/malformed", file: this.file, at: this.toString(), offset, detail });
  }
  limit(limit: Limit, got: number, most: number = LIMITS[limit]): void {
    if (got > most) throw new QcError({ code: "io/limit", file: this.file, limit, most: Math.floor(most), got, at: this.toString() });
  }
  /** Counts a small thing that is kept. */
  piece(): void {
    if (++this.#pieces > this.#mostPieces) this.limit("pieces", this.#pieces, this.#mostPieces);
  }
  /** Counts a string of an attribute. */
  string(): void {
    this.limit("strings", ++this.#strings);
  }
  /** Counts numbers that are about to be kept. */
  numbers(n: number): void {
    this.#numbers += n;
    this.limit("numbers", this.#numbers, this.#mostNumbers);
  }
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Reads one protobuf message in place: a window of a buffer. Every length is checked against the window before use, so no read leaves
 * it and nothing is allocated on the word of a length field.
 */
export class Wire {
  readonly buf: Uint8Array;
  readonly place: Place;
  readonly start: number;
  readonly end: number;
  pos: number;
  /** Of the field whose tag `next` has read. */
  field = 0;
  type = 0;
  #tagAt = 0;

  constructor(buf: Uint8Array, start: number, end: number, place: Place) {
    this.buf = buf;
    this.start = start;
    this.end = end;
    this.pos = start;
    this.place = place;
  }

  /** Reads the next tag; false at the end of the message. */
  next(): boolean {
    if (this.pos >= this.end) return false;
    this.#tagAt = this.pos;
    const tag = this.size();
    this.field = Math.floor(tag / 8);
    this.type = tag & 7;
    if (this.field === 0) throw this.bad("field number 0");
    return true;
  }

  bad(detail: string): QcError {
    return this.place.malformed(this.pos, detail);
  }

  /** A varint that must be a safe non-negative number below 2^35: tags and lengths. */
  size(): number {
    const { buf, end } = this;
    let x = 0;
    let scale = 1;
    for (let i = 0; i < 5; i++) {
      if (this.pos >= end) throw this.bad("the message ends inside a number");
      const b = buf[this.pos++]!;
      x += (b & 127) * scale;
      if (b < 128) return x;
      scale *= 128;
    }
    throw this.bad("a tag or length of more than 5 bytes");
  }

  /** int64 or int32 (two's complement, 10 bytes when negative): a bigint only when it is no safe integer. */
  int(): number | bigint {
    if (this.type !== VARINT) throw this.bad(`field ${this.field} has wire type ${this.type}, want a number`);
    return this.varint();
  }

  varint(): number | bigint {
    const { buf, end } = this;
    let x = 0;
    let scale = 1;
    const from = this.pos;
    for (let i = 0; i < 7; i++) {
      if (this.pos >= end) throw this.bad("the message ends inside a number");
      const b = buf[this.pos++]!;
      x += (b & 127) * scale;
      if (b < 128) return x;
      scale *= 128;
    }
    this.pos = from;
    const n = BigInt.asIntN(64, this.big());
    return n >= MIN_SAFE && n <= MAX_SAFE ? Number(n) : n;
  }

  /** A varint as 64 unsigned bits. */
  big(): bigint {
    let lo = 0; // bits 0..34
    let hi = 0; // bits 35..69
    for (let i = 0; i < 10; i++) {
      if (this.pos >= this.end) throw this.bad("the message ends inside a number");
      const b = this.buf[this.pos++]!;
      if (i < 5) lo += (b & 127) * 2 ** (7 * i);
      else hi += (b & 127) * 2 ** (7 * (i - 5));
      if (b < 128) return BigInt.asUintN(64, (BigInt(hi) << 35n) | BigInt(lo));
    }
    throw this.bad("a number of more than 10 bytes");
  }

  /** The low 32 bits of a varint, signed. */
  int32(): number {
    const n = this.int();
    return typeof n === "bigint" ? Number(BigInt.asIntN(32, n)) : n | 0;
  }

  safe(what: string): number {
    const n = this.int();
    if (typeof n === "bigint") throw this.bad(`${what} ${n} is beyond 2^53`);
    return n;
  }

  float(): number {
    if (this.type !== FIXED32) throw this.bad(`field ${this.field} has wire type ${this.type}, want 32 bits`);
    return this.fixed32();
  }

  fixed32(): number {
    if (this.end - this.pos < 4) throw this.bad("the message ends inside a float");
    const b = this.buf;
    const at = this.pos;
    bits.setUint32(0, (b[at]! | (b[at + 1]! << 8) | (b[at + 2]! << 16) | (b[at + 3]! << 24)) >>> 0);
    this.pos += 4;
    return bits.getFloat32(0);
  }

  /** Enters a length-delimited field: its window, the position behind it. */
  #span(): number {
    if (this.type !== BYTES) throw this.bad(`field ${this.field} has wire type ${this.type}, want bytes`);
    const n = this.size();
    if (n > this.end - this.pos) throw this.bad(`a length of ${n} bytes where ${this.end - this.pos} are left`);
    return this.pos + n;
  }

  bytes(): Uint8Array {
    const end = this.#span();
    const out = this.buf.subarray(this.pos, end);
    this.pos = end;
    return out;
  }

  message(): Wire {
    const end = this.#span();
    const w = new Wire(this.buf, this.pos, end, this.place);
    this.pos = end;
    return w;
  }

  /** Text that names something: must be valid UTF-8, since a repaired name is another name. */
  text(): string {
    const end = this.#span();
    const { buf } = this;
    const from = this.pos;
    // Most names are short ASCII: this is several times faster than a decoder.
    if (end - from < 48) {
      let s = "";
      let i = from;
      for (; i < end; i++) {
        const b = buf[i]!;
        if (b >= 128) break;
        s += ASCII[b];
      }
      if (i === end) {
        this.pos = end;
        return s;
      }
    }
    try {
      const s = strict.decode(buf.subarray(from, end));
      this.pos = end;
      return s;
    } catch {
      throw this.bad("text that is not valid UTF-8");
    }
  }

  /** Repeated numbers, packed or one by one. */
  ints(into: (number | bigint)[]): void {
    if (this.type === BYTES) {
      const w = this.message();
      // Each number ends at a byte below 128. The list gets its size at once: growing it would take twice the memory.
      let count = 0;
      for (let i = w.pos; i < w.end; i++) if (w.buf[i]! < 128) count++;
      this.place.numbers(count);
      let at = into.length;
      into.length += count;
      while (w.pos < w.end) into[at++] = w.varint();
    } else {
      this.place.numbers(1);
      into.push(this.int());
    }
  }

  floats(into: number[]): void {
    if (this.type === BYTES) {
      const w = this.message();
      const count = (w.end - w.pos) / 4;
      if (!Number.isInteger(count)) throw w.bad("packed floats that are no multiple of 4 bytes");
      this.place.numbers(count);
      let at = into.length;
      into.length += count;
      while (w.pos < w.end) into[at++] = w.fixed32();
    } else {
      this.place.numbers(1);
      into.push(this.float());
    }
  }

  /** Skips the field and returns it with its tag, to be written back as it is. */
  raw(): Uint8Array {
    this.place.piece();
    this.skip();
    return this.buf.subarray(this.#tagAt, this.pos);
  }

  skip(): void {
    if (this.type === VARINT) this.big();
    else if (this.type === FIXED64) this.#advance(8);
    else if (this.type === FIXED32) this.#advance(4);
    else if (this.type === BYTES) this.pos = this.#span();
    else if (this.type === 3) this.#skipGroup();
    else throw this.bad(`wire type ${this.type}`);
  }

  #advance(n: number): void {
    if (this.end - this.pos < n) throw this.bad("the message ends inside a number");
    this.pos += n;
  }

  #skipGroup(): void {
    const { field } = this;
    const at = this.#tagAt;
    const open = [field];
    while (open.length > 0) {
      this.place.limit("groupDepth", open.length);
      if (!this.next()) throw this.bad("a group without end");
      if (this.type === 3) open.push(this.field);
      else if (this.type === 4) {
        if (open.pop() !== this.field) throw this.bad("a group that ends with another number");
      } else this.skip();
    }
    this.field = field;
    this.type = 3;
    this.#tagAt = at;
  }
}

const bits = new DataView(new ArrayBuffer(8));
const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const MIN_SAFE = -MAX_SAFE;
const ASCII = Array.from({ length: 128 }, (_, i) => String.fromCharCode(i));
