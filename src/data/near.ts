import { sha256 } from "../io/hash.ts";
import type { Tensor } from "../runtime/types.ts";
import { grayOf } from "./pictures.ts";
import { Random } from "./random.ts";
import type { DataSet, Role, Sample } from "./types.ts";

/** How two samples are compared: by what the first input looks like. */
export type Likeness = "image" | "text" | "vector";

export interface Duplicates {
  readonly likeness: Likeness;
  /** Samples that are the same, byte for byte in every feed, or nearly so; the first of each stands for the others. */
  readonly clusters: readonly { readonly indices: readonly number[]; readonly ids: readonly string[]; readonly exact: boolean }[];
  /** Clusters that reach over roles: what was calibrated on is verified on. */
  readonly across: readonly { readonly ids: readonly string[]; readonly roles: readonly Role[] }[];
}

/** Bits of 64 that may differ. Unrelated pictures differ in 32 ± 4 (binomial); JPEG, scaling and small crops in a few. */
export const HASH_BITS = 10;
/** Correlation of 16×16 grey cells. */
export const GRAY = 0.95;
/** Share of common shingles (Jaccard). */
export const TEXT_SHARE = 0.8;
export const COSINE = 0.999;

export async function findDuplicates(
  data: DataSet,
  o: { readonly signal?: AbortSignal | undefined; readonly onProgress?: ((done: number, total: number) => void) | undefined } = {},
): Promise<Duplicates> {
  const ids: string[] = [];
  const exact: string[] = [];
  let likeness: Likeness = "vector";
  const pictures: (Picture | undefined)[] = [];
  const minhashes: Uint32Array[] = [];
  const vectors: Float32Array[] = [];
  for (let i = 0; i < data.size; i++) {
    o.signal?.throwIfAborted();
    const sample = await data.sample(i);
    if (i === 0) likeness = likenessOf(sample);
    ids.push(sample.id);
    exact.push(contentOf(sample));
    if (likeness === "image") pictures.push(pictureOf(sample));
    else if (likeness === "text") minhashes.push(minhash(Array.from(firstOf(sample).data as ArrayLike<number | bigint>, Number)));
    else vectors.push(unit(firstOf(sample)));
    o.onProgress?.(i + 1, data.size);
  }
  const groups = new Union(data.size);
  const byContent = new Map<string, number>();
  exact.forEach((h, i) => {
    const had = byContent.get(h);
    if (had === undefined) byContent.set(h, i);
    else groups.join(had, i);
  });
  const same = new Union(data.size);
  exact.forEach((h, i) => {
    same.join(byContent.get(h)!, i);
  });
  if (likeness === "image") joinPairs(groups, data.size, (i, j) => near(pictures[i], pictures[j]));
  else if (likeness === "vector") joinPairs(groups, data.size, (i, j) => cosine(vectors[i]!, vectors[j]!) >= COSINE);
  else joinText(groups, minhashes);
  const roleOf = new Map<number, Role>();
  for (const role of ["calibrate", "select", "heldOut"] as const) for (const i of data.roles[role]) roleOf.set(i, role);
  const clusters = groups.sets().map((indices) => ({
    indices,
    ids: indices.map((i) => ids[i]!),
    exact: indices.every((i) => same.find(i) === same.find(indices[0]!)),
  }));
  const across = clusters.flatMap((c) => {
    const roles = [...new Set(c.indices.map((i) => roleOf.get(i)).filter((r) => r !== undefined))];
    return roles.includes("heldOut") && roles.length > 1 ? [{ ids: c.ids, roles }] : [];
  });
  return { likeness, clusters, across };
}

const firstOf = (s: Sample): Tensor => Object.values(s.feeds)[0]!;

function likenessOf(s: Sample): Likeness {
  const t = firstOf(s);
  if (t.dtype === "int64" || t.dtype === "int32") return "text";
  return grayOf(s, 8) === undefined ? "vector" : "image";
}

function contentOf(s: Sample): string {
  return sha256(
    Object.entries(s.feeds).flatMap(([name, t]) => [
      new TextEncoder().encode(`${name}\0${t.dtype}\0${t.dims.join()}\0`),
      Array.isArray(t.data)
        ? new TextEncoder().encode(JSON.stringify(t.data))
        : new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength),
    ]),
  );
}

const EDGE = 32;
const LOW = 8;

/**
 * Borders that a copy may have lost on each side, as a share of the edge: close enough together that a crop between two of them moves no cell
 * by more than a sixth of its width.
 */
const CROPS = [0, 0.015, 0.03, 0.045, 0.06, 0.08, 0.1];
/** Cells of the comparison: twice as wide as those of the hash, since cutting and enlarging again smears what is finer. */
const CELLS = 16;

/** What is kept of a picture: hashes find candidates, the grey cells (mean 0, length 1) confirm them. */
interface Look {
  /** Low and high 32 bits. */
  readonly low: number;
  readonly high: number;
  readonly gray: Float32Array;
}
interface Picture {
  /** As it is, and mirrored. */
  readonly whole: readonly [Look, Look];
  /** As it would look without its borders. */
  readonly cropped: readonly Look[];
}
function pictureOf(s: Sample): Picture | undefined {
  const looks: Look[] = [];
  for (const crop of CROPS) {
    const gray = grayOf(s, EDGE, crop);
    if (gray === undefined) return undefined;
    looks.push(lookOf(gray));
  }
  const whole = grayOf(s, EDGE)!;
  const mirror = Float32Array.from(whole, (_, i) => whole[i - (i % EDGE) + (EDGE - 1 - (i % EDGE))]!);
  return { whole: [looks[0]!, lookOf(mirror)], cropped: looks };
}
function lookOf(gray: Float32Array): Look {
  const hash = pictureHash(gray);
  return { low: Number(hash & 0xffffffffn), high: Number(hash >> 32n), gray: centred(pooled(gray)) };
}
/** Means over squares of cells. */
function pooled(gray: Float32Array): Float32Array {
  const k = EDGE / CELLS;
  const out = new Float32Array(CELLS * CELLS);
  for (let y = 0; y < EDGE; y++)
    for (let x = 0; x < EDGE; x++) out[Math.floor(y / k) * CELLS + Math.floor(x / k)]! += gray[y * EDGE + x]! / (k * k);
  return out;
}
function centred(g: Float32Array): Float32Array {
  let mean = 0;
  for (const v of g) mean += v / g.length;
  let square = 0;
  for (const v of g) square += (v - mean) ** 2;
  const norm = Math.sqrt(square) || 1;
  return g.map((v) => (v - mean) / norm);
}

/**
 * Perceptual hash: the lowest 8×8 coefficients of the cosine transform of the 32×32 grey picture, each above or below their median
 * (Zauner 2010). The first coefficient is brightness and is left out.
 */
const COS = Float64Array.from({ length: LOW * EDGE }, (_, i) => Math.cos((Math.PI * Math.floor(i / EDGE) * ((i % EDGE) + 0.5)) / EDGE));

export function pictureHash(gray: Float32Array): bigint {
  const rows = new Float64Array(EDGE * LOW);
  for (let y = 0; y < EDGE; y++)
    for (let u = 0; u < LOW; u++) {
      let sum = 0;
      for (let x = 0; x < EDGE; x++) sum += gray[y * EDGE + x]! * COS[u * EDGE + x]!;
      rows[y * LOW + u] = sum;
    }
  const c = new Float64Array(LOW * LOW);
  for (let v = 0; v < LOW; v++)
    for (let u = 0; u < LOW; u++) {
      let sum = 0;
      for (let y = 0; y < EDGE; y++) sum += rows[y * LOW + u]! * COS[v * EDGE + y]!;
      c[v * LOW + u] = sum;
    }
  const rest = c.slice(1).sort();
  const median = rest[31]!;
  let bits = 0n;
  for (let i = 1; i < c.length; i++) if (c[i]! > median) bits |= 1n << BigInt(i);
  return bits;
}

/** Either, mirrored or not, is what the other would be without its borders. */
function near(a: Picture | undefined, b: Picture | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  return a.cropped.some((x) => b.whole.some((y) => alike(x, y))) || b.cropped.some((x) => a.whole.some((y) => alike(x, y)));
}
/** A hash of 64 bits is not enough for plain pictures (a digit on black): the grey cells must agree as well. */
function alike(x: Look, y: Look): boolean {
  return ones(x.low ^ y.low) + ones(x.high ^ y.high) <= HASH_BITS && cosine(x.gray, y.gray) >= GRAY;
}
export function distance(a: bigint, b: bigint): number {
  const x = a ^ b;
  return ones(Number(x & 0xffffffffn)) + ones(Number(x >> 32n));
}
function ones(v: number): number {
  v -= (v >>> 1) & 0x55555555;
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

const HASHES = 128;
const BANDS = 32;
const SHINGLE = 3;
const SALT = (() => {
  const r = new Random(1);
  return Uint32Array.from({ length: 2 * HASHES }, () => r.next() | 1);
})();

/** MinHash of shingles of three tokens (Broder 1997): the share of equal entries estimates the share of common shingles. */
export function minhash(tokens: readonly number[]): Uint32Array {
  const out = new Uint32Array(HASHES).fill(0xffffffff);
  for (let i = 0; i + SHINGLE <= Math.max(tokens.length, SHINGLE); i++) {
    let h = 2166136261;
    for (let k = 0; k < SHINGLE; k++) h = Math.imul(h ^ (tokens[i + k] ?? -1), 16777619);
    h ^= h >>> 15;
    for (let k = 0; k < HASHES; k++) {
      let v = Math.imul(h, SALT[2 * k]!) + SALT[2 * k + 1]!;
      v = Math.imul(v ^ (v >>> 16), 0x21f0aaad) >>> 0;
      if (v < out[k]!) out[k] = v;
    }
  }
  return out;
}
export function commonShare(a: Uint32Array, b: Uint32Array): number {
  let same = 0;
  for (let k = 0; k < HASHES; k++) if (a[k] === b[k]) same++;
  return same / HASHES;
}

/** Only texts that share a whole band of four are compared: 0.8 alike share one of 32 with probability 1 − (1 − 0.8⁴)³² > 0.9999. */
function joinText(groups: Union, all: readonly Uint32Array[]): void {
  const rows = HASHES / BANDS;
  for (let b = 0; b < BANDS; b++) {
    const buckets = new Map<string, number[]>();
    all.forEach((m, i) => {
      const key = m.subarray(b * rows, (b + 1) * rows).join();
      const had = buckets.get(key);
      if (had === undefined) buckets.set(key, [i]);
      else had.push(i);
    });
    for (const list of buckets.values())
      for (let k = 1; k < list.length; k++) if (commonShare(all[list[0]!]!, all[list[k]!]!) >= TEXT_SHARE) groups.join(list[0]!, list[k]!);
  }
}

function unit(t: Tensor): Float32Array {
  const x = Float32Array.from(t.data as ArrayLike<number>, Number);
  let sum = 0;
  for (const v of x) sum += v * v;
  const norm = Math.sqrt(sum) || 1;
  return x.map((v) => v / norm);
}
function cosine(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return 0;
  let s = 0;
  for (let i = 0; i < a.length; i++) s += a[i]! * b[i]!;
  return s;
}

function joinPairs(groups: Union, n: number, alike: (i: number, j: number) => boolean): void {
  for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) if (alike(i, j)) groups.join(i, j);
}

class Union {
  readonly #parent: Int32Array;
  constructor(n: number) {
    this.#parent = Int32Array.from({ length: n }, (_, i) => i);
  }
  find(i: number): number {
    while (this.#parent[i] !== i) i = this.#parent[i] = this.#parent[this.#parent[i]!]!;
    return i;
  }
  /** The smaller index stands for both. */
  join(i: number, j: number): void {
    const [a, b] = [this.find(i), this.find(j)];
    this.#parent[Math.max(a, b)] = Math.min(a, b);
  }
  /** Sets of two or more. */
  sets(): readonly (readonly number[])[] {
    const all = new Map<number, number[]>();
    for (let i = 0; i < this.#parent.length; i++) {
      const root = this.find(i);
      const list = all.get(root);
      if (list === undefined) all.set(root, [i]);
      else list.push(i);
    }
    return [...all.values()].filter((s) => s.length > 1);
  }
}
