import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Gram } from "../../../src/ptq/gram.ts";
import { beamOf, roundWithBeam } from "../../../src/ptq/solve/beam.ts";
import { descend, descendPairs, refitScales, refresh, rowState, setRow } from "../../../src/ptq/solve/descent.ts";
import { enumerateRow } from "../../../src/ptq/solve/exact.ts";
import { LANES, lanesOf, roundWithFeedback } from "../../../src/ptq/solve/gptq.ts";
import { choleskyUpper, multiply, solveRows } from "../../../src/ptq/solve/linalg.ts";
import { type Form, formOf, type Grid, quadratic } from "../../../src/ptq/solve/problem.ts";
import { SOLVE_DEFAULT, solveGroups } from "../../../src/ptq/solve/rows.ts";
import { continuousTarget, correctedBias } from "../../../src/ptq/solve/target.ts";
import { roundHalfEven } from "../../../src/quant/affine.ts";
import { gaussians, gramOf, skewedInputs } from "./random.ts";

const GRID4: Grid = { lo: -8, hi: 7, zero: 0, block: 1 << 30, shared: false };

/** Loss of rounding to nearest at scale max|w| / 7.5, per row. */
function nearestLoss(form: Form, w: Float64Array, rows: number): number {
  const { k } = form;
  let total = 0;
  for (let m = 0; m < rows; m++) {
    const row = w.subarray(m * k, (m + 1) * k);
    const s = Math.fround(Math.max(...row.map(Math.abs)) / 7.5);
    total += quadratic(
      form.h,
      k,
      row.map((x) => s * Math.min(7, Math.max(-8, roundHalfEven(x / s))) - x),
    );
  }
  return total;
}

describe("linear algebra", () => {
  test.each([1, 5, 64, 65, 130, 200])("A = RᵀR and x = b A⁻¹, n = %i", (n) => {
    const x = gaussians(3 * n * n, n);
    const a = gramOf(x, 3 * n, n);
    const r = Float64Array.from(a);
    expect(choleskyUpper(r, n)).toBe(true);
    for (let i = 0; i < n; i += 7)
      for (let j = i; j < n; j += 5) {
        let s = 0;
        for (let p = 0; p <= i; p++) s += r[p * n + i]! * r[p * n + j]!;
        expect(s).toBeCloseTo(a[i * n + j]!, 9);
      }
    const b = gaussians(2 * n, 7);
    const y = Float64Array.from(b);
    solveRows(r, n, y, 2);
    const back = new Float64Array(2 * n);
    multiply(y, a, 2, n, n, back);
    // Condition number below 1e3 for these matrices: 1e-9 leaves four digits of slack.
    for (let i = 0; i < 2 * n; i++) expect(back[i]).toBeCloseTo(b[i]!, 9);
  });

  test("an indefinite matrix is refused", () => {
    expect(choleskyUpper(Float64Array.of(1, 2, 2, 1), 2)).toBe(false);
    expect(choleskyUpper(Float64Array.of(Number.NaN), 1)).toBe(false);
  });

  test("damping grows until the factor exists; no input at all gives the identity", () => {
    const k = 6;
    const rankOne = gramOf(gaussians(k, 3), 1, k);
    const form = formOf(rankOne, k, 0);
    expect(form.damping).toBeGreaterThan(0);
    expect(Number.isFinite(form.damping)).toBe(true);
    expect(formOf(new Float64Array(k * k), k, 0.01).damping).toBe(Infinity);
    expect(formOf(new Float64Array(k * k).fill(Number.NaN), k, 0.01).damping).toBe(Infinity);
  });
});

describe("GPTQ", () => {
  const round = (form: Form, w: Float64Array, scale: number): { codes: Float64Array; loss: number } => {
    const lanes = lanesOf(form.k);
    for (let i = 0; i < form.k; i++)
      for (let v = 0; v < LANES; v++) {
        lanes.w[i * LANES + v] = w[i]!;
        lanes.s[i * LANES + v] = scale;
        lanes.lo[i * LANES + v] = -8;
        lanes.hi[i * LANES + v] = 7;
      }
    roundWithFeedback(form, lanes);
    return { codes: Float64Array.from({ length: form.k }, (_, i) => lanes.c[i * LANES + 2]!), loss: lanes.loss[2]! };
  };

  test("a diagonal Hessian gives round-to-nearest", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1e6 }), fc.integer({ min: 1, max: 40 }), (seed, k) => {
        const w = gaussians(k, seed);
        const h = new Float64Array(k * k);
        gaussians(k, seed + 1).forEach((x, i) => {
          h[i * k + i] = 0.01 + x * x;
        });
        const { codes } = round(formOf(h, k, 0.01), w, 0.3);
        expect([...codes]).toEqual(Array.from(w, (x) => Math.min(7, Math.max(-8, roundHalfEven(x / 0.3)))).map((x) => x + 0));
      }),
      { numRuns: 50, seed: 1 },
    );
  });

  test("correlated inputs change the codes and lower the loss", () => {
    const k = 48;
    const x = skewedInputs(400, k, 5);
    const form = formOf(gramOf(x, 400, k), k, 0.01);
    const w = gaussians(k, 9);
    const { codes, loss } = round(form, w, 0.3);
    const nearest = Float64Array.from(w, (v) => Math.min(7, Math.max(-8, roundHalfEven(v / 0.3))));
    expect([...codes]).not.toEqual([...nearest]);
    const errorOf = (c: Float64Array) => c.map((q, i) => 0.3 * q - w[i]!);
    expect(loss).toBeLessThan(quadratic(form.h, k, errorOf(nearest)));
    expect(loss).toBeCloseTo(quadratic(form.h, k, errorOf(codes)), 6);
  });

  test("a beam of one is plain feedback, a wider one is no worse here", () => {
    const k = 40;
    const form = formOf(gramOf(skewedInputs(300, k, 2), 300, k), k, 0.01);
    const s = Float64Array.of(0.25);
    const lo = Float64Array.of(-8);
    const hi = Float64Array.of(7);
    let sums = [0, 0];
    for (let seed = 1; seed < 12; seed++) {
      const w = gaussians(k, seed);
      const plain = round(form, w, 0.25);
      const c = new Float64Array(k);
      const one = roundWithBeam(form, beamOf(form, 1), w, 0, s, lo, hi, k, c);
      expect([...c]).toEqual([...plain.codes]);
      expect(one).toBeCloseTo(plain.loss, 6);
      const wide = roundWithBeam(form, beamOf(form, 8), w, 0, s, lo, hi, k, c);
      expect(wide).toBeCloseTo(
        quadratic(
          form.h,
          k,
          c.map((q, i) => 0.25 * q - w[i]!),
        ),
        6,
      );
      sums = [sums[0]! + one, sums[1]! + wide];
    }
    expect(sums[1]!).toBeLessThan(0.95 * sums[0]!);
  });
});

describe("polish", () => {
  test("every kind of move lowers the loss it keeps book of", () => {
    const k = 30;
    const form = formOf(gramOf(skewedInputs(200, k, 4), 200, k), k, 0.01);
    const w = gaussians(k, 8);
    const row = rowState(k, 10);
    row.s.fill(0.3);
    row.lo.fill(-8);
    row.hi.fill(7);
    w.forEach((x, i) => {
      row.c[i] = Math.max(-8, Math.min(7, Math.round(x / 0.3)));
    });
    setRow(row, form.h, w, 0);
    refresh(row, form.h, w, 0);
    const before = row.loss;
    descend(row, form.h);
    const single = row.loss;
    expect(single).toBeLessThan(before);
    if (descendPairs([row], form.h, form.diag) > 0) expect(row.loss).toBeLessThan(single);
    const pairs = row.loss;
    if (refitScales(row, form.h, new Float64Array(k))) expect(row.loss).toBeLessThan(pairs);
    const kept = row.loss;
    refresh(row, form.h, w, 0);
    expect(row.loss).toBeCloseTo(kept, 8);
    for (const q of row.c) expect(q >= -8 && q <= 7 && Number.isInteger(q)).toBe(true);
  });

  test("enumeration finds the best of all masks", () => {
    const k = 6;
    const form = formOf(gramOf(skewedInputs(50, k, 11), 50, k), k, 0.01);
    const w = gaussians(k, 12);
    const c = new Float64Array(k);
    const work = { g: new Float64Array(k), down: new Float64Array(k), up: new Float64Array(k) };
    const found = enumerateRow(form.h, k, w, 0, 0.4, -8, 7, c, work);
    let best = Infinity;
    for (let mask = 0; mask < 64; mask++)
      best = Math.min(
        best,
        quadratic(
          form.h,
          k,
          w.map((x, i) => 0.4 * Math.max(-8, Math.min(7, Math.floor(x / 0.4) + ((mask >> i) & 1))) - x),
        ),
      );
    expect(found).toBeCloseTo(best, 9);
  });
});

describe("solving rows", () => {
  test.each([
    ["per channel", { ...GRID4 }],
    ["blocks of 16", { ...GRID4, block: 16 }],
    ["free zero point, blocks of 16", { ...GRID4, lo: 0, hi: 15, zero: "free" as const, block: 16 }],
    ["int8 narrow", { ...GRID4, lo: -127, hi: 127 }],
    ["per tensor", { ...GRID4, shared: true }],
  ])("%s: legal, reported loss is real, better than round-to-nearest", (_, grid) => {
    const k = 50;
    const rows = 6;
    const form = formOf(gramOf(skewedInputs(300, k, 21), 300, k), k, 0.01);
    const w = gaussians(rows * k, 22);
    const block = Math.min(grid.block, k);
    const [s] = solveGroups([{ form, w, rows }], { ...grid, block });
    const nb = Math.ceil(k / block);
    let total = 0;
    for (let m = 0; m < rows; m++) {
      const e = new Float64Array(k);
      for (let i = 0; i < k; i++) {
        const b = m * nb + Math.floor(i / block);
        const q = s!.codes[m * k + i]! + s!.zeros[b]!;
        expect(q).toBeGreaterThanOrEqual(grid.lo);
        expect(q).toBeLessThanOrEqual(grid.hi);
        expect(s!.scales[b]).toBe(Math.fround(s!.scales[b]!));
        e[i] = s!.scales[b]! * s!.codes[m * k + i]! - w[m * k + i]!;
      }
      const loss = quadratic(form.h, k, e);
      expect(s!.loss[m]! / loss).toBeCloseTo(1, 6);
      total += loss;
    }
    if (grid.shared) expect(new Set(s!.scales).size).toBe(1);
    expect(total).toBeLessThan((grid.hi > 100 ? 0.01 : 0.6) * nearestLoss(form, w, rows));
  });

  test("equal input gives equal codes", () => {
    const k = 30;
    const form = formOf(gramOf(skewedInputs(100, k, 1), 100, k), k, 0.01);
    const w = gaussians(4 * k, 2);
    const a = solveGroups([{ form, w, rows: 4 }], { ...GRID4, block: k }, SOLVE_DEFAULT)[0]!;
    const b = solveGroups([{ form, w, rows: 4 }], { ...GRID4, block: k }, SOLVE_DEFAULT)[0]!;
    expect([...a.codes]).toEqual([...b.codes]);
    expect([...a.scales]).toEqual([...b.scales]);
  });
});

/** Statistics of which only some are asked for. */
const inputs = (cross: Float64Array, mean = new Float64Array(0), meanHat = mean): Gram => ({
  h: new Float64Array(0),
  of: "input",
  cross,
  mean,
  meanHat,
  count: 1,
});

describe("target and bias", () => {
  test("without a quantized prefix the target is the weight; with one it repairs a linear distortion", () => {
    const k = 12;
    const t = 400;
    const x = gaussians(t * k, 31);
    const w = gaussians(3 * k, 32);
    const same = formOf(gramOf(x, t, k), k, 0.01);
    continuousTarget(w, inputs(gramOf(x, t, k)), same, 3).forEach((v, i) => {
      expect(v).toBeCloseTo(w[i]!, 9);
    });
    // x̂ = 2 x: the target must be W / 2, but for the damping that pulls towards W.
    const xh = x.map((v) => 2 * v);
    const cross = gramOf(x, t, k).map((v) => 2 * v);
    continuousTarget(w, inputs(cross), formOf(gramOf(xh, t, k), k, 1e-9), 3).forEach((v, i) => {
      expect(v).toBeCloseTo(w[i]! / 2, 6);
    });
  });

  test("the corrected bias makes the means equal", () => {
    const [k, rows] = [5, 2];
    const w = gaussians(rows * k, 1);
    const what = w.map((x) => Math.round(x * 2) / 2);
    const mean = gaussians(k, 2);
    const meanHat = mean.map((x) => x + 0.1);
    const b = correctedBias(Float64Array.of(1, -1), w, what, inputs(new Float64Array(0), mean, meanHat), rows, k);
    for (let m = 0; m < rows; m++) {
      let y = [1, -1][m]!;
      let yh = b[m]!;
      for (let i = 0; i < k; i++) {
        y += w[m * k + i]! * mean[i]!;
        yh += what[m * k + i]! * meanHat[i]!;
      }
      expect(yh).toBeCloseTo(y, 12);
    }
  });
});
