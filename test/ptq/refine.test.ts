import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Model } from "../../src/graph/ir.ts";
import type { ValueType } from "../../src/graph/types.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import type { PlanBundle } from "../../src/plan/types.ts";
import { improvePlan } from "../../src/ptq/improve.ts";
import { Judge, surelyBetter, type Verdict } from "../../src/ptq/judge.ts";
import { uniformAt } from "../../src/ptq/random.ts";
import { chooseFactor, FACTORS, refineRanges } from "../../src/ptq/refine.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { planned, residualNet } from "../plan/nets.ts";
import { seededSet } from "./data.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

type Types = ReadonlyMap<string, ValueType>;

/** The plan with one site's range so many times as wide. */
function stretched(bundle: PlanBundle, value: string, by: number): PlanBundle {
  const sites = bundle.plan.sites.map((s) =>
    s.kind === "static" && s.value === value && !("tensor" in s.scale) ? { ...s, scale: [Math.fround(s.scale[0]! * by)] } : s,
  );
  return { ...bundle, plan: { ...bundle.plan, sites } };
}

const scaleOf = (bundle: PlanBundle, value: string): number => {
  const s = bundle.plan.sites.find((x) => x.kind === "static" && x.value === value);
  if (s?.kind !== "static" || "tensor" in s.scale) throw new Error(`no scale of ${value}`);
  return s.scale[0]!;
};

const refine = (model: Model, bundle: PlanBundle, types: Types, n = 48) => {
  const data = seededSet(model, n);
  return refineRanges({
    model,
    types,
    bundle,
    runtime,
    indices: data.roles.calibrate,
    load: async (i) => (await data.sample(i)).feeds,
    seed: 3,
  });
};

describe("activation ranges by what they do downstream", () => {
  test.each(["portable", "tensorrt"])("%s: ranges that are wrong are found and set right", async (target) => {
    const { model, bundle, proposal } = await planned(runtime, residualNet(), target, "int8");
    const values = bundle.plan.sites.flatMap((s) => (s.kind === "static" ? [s.value] : []));
    expect(values.length).toBeGreaterThan(2);
    for (const [value, by] of [
      [values[1]!, 0.65],
      [values[2]!, 2.5],
    ] as const) {
      const wrong = stretched(bundle, value, by);
      const right = await refine(model, wrong, proposal.input.types);
      expect(right.changed).toBeGreaterThan(0);
      expect(right.after).toBeLessThan(right.before);
      const ratio = scaleOf(right.bundle, value) / scaleOf(bundle, value);
      expect(Math.abs(Math.log2(ratio))).toBeLessThan(Math.abs(Math.log2(by)) / 2);
      const o = { model, target: targetOf(target), runtime, data: seededSet(model, 48), indices: seededSet(model, 48).roles.select };
      const judge = new Judge(o);
      const before = await judge.measure(wrong);
      const after = await judge.measure(right.bundle);
      await judge.close();
      expect(surelyBetter(after, before)).toBe(true);
      expect(surelyBetter(before, after)).toBe(false);
    }
  });

  test("nothing but scales and ranges changes, and equal inputs give equal plans", async () => {
    const { model, bundle, proposal } = await planned(runtime, residualNet(), "tensorrt", "int8");
    const wrong = stretched(bundle, bundle.plan.sites.find((s) => s.kind === "static")!.value, 1.8);
    const out = await refine(model, wrong, proposal.input.types);
    expect((await refine(model, wrong, proposal.input.types)).bundle).toEqual(out.bundle);
    expect(out.bundle.tensors).toBe(wrong.tensors);
    out.bundle.plan.sites.forEach((s, i) => {
      const old = wrong.plan.sites[i]!;
      if (s.kind !== "static" || old.kind !== "static") expect(s).toEqual(old);
      else expect({ ...s, scale: 0, range: 0 }).toEqual({ ...old, scale: 0, range: 0 });
    });
  });

  test("too few samples change nothing", async () => {
    const { model, bundle, proposal } = await planned(runtime, residualNet(), "tensorrt", "int8");
    const out = await refine(
      model,
      stretched(bundle, bundle.plan.sites.find((s) => s.kind === "static")!.value, 1.8),
      proposal.input.types,
      8,
    );
    expect(out.changed).toBe(0);
  });

  test("the step keeps what the deciding samples confirm", async () => {
    const { model, bundle, stats, proposal } = await planned(runtime, residualNet(), "tensorrt", "int8");
    const wrong = stretched(bundle, bundle.plan.sites.find((s) => s.kind === "static")!.value, 0.5);
    const data = seededSet(model, 64);
    const ctx = {
      model,
      types: proposal.input.types,
      data,
      runtime,
      target: targetOf("tensorrt"),
      effort: "default",
      ...(stats && { stats }),
    } as const;
    const out = await improvePlan({ ...ctx, bundle: wrong, steps: ["refine"] });
    const step = out.plan.steps.at(-1)!;
    expect(step).toMatchObject({ step: "refine", kept: true });
    expect(step.after).toBeGreaterThan(step.before);
  });
});

describe("the choice of a factor", () => {
  const at = FACTORS.indexOf(1);
  const costs = (mean: (f: number) => number, noise: number, n = 64) =>
    Array.from({ length: n }, (_, i) => Float64Array.from(FACTORS, (_, f) => mean(f) * (1 + noise * (2 * uniformAt(9, i, f) - 1))));

  test("one is there, and stays where nothing is better or the difference is noise", () => {
    expect(at).toBeGreaterThan(0);
    expect(chooseFactor(costs((f) => 1 + Math.abs(f - at), 0.1))).toBe(at);
    expect(chooseFactor(costs(() => 1, 0))).toBe(at);
    // One sample alone speaks for another.
    const lone = Array.from({ length: 64 }, (_, i) =>
      Float64Array.from(FACTORS, (_, f) => (i === 0 && f === at ? 30 : f === at ? 0.9 : 1)),
    );
    expect(chooseFactor(lone)).toBe(at);
  });

  test("a clear minimum is taken, and of equal ones the nearest", () => {
    expect(chooseFactor(costs((f) => 1 + Math.abs(f - (at - 4)), 0.1))).toBe(at - 4);
    expect(chooseFactor(costs((f) => (f < at - 1 ? 0.5 : 1 + Math.abs(f - at)), 0))).toBe(at - 2);
  });
});

test("better is more than chance, in whole and on the samples", () => {
  const verdict = (samplesDb: number[], pooledDb: number): Verdict => ({ pooledDb, typicalDb: 0, samplesDb });
  const base = verdict([20, 21, 22, 23], 21);
  expect(surelyBetter(verdict([21, 22, 23.1, 24], 22), base)).toBe(true);
  expect(surelyBetter(verdict([21, 22, 23.1, 24], 20), base)).toBe(false);
  expect(surelyBetter(verdict([19, 30, 20, 24], 22), base)).toBe(false);
});
