import { BYTES, FIXED32, VARINT } from "./wire.ts";

/** A payload that is not copied into the sink: a tensor's bytes, fetched when the chunk is written. */
interface Piece {
  at: number;
  readonly length: number;
  readonly bytes: () => Uint8Array;
  readonly what: string;
}

const utf8 = new TextEncoder();
/** Smaller payloads are copied: a chunk costs more than a copy. */
const INLINE = 1024;

/**
 * Writes protobuf. Small things go into one growing buffer; tensors stay where they are until `chunks` hands them out in order, so
 * memory holds one tensor at a time beside the buffer. Fields are written in ascending order by the callers: equal models, equal bytes.
 */
export class Sink {
  #buf = new Uint8Array(1 << 16);
  #pos = 0;
  readonly #pieces: Piece[] = [];
  #external = 0;

  get byteLength(): number {
    return this.#pos + this.#external;
  }

  #room(n: number): void {
    if (this.#pos + n <= this.#buf.length) return;
    const bigger = new Uint8Array(Math.max(this.#buf.length * 2, this.#pos + n));
    bigger.set(this.#buf.subarray(0, this.#pos));
    this.#buf = bigger;
  }

  #varint(n: number): void {
    this.#room(10);
    while (n >= 128) {
      this.#buf[this.#pos++] = (n % 128) | 128;
      n = Math.floor(n / 128);
    }
    this.#buf[this.#pos++] = n;
  }

  #signed(n: number | bigint): void {
    if (typeof n === "number" && n >= 0) {
      this.#varint(n);
      return;
    }
    let b = BigInt.asUintN(64, BigInt(n));
    this.#room(10);
    while (b >= 128n) {
      this.#buf[this.#pos++] = Number(b & 127n) | 128;
      b >>= 7n;
    }
    this.#buf[this.#pos++] = Number(b);
  }

  int(field: number, n: number | bigint): void {
    this.#varint(field * 8 + VARINT);
    this.#signed(n);
  }

  float(field: number, x: number): void {
    this.#varint(field * 8 + FIXED32);
    this.#float(x);
  }

  #float(x: number): void {
    this.#room(4);
    scratch.setFloat32(0, x, true);
    for (let i = 0; i < 4; i++) this.#buf[this.#pos++] = scratch.getUint8(i);
  }

  text(field: number, s: string): void {
    this.#varint(field * 8 + BYTES);
    // Names are mostly short ASCII.
    const n = s.length;
    if (n < 128) {
      this.#room(n + 1);
      const at = this.#pos;
      const { length } = s;
      let i = 0;
      for (; i < length; i++) {
        const c = s.charCodeAt(i);
        if (c >= 128) break;
        this.#buf[at + 1 + i] = c;
      }
      if (i === length) {
        this.#buf[at] = n;
        this.#pos = at + 1 + n;
        return;
      }
    }
    const b = utf8.encode(s);
    this.#varint(b.length);
    this.#copy(b);
  }

  #copy(b: Uint8Array): void {
    this.#room(b.length);
    this.#buf.set(b, this.#pos);
    this.#pos += b.length;
  }

  /** A field with its tag, as a reader kept it. */
  raw(b: Uint8Array): void {
    this.#copy(b);
  }

  bytes(field: number, b: Uint8Array): void {
    this.payload(field, b.byteLength, () => b, "bytes");
  }

  /** `length` bytes that `get` returns when they are written. */
  payload(field: number, length: number, get: () => Uint8Array, what: string): void {
    this.#varint(field * 8 + BYTES);
    this.#varint(length);
    if (length <= INLINE) {
      this.#copy(checked(get(), length, what));
      return;
    }
    this.#pieces.push({ at: this.#pos, length, bytes: get, what });
    this.#external += length;
  }

  packedInts(field: number, xs: readonly (number | bigint)[]): void {
    if (xs.length > 0)
      this.message(field, () => {
        for (const x of xs) this.#signed(x);
      });
  }

  packedFloats(field: number, xs: readonly number[]): void {
    if (xs.length > 0)
      this.message(field, () => {
        for (const x of xs) this.#float(x);
      });
  }

  /** A nested message. Its length is known afterwards: what `body` wrote to the buffer moves up by the length's own bytes. */
  message(field: number, body: () => void): void {
    this.#varint(field * 8 + BYTES);
    this.#room(1);
    const at = this.#pos++;
    const firstPiece = this.#pieces.length;
    const before = this.#external;
    body();
    const length = this.#pos - at - 1 + (this.#external - before);
    let extra = 0;
    for (let n = length; n >= 128; n = Math.floor(n / 128)) extra++;
    if (extra > 0) {
      this.#room(extra);
      this.#buf.copyWithin(at + 1 + extra, at + 1, this.#pos);
      for (let i = firstPiece; i < this.#pieces.length; i++) this.#pieces[i]!.at += extra;
    }
    const end = this.#pos + extra;
    this.#pos = at;
    this.#varint(length);
    this.#pos = end;
  }

  *chunks(): Generator<Uint8Array> {
    let from = 0;
    for (const p of this.#pieces) {
      if (p.at > from) yield this.#buf.subarray(from, p.at);
      from = p.at;
      yield checked(p.bytes(), p.length, p.what);
    }
    if (this.#pos > from) yield this.#buf.subarray(from, this.#pos);
  }

  toBytes(): Uint8Array {
    const out = new Uint8Array(this.byteLength);
    let at = 0;
    for (const c of this.chunks()) {
      out.set(c, at);
      at += c.length;
    }
    return out;
  }
}

const scratch = new DataView(new ArrayBuffer(4));

function checked(b: Uint8Array, length: number, what: string): Uint8Array {
  if (b.byteLength !== length) throw new Error(`internal: ${what} has ${b.byteLength} bytes, ${length} were announced`);
  return b;
}
