import { expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { RECIPES, recipeOf } from "../../src/plan/recipes/index.ts";
import { irVersionOf, lowestOpset, NO_NEED, printTarget, TARGET_NAMES } from "../../src/plan/target.ts";
import { targetOf } from "../../src/plan/targets/index.ts";

const message = (f: () => unknown): string => {
  try {
    f();
  } catch (e) {
    expect(e).toBeInstanceOf(QcError);
    expect((e as QcError).exitCode).toBe(2);
    return (e as QcError).message;
  }
  throw new Error("no error");
};

test("a target is read with version and architecture, and printed the same", () => {
  for (const spec of [
    "portable",
    "ort-cpu",
    "ort-cuda",
    "ort-webgpu",
    "tensorrt",
    "tensorrt@8.6",
    "tensorrt@10:sm75",
    "tensorrt:sm120",
    "tensorrt@11:sm89",
  ])
    expect(printTarget(targetOf(spec))).toBe(spec);
});

test("unknown names, versions and architectures are errors with the nearest word", () => {
  expect(message(() => targetOf("tensort"))).toContain('Did you mean "tensorrt"?');
  expect(message(() => targetOf("ort_cpu"))).toContain('Did you mean "ort-cpu"?');
  expect(message(() => targetOf("tensorrt@9"))).toContain('unknown version of tensorrt "9"');
  expect(message(() => targetOf("tensorrt:sm9"))).toContain('unknown architecture of tensorrt "sm9"');
  expect(message(() => targetOf("portable@2"))).toContain("version of portable");
  expect(message(() => recipeOf("int8-dynamik"))).toContain('Did you mean "int8-dynamic"?');
});

test("every row of every target says where it comes from", () => {
  for (const spec of [...TARGET_NAMES, "tensorrt@8.6"]) {
    const t = targetOf(spec);
    expect(t.rows.length).toBeGreaterThan(0);
    for (const r of [...t.rows, ...t.notes, ...t.rows.flatMap((x) => (x.slow ? [x.slow] : []))])
      expect(r.source.length).toBeGreaterThan(10);
    for (const op of t.rows.flatMap((r) => r.ops)) expect(op).toMatch(/^[A-Z]/);
  }
});

test("what a version or an architecture lacks is not in its table", () => {
  const dtypes = (spec: string) => new Set(targetOf(spec).rows.flatMap((r) => [...r.weight.map((w) => w.dtype), ...r.activation]));
  expect(dtypes("tensorrt@8.6")).toEqual(new Set(["int8"]));
  expect(targetOf("tensorrt@8.6").opset.max).toBe(17);
  expect(dtypes("tensorrt@11:sm75").has("int4")).toBe(false);
  expect(dtypes("tensorrt@11:sm86").has("float8e4m3fn")).toBe(false);
  expect(dtypes("tensorrt@11:sm89").has("float8e4m3fn")).toBe(true);
  expect(targetOf("ort-cuda").placement).toBe("weights-only");
});

test("the lowest opset that a plan needs, and its IR version", () => {
  expect(lowestOpset(NO_NEED)).toBe(13);
  expect(lowestOpset({ ...NO_NEED, float8: true })).toBe(19);
  expect(lowestOpset({ ...NO_NEED, fourBit: true })).toBe(21);
  expect(lowestOpset({ ...NO_NEED, float4: true })).toBe(23);
  // onnx/helper.py VERSION_TABLE.
  expect([9, 11, 13, 15, 17, 19, 21, 23, 24, 25].map(irVersionOf)).toEqual([4, 6, 7, 8, 8, 9, 10, 11, 12, 13]);
});

test("recipes say whether they need data", () => {
  for (const name of Object.keys(RECIPES)) {
    const r = recipeOf(name);
    expect(r.data).toBe(r.activations === "static");
    expect(r.summary.length).toBeGreaterThan(10);
  }
});
