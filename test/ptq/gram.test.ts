import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { crossOf, GramCollector, GramEngine, meanOf } from "../../src/ptq/gram.ts";
import { AdaRound } from "../../src/ptq/solve/adaround.ts";
import { formOf } from "../../src/ptq/solve/problem.ts";
import { solveGroups } from "../../src/ptq/solve/rows.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { gaussians, gramOf, skewedInputs } from "./solve/random.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

describe("Gram statistics", () => {
  // Both ways to make products: here (k < 40) and in the engine.
  test.each([6, 48])("equal the direct sums, centred and not, k = %i", async (k) => {
    const engine = new GramEngine(runtime);
    const t = 700;
    const c = new GramCollector(1, k, engine);
    const x = gaussians(t * k, 1).map((v, i) => v + 30 + (i % k));
    const y = x.map((v, i) => v + 0.1 * Math.sin(i));
    c.shift[0]!.fill(31);
    // More rows than one chunk takes: memory does not grow with them.
    for (let n = 0; n < t; n++) {
      for (let i = 0; i < k; i++) {
        c.a[0]![c.filled * k + i] = x[n * k + i]! - 31;
        c.b[0]![c.filled * k + i] = y[n * k + i]! - 31;
      }
      c.filled++;
      if (c.filled === c.capacity || n === 300) await c.flush();
    }
    await c.flush();
    expect(c.count).toBe(t);
    const mean = (z: Float64Array, i: number) => {
      let s = 0;
      for (let n = 0; n < t; n++) s += z[n * k + i]!;
      return s / t;
    };
    for (const centred of [true, false]) {
      const g = c.finish(centred)[0]!;
      for (const [i, j] of [
        [0, 0],
        [1, 4],
        [5, 2],
      ] as const) {
        const [mi, mj, ni] = centred ? [mean(x, i), mean(y, j), mean(y, i)] : [0, 0, 0];
        let h = 0;
        let cross = 0;
        for (let n = 0; n < t; n++) {
          h += ((y[n * k + i]! - ni) * (y[n * k + j]! - mj)) / t;
          cross += ((x[n * k + i]! - mi) * (y[n * k + j]! - mj)) / t;
        }
        // Shifted float32 products: 2^-24 of values near 10, squared, summed over 700.
        expect(Math.abs(g.h[i * k + j]! - h)).toBeLessThan(1e-3);
        expect(Math.abs(g.cross[i * k + j]! - cross)).toBeLessThan(1e-3);
      }
      expect(g.mean[3]).toBeCloseTo(mean(x, 3), 4);
      expect(g.meanHat[3]).toBeCloseTo(mean(y, 3), 4);
    }
    await engine.release();
  });

  // W C and W μ are all that is asked of the float stream.
  test.each([7, 44])("of the float layer's output they say the same as of its input, k = %i", async (k) => {
    const engine = new GramEngine(runtime);
    const [t, rows] = [300, 3];
    const x = gaussians(t * k, 5).map((v) => v + 2);
    const hat = x.map((v, i) => Math.round(v * 4) / 4 + (i % 3) * 0.01);
    const w = gaussians(rows * k, 6);
    const [a, b] = [new GramCollector(1, k, engine), new GramCollector(1, k, engine, true, rows)];
    b.shiftA[0]!.fill(0.5);
    a.shift[0]!.fill(2);
    b.shift[0]!.fill(2);
    for (let n = 0; n < t; n++) {
      for (let i = 0; i < k; i++) {
        a.a[0]![n * k + i] = x[n * k + i]! - 2;
        a.b[0]![n * k + i] = b.b[0]![n * k + i] = hat[n * k + i]! - 2;
      }
      for (let m = 0; m < rows; m++) {
        let y = -0.5;
        for (let i = 0; i < k; i++) y += w[m * k + i]! * x[n * k + i]!;
        b.a[0]![n * rows + m] = y;
      }
      a.filled++;
      b.filled++;
    }
    await a.flush();
    await b.flush();
    for (const centred of [true, false]) {
      const [g, f] = [a.finish(centred)[0]!, b.finish(centred)[0]!];
      expect([g.of, f.of]).toEqual(["input", "output"]);
      expect(f.h).toEqual(g.h);
      // float32 sums of 300 products.
      crossOf(w, f, rows, k).forEach((v, i) => {
        expect(Math.abs(v - crossOf(w, g, rows, k)[i]!)).toBeLessThan(1e-4);
      });
      meanOf(w, f, rows, k).forEach((v, i) => {
        expect(v).toBeCloseTo(meanOf(w, g, rows, k)[i]!, 4);
      });
    }
    await engine.release();
  });

  test("two halves merge to the whole", async () => {
    const engine = new GramEngine(runtime);
    const k = 5;
    const x = gaussians(40 * k, 2);
    const fill = async (rows: readonly number[]) => {
      const c = new GramCollector(1, k, engine);
      for (const n of rows) {
        for (let i = 0; i < k; i++) c.a[0]![c.filled * k + i] = c.b[0]![c.filled * k + i] = x[n * k + i]!;
        c.filled++;
      }
      await c.flush();
      return c;
    };
    const all = Array.from({ length: 40 }, (_, i) => i);
    const whole = await fill(all);
    const half = await fill(all.filter((i) => i % 2 === 0));
    half.merge(await fill(all.filter((i) => i % 2 === 1)));
    expect(half.count).toBe(40);
    half.finish(true)[0]!.h.forEach((v, i) => {
      expect(v).toBeCloseTo(whole.finish(true)[0]!.h[i]!, 6);
    });
    await engine.release();
  });
});

describe("learned rounding", () => {
  test("decides every element, and is never worse than its start or round-to-nearest", async () => {
    const [rows, k] = [8, 40];
    const form = formOf(gramOf(skewedInputs(200, k, 3), 200, k), k, 0.01);
    const w = gaussians(rows * k, 4);
    const grid = { lo: -8, hi: 7, zero: 0, block: k, shared: false } as const;
    // A poor start: one scale, plain feedback.
    const start = solveGroups([{ form, w, rows }], grid, { coarse: 1, fine: 0, keep: 1, deep: 0, beam: 0 })[0]!;
    const ada = new AdaRound(runtime);
    const { solution, undecided, won } = await ada.improve(form, w, start, { lo: -8, hi: 7 }, 400);
    await ada.release();
    expect(undecided).toBeLessThan(0.005);
    let nearest = 0;
    for (let m = 0; m < rows; m++) {
      expect(solution.loss[m]!).toBeLessThanOrEqual(start.loss[m]!);
      const e = new Float64Array(k);
      const near = new Float64Array(k);
      const s = solution.scales[m]!;
      for (let i = 0; i < k; i++) {
        e[i] = s * solution.codes[m * k + i]! - w[m * k + i]!;
        near[i] = s * Math.max(-8, Math.min(7, Math.round(w[m * k + i]! / s))) - w[m * k + i]!;
      }
      const quad = (v: Float64Array) => v.reduce((sum, a, i) => sum + v.reduce((t, b, j) => t + a * b * form.h[i * k + j]!, 0), 0);
      expect(quad(e) / solution.loss[m]!).toBeCloseTo(1, 4);
      expect(solution.loss[m]!).toBeLessThanOrEqual(quad(near) * (1 + 1e-9));
      nearest += quad(near);
    }
    expect(solution.loss.reduce((a, b) => a + b)).toBeLessThan(0.6 * nearest);
    expect(won).toBeGreaterThan(0);
  });
});
