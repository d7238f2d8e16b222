import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, expect, test } from "vitest";
import { type BuilderAnswer, productsIn } from "../../src/cli/builder.ts";
import { lintModel } from "../../src/export/lint/index.ts";
import { lower } from "../../src/export/lower/index.ts";
import type { Model } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { tensorType } from "../../src/graph/types.ts";
import { recipeOf } from "../../src/plan/recipes/index.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { planOf } from "../../src/ptq/ranges.ts";
import { castProposal, castRest } from "../../src/ptq/rest.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import { planned, residualNet } from "../plan/nets.ts";
import { Builder } from "../prepare/build.ts";

const python = process.env["QC_TENSORRT_PYTHON"];
const runtime = createRuntime({ workers: 1 });
afterAll(() => runtime.close());

/** Recipe, float type of the rest, and the operands that each product must have. */
const CASES = [
  ["int8", "float32", "Int8 × Int8"],
  ["int8", "float16", "Int8 × Int8"],
  ["w4a8", "float32", "Int8 × Int8"],
  ["fp8", "float16", "FP8 × FP8"],
  ["fp8", "bfloat16", "FP8 × FP8"],
  ["fp16", "float16", "Half × Half"],
  ["bf16", "bfloat16", "BFloat16 × BFloat16"],
] as const;
/** The block formats, and where TensorRT-RTX multiplies them. */
const BLOCK_CASES = [
  ["nvfp4", "float16", /^FP4E2M1 × FP4E2M1 → Half/],
  ["nvfp4", "float32", /^FP4E2M1 × FP4E2M1 → Float/],
  ["mxfp8", "float16", /^Half × (FP8|Half)/],
] as const;

/** Two products of a matrix, the second behind a clamp, whose sizes and blocks fit; the second's activations are tiny. */
function matrixNet(): Model {
  const b = new Builder(17);
  const x = b.input("x", [8, 64]);
  const h = b.node("Relu", [b.node("Gemm", [x, b.weight("a.w", [64, 32]), b.weight("a.b", [32])], {}, "a")], {}, "h");
  const t = b.node("Mul", [h, b.floats("tiny", [2 ** -9], [])], {}, "t");
  return b.output(b.node("MatMul", [t, b.weight("y.w", [32, 16])], {}, "y"));
}

async function builds(name: (typeof BLOCK_CASES)[number][0] | "fp8", floatType: "float16" | "float32", spec: string) {
  const target = targetOf(spec);
  const recipe = { ...recipeOf(name), floatType };
  const { bundle, model, proposal } = await planned(runtime, matrixNet(), spec, name);
  const lowered = lower(model, castRest(bundle, { model, types: proposal.input.types, recipe, target, stats: undefined }), target);
  for (const v of lowered.graph.outputs) v.graph.setType(v, tensorType("float32", [8, 16]));
  expect(lintModel(lowered, target).filter((f) => f.kind !== "slow")).toEqual([]);
  const folder = mkdtempSync(join(tmpdir(), "qc-builder-"));
  const file = join(folder, "net.onnx");
  writeFileSync(file, writeModel(lowered));
  const script = resolve(import.meta.dirname, "../../tools/tensorrt-builder.py");
  const out = execFileSync(python!, [script, "--plan", target.arch!, file], { encoding: "utf8" });
  rmSync(folder, { recursive: true });
  const answer = JSON.parse(out.trim().split("\n").at(-1)!) as BuilderAnswer;
  expect(answer.errors).toEqual([]);
  return productsIn(lowered, answer.kernels);
}

test.skipIf(!python).each(BLOCK_CASES)(
  "NVIDIA's builder takes %s with %s around (set QC_TENSORRT_PYTHON)",
  { timeout: 60_000 },
  async (name, floatType, operands) => {
    const products = await builds(name, floatType, "tensorrt@11:sm120");
    expect(products).toHaveLength(2);
    // The second has one block of 32, which MXFP8 leaves in float16.
    for (const p of products) expect(p.types, p.node).toMatch(operands);
  },
);

test.skipIf(!python)(
  "scales of a product have one type, also where one is too small for float16 (set QC_TENSORRT_PYTHON)",
  { timeout: 60_000 },
  async () => {
    for (const p of await builds("fp8", "float16", "tensorrt@11:sm89")) expect(p.types, p.node).toMatch(/^FP8 × FP8/);
  },
);

test.skipIf(!python).each(CASES)(
  "NVIDIA's builder takes %s with %s around and runs every product in its type (set QC_TENSORRT_PYTHON)",
  { timeout: 60_000 },
  async (name, floatType, operands) => {
    const target = targetOf("tensorrt@11:sm89");
    const recipe = { ...recipeOf(name), floatType };
    const source = residualNet();
    const { model, types } = await prepareModel(source, runtime);
    const base = recipe.weight
      ? (await planned(runtime, source, "tensorrt@11:sm89", name)).bundle
      : planOf(castProposal({ model, types, target, recipe }), undefined, undefined);
    const lowered = lower(model, castRest(base, { model, types, recipe, target, stats: undefined }), target);
    // The parser wants stated types; the small net states none.
    for (const v of lowered.graph.outputs) v.graph.setType(v, tensorType("float32", [1, 10]));
    expect(lintModel(lowered, target).filter((f) => f.kind !== "slow")).toEqual([]);
    const folder = mkdtempSync(join(tmpdir(), "qc-builder-"));
    const file = join(folder, "net.onnx");
    writeFileSync(file, writeModel(lowered));
    const out = execFileSync(python!, [resolve(import.meta.dirname, "../../tools/tensorrt-builder.py"), "--plan", "sm89", file], {
      encoding: "utf8",
    });
    rmSync(folder, { recursive: true });
    const answer = JSON.parse(out.trim().split("\n").at(-1)!) as BuilderAnswer;
    expect(answer.errors).toEqual([]);
    const products = productsIn(lowered, answer.kernels);
    expect(products).toHaveLength(3);
    for (const p of products) expect(p.types, p.node).toMatch(new RegExp(`^${operands}`));
  },
);
