import { afterAll, beforeAll, expect, test } from "vitest";
import { CALIBRATORS } from "../../src/calibrate/calibrators.ts";
import { Observer } from "../../src/calibrate/observer.ts";
import type { ValueStats } from "../../src/calibrate/types.ts";
import type { Diagnostic } from "../../src/diagnostics.ts";
import type { PlanBundle } from "../../src/plan/types.ts";
import { planOf, rangeBy } from "../../src/ptq/ranges.ts";
import { LEAST_DB, wholeSqnrDb } from "../../src/ptq/sound.ts";
import { floatSuspects, SUSPECT_DB, suspectsOf } from "../../src/ptq/suspects.ts";
import { chooseSymmetric } from "../../src/quant/affine.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { planned, residualNet } from "../plan/nets.ts";
import { numbers } from "../prepare/build.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const next = numbers(5);
const normal = Float32Array.from({ length: 20_000 }, () => next() + next() + next());
function statsOf(name: string, x: Float32Array): ValueStats {
  const o = new Observer(name);
  o.add(x);
  return o.result();
}

test("what a range leaves of the whole counts clipping by its power", () => {
  const q = (absmax: number) => chooseSymmetric(absmax, "int8");
  const exact = (x: Float32Array, absmax: number): number => {
    const { scale } = q(absmax);
    const noise = x.reduce((s, v) => s + (v - Math.max(-128, Math.min(127, Math.round(v / scale))) * scale) ** 2, 0);
    return 10 * Math.log10(x.reduce((s, v) => s + v * v, 0) / noise);
  };
  for (const absmax of [3, 1, 10, 60]) expect(wholeSqnrDb(statsOf("v", normal), q(absmax))).toBeCloseTo(exact(normal, absmax), 0);
  const spiked = normal.slice();
  spiked[7] = 3000;
  expect(wholeSqnrDb(statsOf("v", spiked), q(3))).toBeLessThan(LEAST_DB);
  expect(wholeSqnrDb(statsOf("v", spiked), q(3000))).toBeGreaterThan(20);
});

/** Plans of the residual network in which "ra" has a few values 50 times larger than the rest. */
async function suspicious() {
  const p = await planned(runtime, residualNet(), "portable");
  const spread = Float32Array.from(normal, (v, i) => (i % 1000 === 0 ? 150 : Math.abs(v)));
  const stats = { ...p.stats!, values: new Map([...p.stats!.values, ["ra", statsOf("ra", spread)]]) };
  const rangeOf = rangeBy(CALIBRATORS.minmax);
  return { proposal: p.proposal, stats, rangeOf, bundle: planOf(p.proposal, stats, rangeOf) };
}
const hasSite = (b: PlanBundle, value: string): boolean => b.plan.sites.some((s) => s.kind === "static" && s.value === value);

test("a suspect goes to float when the outputs gain by it, and only then", async () => {
  const o = await suspicious();
  const found = suspectsOf(o.proposal, o.bundle, o.stats);
  expect(found.map((s) => [s.value, s.nodes, s.db < SUSPECT_DB])).toEqual([["ra", ["c"], true]]);

  const told: Diagnostic[] = [];
  const run = (floatNoise: number) =>
    floatSuspects({
      ...o,
      report: (d) => told.push(d),
      evaluate: async (plans) => plans.map((p) => (hasSite(p, "ra") ? 0.01 : floatNoise)),
    });
  const better = await run(0.005);
  expect(hasSite(better, "ra")).toBe(false);
  expect(better.plan.skips.find((s) => s.node === "c")?.code).toBe("range-unsound");
  expect(better.plan.steps.map((s) => [s.step, s.before.toFixed(1), s.after.toFixed(1), s.kept])).toEqual([
    ["float-suspect", "20.0", "23.0", true],
  ]);
  expect(told.map((d) => d.code)).toEqual(["plan/suspect-float"]);
  expect(await run(0.009)).toBe(o.bundle);
});

test("no suspect, no inference", async () => {
  const p = await planned(runtime, residualNet(), "portable");
  const evaluate = async (): Promise<readonly number[]> => Promise.reject(new Error("not asked for"));
  const rangeOf = rangeBy(CALIBRATORS.minmax);
  expect(await floatSuspects({ proposal: p.proposal, bundle: p.bundle, stats: p.stats!, rangeOf, report: () => {}, evaluate })).toBe(
    p.bundle,
  );
});
