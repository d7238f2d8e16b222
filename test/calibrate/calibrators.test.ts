import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CALIBRATORS, chooseRange, percentile } from "../../src/calibrate/calibrators.ts";
import { Observer } from "../../src/calibrate/observer.ts";
import type { CalibratorName, ValueStats } from "../../src/calibrate/types.ts";
import type { Diagnostic } from "../../src/diagnostics.ts";

function random(seed: number): () => number {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
function normal(n: number, seed: number): Float32Array {
  const r = random(seed);
  return Float32Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(1 - r())) * Math.cos(2 * Math.PI * r()));
}
function statsOf(...pieces: readonly ArrayLike<number>[]): ValueStats {
  const o = new Observer("v");
  for (const p of pieces) o.add(Float32Array.from(p));
  return o.result();
}
const U8 = { levels: 256, symmetric: false };
const S8 = { levels: 256, symmetric: true };
const NAMES = Object.keys(CALIBRATORS) as CalibratorName[];
const entropy = CALIBRATORS.entropy;

function times(s: ValueStats, k: number): ValueStats {
  const hist = { ...s.hist!, counts: s.hist!.counts.map((n) => n * k) };
  return { ...s, count: s.count * k, zeros: s.zeros * k, hist };
}

const N = 1_000_000;
const half = normal(N, 1).map(Math.abs);

describe("entropy", () => {
  const bare = statsOf(half);
  for (const wish of [U8, S8]) {
    const kind = wish.symmetric ? "s8" : "u8";
    test(`${kind}: exact zeros do not move it`, () => {
      const t = entropy.choose(bare, wish).max;
      expect(t).toBeGreaterThan(0.6 * bare.max);
      for (const zeros of [N, 19 * N]) expect(entropy.choose(statsOf(half, new Float32Array(zeros)), wish).max).toBe(t);
    });
    test(`${kind}: ten atoms of 2 % each move it by less than 15 %`, () => {
      const t = entropy.choose(bare, wish).max;
      const r = random(9);
      const atoms = Array.from({ length: 10 }, () => new Float32Array(N / 40).fill(r() * 3));
      const with10 = entropy.choose(statsOf(half, ...atoms), wish).max;
      expect(Math.abs(with10 / t - 1)).toBeLessThan(0.15);
    });
    test(`${kind}: uniform keeps all`, () => {
      const r = random(3);
      const s = statsOf(Float32Array.from({ length: N }, r));
      expect(entropy.choose(s, wish).max).toBe(s.max);
    });
    test(`${kind}: mass far from zero is kept`, () => {
      const r = random(4);
      for (const n of [N, 4096]) {
        const s = statsOf(Float32Array.from({ length: n }, () => 0.9 + 0.1 * r()));
        expect(entropy.choose(s, wish).max).toBeGreaterThanOrEqual(0.9 * s.max);
      }
    });
    test(`${kind}: counts times ten`, () => {
      // From counts so large that the term for counting noise, which does not scale, no longer decides.
      expect(entropy.choose(times(bare, 1000), wish).max).toBe(entropy.choose(times(bare, 100), wish).max);
    });
    test(`${kind}: half-normal with a long thin tail is clipped, but not below percentile 99.999`, () => {
      const s = statsOf(
        half,
        Float32Array.from({ length: 5 }, (_, i) => 40 + i),
      );
      const t = entropy.choose(s, wish).max;
      expect(t).toBeLessThan(0.3 * s.max);
      expect(t).toBeGreaterThanOrEqual(percentile(99.999).choose(s, wish).max);
    });
    test(`${kind}: degenerate data give min-max`, () => {
      for (const x of [[], [0], [0, 0, 0], [2, 2, 2], [-3, -3], [1.5], [-1, 2], normal(500, 5)]) {
        const s = statsOf(x);
        expect(entropy.choose(s, wish)).toMatchObject(without(CALIBRATORS.minmax.choose(s, wish)));
      }
    });
  }
  test("negative data mirror positive ones", () => {
    const s = statsOf(half.map((v) => -v));
    const t = entropy.choose(bare, U8);
    const u = entropy.choose(s, U8);
    // Bins are closed below, so an element on a border changes bins when mirrored.
    expect(-u.min / t.max).toBeCloseTo(1, 2);
    expect(u.max).toBe(0);
  });
  test("two-sided data keep zero inside and both ends", () => {
    const s = statsOf(
      normal(N, 7),
      Float32Array.from({ length: 4 }, (_, i) => -30 - i),
    );
    const r = entropy.choose(s, U8);
    expect(r.min).toBeGreaterThan(-10);
    expect(r.min).toBeLessThan(-3);
    expect(r.max).toBeGreaterThan(3);
  });
  test("a two-sided search takes at most 20 ms of CPU (twice that on a crowded machine)", () => {
    const s = statsOf(normal(N, 8));
    entropy.choose(s, U8);
    const start = process.cpuUsage();
    for (let i = 0; i < 10; i++) entropy.choose(s, U8);
    expect(process.cpuUsage(start).user / 1000 / 10).toBeLessThan(40);
  });
});

const without = ({ min, max }: { min: number; max: number }) => ({ min, max });

describe("percentile", () => {
  test("two-sided on a uniform grid", () => {
    const s = statsOf(Float32Array.from({ length: 100_001 }, (_, i) => i / 50_000 - 1));
    const r = percentile(99).choose(s, U8);
    expect(r.min).toBeCloseTo(-0.99, 3);
    expect(r.max).toBeCloseTo(0.99, 3);
    expect(r.clipped).toBeCloseTo(0.01, 3);
    expect(percentile(90).choose(s, S8).max).toBeCloseTo(0.9, 3);
  });
  test("zeros are elements", () => {
    const s = statsOf(
      Float32Array.from({ length: 1000 }, (_, i) => i + 1),
      new Float32Array(9000),
    );
    expect(percentile(99).choose(s, S8).max).toBeCloseTo(900, -0.5);
  });
  test("100 is min-max", () => {
    const s = statsOf(normal(1000, 2));
    expect(percentile(100).choose(s, U8)).toMatchObject(without(CALIBRATORS.minmax.choose(s, U8)));
  });
});

describe("mse", () => {
  test("is not beaten by any symmetric range of a fine grid", () => {
    const x = normal(100_000, 11);
    for (const levels of [16, 256]) {
      const t = CALIBRATORS.mse.choose(statsOf(x), { levels, symmetric: true }).max;
      const error = (T: number): number => {
        const s = T / (levels / 2 - 1);
        let e = 0;
        for (const v of x) e += (v - s * Math.max(-levels / 2, Math.min(levels / 2 - 1, Math.round(v / s)))) ** 2;
        return e;
      };
      const mine = error(t);
      for (let T = 1; T < 5; T += 0.05) expect(mine).toBeLessThan(1.03 * error(T));
    }
  });
});

describe("every calibrator", () => {
  test("stays inside the observed range, holds 0, and reports the clipped mass", () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -50, max: 50, noNaN: true }), { maxLength: 50 }),
        fc.boolean(),
        fc.constantFrom(256, 255, 16),
        (x, symmetric, levels) => {
          const s = statsOf(x);
          const lo = Math.min(0, ...x.map(Math.fround));
          const hi = Math.max(0, ...x.map(Math.fround));
          for (const name of NAMES) {
            const r = CALIBRATORS[name].choose(s, { levels, symmetric });
            const t = Math.max(hi, -lo);
            expect(r.min).toBeGreaterThanOrEqual(symmetric ? -t : lo);
            expect(r.max).toBeLessThanOrEqual(symmetric ? t : hi);
            expect(r.min).toBeLessThanOrEqual(0);
            expect(r.max).toBeGreaterThanOrEqual(0);
            if (symmetric) expect(r.min + r.max).toBe(0);
            expect(r.clipped).toBeGreaterThanOrEqual(0);
            expect(r.clipped).toBeLessThanOrEqual(1);
          }
        },
      ),
      { seed: 5, numRuns: 200 },
    );
  });
});

describe("chooseRange", () => {
  const s = statsOf(half, [500]);
  test("warns when little is kept", () => {
    const said: Diagnostic[] = [];
    chooseRange(s, CALIBRATORS.percentile, { ...U8, report: (d) => said.push(d) });
    expect(said.map((d) => d.code)).toEqual(["calibrate/narrow-range"]);
    chooseRange(s, CALIBRATORS.minmax, { ...U8, report: (d) => said.push(d) });
    expect(said).toHaveLength(1);
  });
  test("entropy leaves outputs alone; a fixed range wins", () => {
    expect(chooseRange(s, entropy, { ...U8, output: true }).max).toBe(500);
    expect(chooseRange(s, entropy, { ...U8, fixed: { min: 0, max: 1 } })).toMatchObject({ min: 0, max: 1 });
    expect(chooseRange(s, entropy, { ...S8, fixed: { min: 0, max: 1 } })).toMatchObject({ min: -1, max: 1 });
  });
  test("a range alone is enough for min-max only", () => {
    const o = new Observer("v", false);
    o.add(half);
    expect(chooseRange(o.result(), CALIBRATORS.minmax, U8).max).toBe(o.result().max);
    expect(() => chooseRange(o.result(), CALIBRATORS.mse, U8)).toThrow(/needs its histogram/);
  });
});
