import * as zlib from "node:zlib";

/** CRC-32 of zip (reflected polynomial 0xEDB88320), eight bytes a step ("slicing by 8", Kounavis and Berry 2005). */
const T: readonly Uint32Array[] = (() => {
  const t = Array.from({ length: 8 }, () => new Uint32Array(256));
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
    t[0]![n] = c;
  }
  for (let n = 0; n < 256; n++) {
    let c = t[0]![n]!;
    for (let k = 1; k < 8; k++) {
      c = t[0]![c & 255]! ^ (c >>> 8);
      t[k]![n] = c;
    }
  }
  return t;
})();

/** Node 20.15 and later have one of their own, several times as fast. */
const native = (zlib as { readonly crc32?: (bytes: Uint8Array, crc?: number) => number }).crc32;

export function crc32(bytes: Uint8Array, crc = 0): number {
  return native === undefined ? crc32Table(bytes, crc) : native(bytes, crc);
}

/** Continue from `crc` (the result for the bytes before), 0 to start. */
export function crc32Table(bytes: Uint8Array, crc = 0): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = T as [
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
  ];
  let c = ~crc;
  let i = 0;
  const eight = bytes.length - 7;
  for (; i < eight; i += 8) {
    c ^= bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
    c =
      t7[c & 255]! ^
      t6[(c >>> 8) & 255]! ^
      t5[(c >>> 16) & 255]! ^
      t4[c >>> 24]! ^
      t3[bytes[i + 4]!]! ^
      t2[bytes[i + 5]!]! ^
      t1[bytes[i + 6]!]! ^
      t0[bytes[i + 7]!]!;
  }
  for (; i < bytes.length; i++) c = t0[(c ^ bytes[i]!) & 255]! ^ (c >>> 8);
  return ~c >>> 0;
}
