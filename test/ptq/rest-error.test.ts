import { afterAll, expect, test } from "vitest";
import type { Diagnostic } from "../../src/diagnostics.ts";
import type { Model } from "../../src/graph/ir.ts";
import { recipeOf } from "../../src/plan/recipes/index.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { planOf } from "../../src/ptq/ranges.ts";
import { castProposal, castRest } from "../../src/ptq/rest.ts";
import { keepByError, toleranceDb } from "../../src/ptq/rest-error.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import { Builder } from "../prepare/build.ts";
import { seededSet } from "./data.ts";

const runtime = createRuntime({ workers: 1 });
afterAll(() => runtime.close());

/** h is large and nearly constant; its difference from its mean is all that the output sees: rounding h to 11 bits drowns it. */
function cancelling(): Model {
  const b = new Builder(17);
  const x = b.input("x", [1, 16]);
  const h = b.node("Add", [b.node("MatMul", [x, b.weight("w", [16, 16])], {}, "m"), b.floats("large", [1000], [])], {}, "h");
  const d = b.node("Sub", [h, b.node("ReduceMean", [h], { axes: [-1] }, "mean")], {}, "d");
  return b.output(b.node("MatMul", [d, b.weight("v", [16, 4])], {}, "y"));
}
function plain(): Model {
  const b = new Builder(17);
  const x = b.input("x", [1, 16]);
  return b.output(
    b.node("MatMul", [b.node("Relu", [b.node("MatMul", [x, b.weight("w", [16, 16])], {}, "m")], {}, "r"), b.weight("v", [16, 4])], {}, "y"),
  );
}

async function measured(source: Model) {
  const target = targetOf("ort-cpu");
  const recipe = recipeOf("fp16");
  const { model, types } = await prepareModel(source, runtime);
  const base = planOf(castProposal({ model, types, target, recipe }), undefined, undefined);
  const cast = castRest(base, { model, types, recipe, target, stats: undefined });
  const said: Diagnostic[] = [];
  const kept = await keepByError(cast, { model, target, data: seededSet(model, 8), runtime, report: (d) => said.push(d) });
  return { cast, kept, said };
}

test("a difference of large numbers stays float32, with the decibels that it gains as the reason", async () => {
  const { kept, said } = await measured(cancelling());
  const rest = kept.plan.rest!;
  const large = rest.keep.find((k) => /^h/.test(k.value));
  expect(large?.because).toMatch(/^float32 takes [0-9.]+ dB of noise off the outputs \((Add|Sub|ReduceMean)\)$/);
  expect(said).toMatchObject([{ code: "plan/rest-error", to: "float16" }]);
  const d = said[0] as Extract<Diagnostic, { code: "plan/rest-error" }>;
  expect(d.beforeDb).toBeLessThan(toleranceDb("float16"));
  expect(d.afterDb).toBeGreaterThan(d.beforeDb + 6);
  // Products are not the cause, and stay in 16 bits where they can.
  expect(rest.keep.map((k) => k.value)).not.toContain("m");
});

test("a network within the tolerance is left as it is, and nothing is said", async () => {
  const { cast, kept, said } = await measured(plain());
  expect(kept).toBe(cast);
  expect(said).toEqual([]);
});

test("the tolerance is 25 dB below what one rounding leaves", () => {
  // 11 and 8 significant bits: 6.02 dB a bit and 4.77 dB for a uniform error.
  expect(toleranceDb("float16")).toBeCloseTo(11 * 6.0206 + 4.771 - 25, 2);
  expect(toleranceDb("bfloat16")).toBeCloseTo(8 * 6.0206 + 4.771 - 25, 2);
});
