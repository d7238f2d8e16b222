import { afterAll, beforeAll, expect, test } from "vitest";
import { explain } from "../src/explain.ts";
import { targetOf } from "../src/plan/targets/index.ts";
import { improvePlan } from "../src/ptq/improve.ts";
import { createRuntime, type NodeRuntime } from "../src/runtime/index.ts";
import { planned, residualNet } from "./plan/nets.ts";
import { seededSet } from "./ptq/data.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

test("says which step did what for which layer, and what a layer would gain", async () => {
  const { model, bundle, stats } = await planned(runtime, residualNet(), "portable", "w4a8");
  const out = await improvePlan({
    model,
    bundle,
    data: seededSet(model, 32),
    runtime,
    target: targetOf("portable"),
    effort: "best",
    ...(stats && { stats }),
  });
  const all = explain(out);
  const products = out.plan.sites.flatMap((s) => (s.kind === "weight" && s.consumers !== "all" ? s.consumers.map((c) => c.node) : []));
  const kept = out.plan.steps.find((s) => s.step === "rounding")!;
  expect(kept.kept).toBe(true);
  expect(new Set(kept.gains!.map((g) => g.at))).toEqual(new Set(products));
  // Behind 4-bit round-to-nearest codes every layer has something to win.
  for (const g of kept.gains!) expect(g.gainDb).toBeGreaterThan(0);
  // A step that was rolled back did nothing for anybody.
  for (const s of out.plan.steps) if (!s.kept) expect(s.gains).toBeUndefined();
  expect(all.gains.filter((g) => g.step === "rounding").length).toBe(products.length);
  expect(all.reverts.length).toBe(3 * products.length);

  const one = explain(out, products[1]!);
  expect(one.steps).toEqual([]);
  expect(one.gains.length).toBeGreaterThan(0);
  const near = new Set([products[1]!, ...one.sites.map((s) => s.value)]);
  expect(one.gains.every((g) => near.has(g.at))).toBe(true);
  expect(one.reverts.map((r) => r.to).sort()).toEqual(["a16", "float", "w8"]);
});
