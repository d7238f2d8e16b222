import { afterAll, beforeAll, expect, test } from "vitest";
import { explain } from "../../src/diagnostics.ts";
import { floats, tensorFrom } from "../../src/graph/tensor.ts";
import { CONSTRAINTS, type Constraint, checkPlanAgainst } from "../../src/plan/check.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import type { Plan, PlanBundle, Site } from "../../src/plan/types.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { type Planned, planned, residualNet } from "./nets.ts";

let runtime: NodeRuntime;
let p: Planned;
beforeAll(async () => {
  runtime = createRuntime();
  p = await planned(runtime, residualNet(), "tensorrt");
});
afterAll(() => runtime.close());

/** Constraints that a changed plan breaks. */
function broken(change: (plan: Plan) => Partial<Plan>, tensors = p.bundle.tensors): string[] {
  const bundle: PlanBundle = { plan: { ...p.bundle.plan, ...change(p.bundle.plan) }, tensors };
  const found = checkPlanAgainst(bundle, p.model, targetOf("tensorrt"));
  return [...new Set(found.map((d) => /breaks (P\d+)/.exec(explain(d).text)?.[1] ?? explain(d).text))].sort();
}
const swap = (kind: Site["kind"], to: (s: never) => Site) => (plan: Plan) => {
  const at = plan.sites.findIndex((s) => s.kind === kind);
  return { sites: plan.sites.map((s, i) => (i === at ? to(s as never) : s)) };
};
type Static = Extract<Site, { kind: "static" }>;
type Weight = Extract<Site, { kind: "weight" }>;
const onStatic = (f: (s: Static) => Partial<Static>) => swap("static", (s: Static) => ({ ...s, ...f(s) }) as Site);
const onWeight = (f: (s: Weight) => Partial<Weight>) => swap("weight", (s: Weight) => ({ ...s, ...f(s) }) as Site);

const CASES: Record<Constraint, (() => string[])[]> = {
  P1: [() => broken(onWeight(() => ({ scale: { tensor: "nowhere" } }))), () => broken((plan) => plan, new Map())],
  P2: [
    () => broken(onStatic(() => ({ scale: [0] }))),
    () => broken(onStatic(() => ({ scale: [0.1] }))), // no float32
    () => broken(onStatic(() => ({ scale: [-1] }))),
  ],
  P3: [
    () => broken(onStatic((s) => ({ scheme: { ...s.scheme, dtype: "uint8" as const }, zeroPoint: [256] }))),
    () => broken(onWeight(() => ({ zeroPoint: [0.5] }))),
  ],
  P4: [
    () => broken(onStatic(() => ({ scale: [1, 1] }))),
    () => broken(onWeight((s) => ({ scheme: { ...s.scheme, granularity: { kind: "channel", axis: 7 } } }))),
  ],
  P5: [
    () => broken(onStatic(() => ({ value: "nowhere" }))),
    () => broken(onStatic(() => ({ consumers: [{ node: "nowhere", input: 0 }] }))),
    () => broken(onStatic((s) => ({ consumers: [{ node: (s.consumers as { node: string; input: number }[])[0]!.node, input: 1 }] }))),
  ],
  P6: [() => broken((plan) => ({ sites: [...plan.sites, plan.sites[0]!] }))],
  P7: [
    () =>
      broken((plan) => ({
        sites: [
          {
            ...(plan.sites.find((s) => s.kind === "weight") as Weight),
            value: (plan.sites[0] as Static).value,
            consumers: plan.sites[0]!.consumers,
          },
        ],
      })),
    () =>
      broken(
        onWeight(() => ({ codes: { tensor: "c" } })),
        new Map([...p.bundle.tensors, ["c", tensorFrom(Int8Array.of(1, 2))]]),
      ),
  ],
  P8: [() => broken(onStatic(() => ({ value: "a.w", consumers: "all" })))],
  P9: [
    () => broken(onStatic(() => ({ zeroPoint: [3] }))),
    () => broken(onWeight((s) => ({ scheme: { ...s.scheme, dtype: "uint8" as const }, scale: [1], zeroPoint: [0] }))),
    () => broken(onWeight(() => ({ form: "matmul-nbits" as const }))),
  ],
  P10: [
    () =>
      broken(
        () => ({ replacements: [{ value: "a.w", tensor: { tensor: "r" }, because: "" }] }),
        new Map([...p.bundle.tensors, ["r", floats([1])]]),
      ),
  ],
  P11: [() => broken(() => ({ opset: 11 })), () => broken(() => ({ opset: 99 }))],
  P12: [() => broken(onWeight(() => ({ form: "gather-codes" as const })))],
};

test("the plan that the proposal makes breaks nothing", () => {
  expect(broken((x) => x)).toEqual([]);
});

test.each(Object.keys(CONSTRAINTS) as Constraint[])("%s is found when it is broken", (name) => {
  for (const make of CASES[name]) expect(make()).toContain(name);
});
