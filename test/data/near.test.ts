import sharp from "sharp";
import { expect, test } from "vitest";
import { drawStratified } from "../../src/data/draw.ts";
import { commonShare, distance, findDuplicates, minhash } from "../../src/data/near.ts";
import { Random } from "../../src/data/random.ts";
import type { DataSet, Sample } from "../../src/data/types.ts";
import type { Tensor } from "../../src/runtime/types.ts";

function setOf(feeds: readonly Tensor[], heldFrom: number): DataSet {
  const all = feeds.map((_, i) => i);
  return {
    name: "t",
    size: feeds.length,
    roles: { calibrate: all.slice(0, heldFrom), select: [], heldOut: all.slice(heldFrom) },
    sha256: "",
    metric: undefined,
    classes: undefined,
    sample: async (i): Promise<Sample> => ({ id: `s${i}`, feeds: { x: feeds[i]! } }),
  };
}

const EDGE = 96;
/** A picture with soft shapes at random places: low frequencies, as photographs have. */
function picture(r: Random): Buffer {
  const blobs = Array.from(
    { length: 14 },
    () => [r.float() * EDGE, r.float() * EDGE, 6 + 20 * r.float(), r.float(), r.float(), r.float()] as const,
  );
  const out = Buffer.alloc(EDGE * EDGE * 3);
  for (let y = 0; y < EDGE; y++)
    for (let x = 0; x < EDGE; x++)
      for (let k = 0; k < 3; k++) {
        let v = 0.2;
        for (const b of blobs) v += b[3 + k]! * Math.exp(-((x - b[0]) ** 2 + (y - b[1]) ** 2) / (2 * b[2] ** 2)) * 0.5;
        out[(y * EDGE + x) * 3 + k] = Math.min(255, 255 * v);
      }
  return out;
}
const open = (b: Buffer) => sharp(b, { raw: { width: EDGE, height: EDGE, channels: 3 } });
const raw = async (s: sharp.Sharp) => s.resize(EDGE, EDGE).raw().toBuffer();
const tensorOf = (b: Buffer): Tensor => ({ dtype: "uint8", dims: [1, EDGE, EDGE, 3], data: Uint8Array.from(b) });

test("pictures: JPEG, mirror and a small crop are found, other pictures are not", async () => {
  const r = new Random(1);
  const originals = Array.from({ length: 60 }, () => picture(r));
  const changed = await Promise.all(
    originals.slice(0, 30).map(async (b, i) => {
      if (i % 3 === 0) return raw(sharp(await open(b).jpeg({ quality: 40 }).toBuffer()));
      if (i % 3 === 1) return raw(open(b).flop());
      return raw(
        sharp(
          await open(b)
            .extract({ left: 2, top: 2, width: EDGE - 4, height: EDGE - 4 })
            .png()
            .toBuffer(),
        ),
      );
    }),
  );
  const found = await findDuplicates(setOf([...originals, ...changed].map(tensorOf), 60));
  expect(found.likeness).toBe("image");
  const pairs = found.clusters.map((c) => c.indices.join());
  const right = Array.from({ length: 30 }, (_, i) => `${i},${60 + i}`).filter((p) => pairs.includes(p)).length;
  expect(right / 30).toBeGreaterThanOrEqual(0.95);
  expect(right / pairs.length).toBeGreaterThanOrEqual(0.95);
  // Each of them stands in calibrate once and is held out once.
  expect(found.across.length).toBe(pairs.length);
});

test("crops of small pictures, at borders between those that are tried, are found too, and none is mistaken", async () => {
  const r = new Random(7);
  const small = 32;
  const originals = await Promise.all(Array.from({ length: 40 }, () => open(picture(r)).resize(small, small).raw().toBuffer()));
  const changed = await Promise.all(
    originals.slice(0, 20).map(async (b, i) => {
      const c = 1 + (i % 2);
      const cut = await sharp(b, { raw: { width: small, height: small, channels: 3 } })
        .extract({ left: c, top: c, width: small - 2 * c, height: small - 2 * c })
        .png()
        .toBuffer();
      return sharp(cut).resize(small, small).raw().toBuffer();
    }),
  );
  const tensors = [...originals, ...changed].map((b): Tensor => ({ dtype: "uint8", dims: [1, small, small, 3], data: Uint8Array.from(b) }));
  const pairs = (await findDuplicates(setOf(tensors, 40))).clusters.map((c) => c.indices.join());
  const right = Array.from({ length: 20 }, (_, i) => `${i},${40 + i}`).filter((p) => pairs.includes(p)).length;
  expect(right).toBeGreaterThanOrEqual(18);
  expect(pairs.length - right).toBe(0);
});

test("texts: nine in ten tokens in common are near, half are not; equal ones are exact", async () => {
  const r = new Random(2);
  const text = (n: number) => Array.from({ length: n }, () => r.below(5000));
  const base = text(400);
  const near = base.map((t, i) => (i % 100 === 50 ? r.below(5000) : t));
  const half = [...base.slice(0, 200), ...text(200)];
  const tokens = (t: readonly number[]): Tensor => ({ dtype: "int64", dims: [1, t.length], data: BigInt64Array.from(t, BigInt) });
  const found = await findDuplicates(setOf([base, text(400), near, half, base].map(tokens), 5));
  expect(found.likeness).toBe("text");
  expect(found.clusters.map((c) => [c.indices, c.exact])).toEqual([[[0, 2, 4], false]]);
  // 200 of 600 different shingles are common.
  expect(commonShare(minhash(base), minhash(half))).toBeCloseTo(1 / 3, 0);
});

test("vectors: by angle; bits are counted in both halves", async () => {
  const v = (...x: number[]): Tensor => ({ dtype: "float32", dims: [1, x.length], data: Float32Array.from(x) });
  const found = await findDuplicates(setOf([v(1, 2, 3), v(2, 4, 6.001), v(3, 2, 1), v(3, 2, 1)], 4));
  expect(found.clusters.map((c) => [c.indices, c.exact])).toEqual([
    [[0, 1], false],
    [[2, 3], true],
  ]);
  expect(distance(0xffff_0000_0000_0001n, 0n)).toBe(17);
});

test.each([100, 255, 1000])("a draw of %i from classes 1 : 50 keeps every share within one sample", (n) => {
  const classes = Array.from({ length: 5100 }, (_, i) => (i % 51 === 0 ? 1 : 0));
  const drawn = drawStratified(
    classes.map((_, i) => i),
    classes,
    n,
    3,
  );
  expect(drawn).toHaveLength(n);
  expect(new Set(drawn).size).toBe(n);
  const rare = drawn.filter((i) => classes[i] === 1).length;
  expect(Math.abs(rare - n / 51)).toBeLessThan(1);
  expect(
    drawStratified(
      classes.map((_, i) => i),
      classes,
      n,
      3,
    ),
  ).toEqual(drawn);
});
