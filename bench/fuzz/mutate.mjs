/** mulberry32: the same stream for the same seed. */
export function generator(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const HOSTILE = [0, 1, 0x7f, 0x80, 0xff, 0xfe, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff];
const WORDS = [
  "__proto__",
  "constructor",
  "../../etc/passwd",
  "/dev/zero",
  "1e999",
  "NaN",
  "-1",
  "9007199254740993",
  "*a",
  "&a",
  "{",
  "[[[[[[[[",
  "\u0000",
];

/** A damaged copy: one to four of bit flips, truncation, length edits, splices, repeated or dropped pieces, hostile words. */
export function mutate(bytes, others, r) {
  const int = (n) => Math.floor(r() * n);
  let b = Uint8Array.from(bytes);
  for (let k = 1 + int(4); k > 0; k--) {
    const n = b.length;
    if (n === 0) break;
    const at = int(n);
    switch (int(9)) {
      case 0:
        b[at] ^= 1 << int(8);
        break;
      case 1:
        b[at] = HOSTILE[int(6)] & 255;
        break;
      case 2:
        b = b.slice(0, at);
        break;
      case 3: {
        // A number of 1 to 4 bytes, as lengths are.
        const value = HOSTILE[int(HOSTILE.length)];
        for (let i = 0; i < 1 << int(3) && at + i < n; i++) b[at + i] = (value >>> (8 * i)) & 255;
        break;
      }
      case 4: {
        const other = others[int(others.length)];
        const from = int(other.length);
        b = join(b.subarray(0, at), other.subarray(from, from + 1 + int(200)), b.subarray(at));
        break;
      }
      case 5: {
        const piece = b.slice(at, at + 1 + int(64));
        const times = 1 + int(20);
        b = join(b.subarray(0, at), ...Array.from({ length: times }, () => piece), b.subarray(at));
        break;
      }
      case 6:
        b = join(b.subarray(0, at), b.subarray(Math.min(n, at + 1 + int(64))));
        break;
      case 7:
        b = join(b.subarray(0, at), new TextEncoder().encode(WORDS[int(WORDS.length)]), b.subarray(at));
        break;
      default:
        for (let i = 0; i < 8; i++) b[int(n)] = int(256);
    }
  }
  return b;
}

function join(...parts) {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}
