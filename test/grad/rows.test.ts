import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { GRADIENTS, gradientTable } from "../../src/grad/index.ts";
import { ONNX_OPS, type OnnxOp } from "../../src/graph/ops/names.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Runtime } from "../../src/runtime/types.ts";
import { CASES } from "./cases.ts";
import { type Case, gradientError, Rng, type Shapes } from "./check.ts";

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const ROUNDS = Number(process.env["QC_GRAD_ROUNDS"] ?? 3);
/** Rows that need sizes, not ranks alone: resampling matrices, SAME padding and pooling counts are computed before the run. */
const NEEDS_SIZES: readonly OnnxOp[] = ["Resize", "Conv", "ConvTranspose", "AveragePool"];

describe.each(Object.keys(CASES) as OnnxOp[])("%s", (op) => {
  test.each(["static", "batch", "open"] as const)("gradient equals central differences, shapes %s", async (shapes: Shapes) => {
    for (let round = 0; round < ROUNDS; round++) {
      for (const [which, make] of CASES[op]!.entries()) {
        const seed = round * 100 + which;
        const c: Case = { op, ...make(new Rng(seed + 17)) };
        const error = await gradientError(runtime, c, seed, shapes);
        if (error === "grad/unknown-shape" && shapes !== "static" && NEEDS_SIZES.includes(op)) continue;
        const what = JSON.stringify({ seed, attrs: c.attrs, shapes: c.inputs.map((x) => x?.shape) });
        expect(error, what).toBeTypeOf("number");
        expect(error, what).toBeLessThan(c.tolerance ?? 1e-6);
      }
    }
  });
});

test("every differentiated operator has cases, and no other has", () => {
  const rows = ONNX_OPS.filter((op) => typeof GRADIENTS[op] === "function");
  expect(rows.length).toBeGreaterThan(90);
  expect(Object.keys(CASES).sort()).toEqual([...rows].sort());
  for (const [op, why] of gradientTable()) expect(typeof GRADIENTS[op] === "function" ? "" : GRADIENTS[op].none).toBe(why);
});
