import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lower } from "../../src/export/lower/index.ts";
import { checkModel } from "../../src/graph/check.ts";
import type { Model } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { allNodes } from "../../src/graph/walk.ts";
import { checkPlanAgainst } from "../../src/plan/check.ts";
import { simulate } from "../../src/plan/simulate.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import type { PlanBundle, Site } from "../../src/plan/types.ts";
import { improvePlan } from "../../src/ptq/improve.ts";
import { sqnrDb } from "../../src/quant/sqnr.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import type { OptLevel } from "../../src/runtime/types.ts";
import { planned } from "../plan/nets.ts";
import { Builder, feedsOf } from "../prepare/build.ts";
import { seededSet } from "../ptq/data.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const SIZES = [1, 1e-3, 400, 0, 7, 1e-30];
const COLUMNS = 12;

/** Rows of very different size, one of zeros and one near the least scale, read by two products; a third has its constant on the left. */
function rowsNet(opset: number): Model {
  const b = new Builder(opset);
  const x = b.input("x", [1, 6, 16]);
  const h = b.node("Mul", [x, b.floats("sizes", SIZES, [6, 1])], {}, "h");
  b.output(b.node("MatMul", [h, b.weight("q.w", [16, COLUMNS])], {}, "q"));
  const k = b.node("MatMul", [h, b.weight("k.w", [16, COLUMNS])], {}, "k");
  b.output(b.node("MatMul", [b.weight("l.w", [3, 6]), k], {}, "l"));
  return b.output(b.node("Add", [k, b.weight("k.b", [COLUMNS])], {}, "kb"));
}

async function run(model: Model, source: Model, level: OptLevel = "disabled") {
  const session = await runtime.open(writeModel(model), { level });
  try {
    return await session.run(feedsOf(source, 9));
  } finally {
    await session.release();
  }
}
const rows = (t: { readonly data: unknown }) => SIZES.map((_, i) => (t.data as Float32Array).subarray(COLUMNS * i, COLUMNS * (i + 1)));
const count = (m: Model, op: string): number => [...allNodes(m)].filter((n) => n.op === op).length;

describe.each(["portable", "ort-cpu"])("int8-tokens for %s", (target) => {
  test.each([13, 17, 21])("opset %i: the file equals the simulation at every level, in standard operators", async (opset) => {
    const source = rowsNet(opset);
    const p = await planned(runtime, source, target, "int8-tokens");
    expect(p.bundle.plan.sites.filter((s) => s.kind === "dynamic")).toMatchObject([
      { value: "h", per: "token", scheme: { dtype: "uint8", symmetric: true } },
    ]);
    const q = lower(p.model, p.bundle, targetOf(target));
    expect(checkModel(q)).toEqual([]);
    // Both products share the codes; a constant on the left is stored as codes alone.
    expect([count(q, "MatMulInteger"), count(q, "QuantizeLinear"), count(q, "MatMul")]).toEqual([2, 1, 1]);
    expect([...allNodes(q)].every((n) => n.domain === "")).toBe(true);
    const reference = await run(simulate(p.model, p.bundle), source);
    for (const level of ["disabled", "basic", "extended", "all"] as const) {
      const got = await run(q, source, level);
      // The same codes: what differs is sums of 16 products, in float32 there and in int32 here.
      for (const name of ["q", "kb"])
        rows(got[name]!).forEach((r, i) => {
          expect(r.every(Number.isFinite)).toBe(true);
          if (SIZES[i] !== 0) expect(sqnrDb(rows(reference[name]!)[i]!, r)).toBeGreaterThan(110);
        });
    }
  });

  test("each row keeps its digits, where one scale for all drowns the small ones", async () => {
    const source = rowsNet(17);
    const float = await run(source, source);
    const of = async (recipe: string) => {
      const p = await planned(runtime, source, target, recipe);
      return (await run(lower(p.model, p.bundle, targetOf(target)), source))["q"]!;
    };
    const [tokens, whole] = [await of("int8-tokens"), await of("int8-dynamic")];
    const dbs = (t: { readonly data: unknown }) => [0, 1, 2, 4].map((i) => sqnrDb(rows(float["q"]!)[i]!, rows(t)[i]!));
    // 8 bits on both sides, sums of 16: about 40 dB.
    for (const db of dbs(tokens)) expect(db).toBeGreaterThan(35);
    expect(Math.min(...dbs(whole))).toBeLessThan(10);
    expect([...rows(tokens)[3]!]).toEqual(new Array(COLUMNS).fill(0));
  });
});

test("a plan whose product and activation disagree is refused", async () => {
  const p = await planned(runtime, rowsNet(17), "portable", "int8-tokens");
  const edited = (change: (s: Site) => Site): PlanBundle => ({
    ...p.bundle,
    plan: { ...p.bundle.plan, sites: p.bundle.plan.sites.map(change) },
  });
  const target = targetOf("portable");
  expect(checkPlanAgainst(p.bundle, p.model, target)).toEqual([]);
  const whole = edited((s) =>
    s.kind === "dynamic" ? { kind: s.kind, value: s.value, consumers: s.consumers, scheme: s.scheme, because: "" } : s,
  );
  expect(checkPlanAgainst(whole, p.model, target).map((d) => "detail" in d && d.detail)).toEqual(
    ["q", "k"].map((n) => `matmul-integer-tokens needs a dynamic site for each token on input 0 of "${n}"`),
  );
});

test("rounding is solved behind per-token codes", async () => {
  const { model, bundle } = await planned(runtime, rowsNet(17), "portable", "int8-tokens");
  const out = await improvePlan({
    model,
    bundle,
    data: seededSet(model, 32),
    runtime,
    target: targetOf("portable"),
    effort: "default",
  });
  expect(out.plan.steps.map((s) => s.step)).toContain("rounding");
  for (const s of out.plan.steps) expect(s.after).toBeGreaterThan(30);
});
