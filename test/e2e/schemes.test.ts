import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { parseBuild, wishesOf } from "../../src/build-config.ts";
import { QcError } from "../../src/diagnostics.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { writeNpz } from "../../src/io/npz.ts";
import { parsePlan } from "../../src/plan/io.ts";
import type { Plan } from "../../src/plan/types.ts";
import { parseRecipe } from "../../src/recipe-file.ts";
import { residualNet } from "../plan/nets.ts";
import { feedsOf } from "../prepare/build.ts";
import { freshFolder, qc } from "./qc.ts";

/** Schemes by pattern, from a file, and from a plan. */

let folder: string;
let model: string;
let data: string;
let size: number;
const at = (name: string) => join(folder, name);
const weights = (p: Plan) => Object.fromEntries(p.sites.flatMap((s) => (s.kind === "weight" ? [[s.value, s.scheme.dtype]] : [])));
const planOf = (file: string) => parsePlan(readFileSync(at(file), "utf8"));

beforeAll(() => {
  folder = freshFolder();
  model = at("m.onnx");
  data = at("d.npz");
  const net = residualNet();
  writeFileSync(model, writeModel(net));
  const samples = Array.from({ length: 24 }, (_, i) => Object.entries(feedsOf(net, i + 1)));
  const [name, first] = samples[0]![0]!;
  const each = (first.data as Float32Array).length;
  const all = new Float32Array(24 * each);
  for (const [i, s] of samples.entries()) all.set(s[0]![1].data as Float32Array, i * each);
  const array = { dtype: "float32", shape: [24 * first.dims[0]!, ...first.dims.slice(1)], data: all } as const;
  writeFileSync(data, Buffer.concat(writeNpz([[name, array]])));
  size = readFileSync(model).byteLength;
});

const run = (...args: string[]) => qc(["quantize", model, "--data", data, "--verify-samples", "4", ...args]);

test("a recipe file says schemes by pattern; the search keeps them; its plan starts the next, edited or not", async () => {
  writeFileSync(at("mine.yaml"), "base: w4a8\nschemes: { 'c': w8a8, 'op:Gemm': float }\n");
  const budget = ["--budget", "bits<=30"];
  const first = await run("--recipe", at("mine.yaml"), ...budget, "-o", at("a.onnx"), "--plan", at("a.json"));
  expect(first.stderr).not.toContain("✘");
  const a = planOf("a.json");
  expect(a.schemes).toEqual({ c: "w8a8", "op:Gemm": "float" });
  expect(a.recipe).toBe("w4a8");
  const pinnedSite = a.sites.find((s) => s.kind === "weight" && s.because.includes("pinned"));
  expect(pinnedSite?.scheme.dtype).toBe("int8");
  expect(a.skips.some((s) => s.op === "Gemm" && s.code === "user")).toBe(true);

  // Without a budget every layer keeps what the plan gives it.
  await run("--start", at("a.json"), "--effort", "fast", "-o", at("b.onnx"), "--plan", at("b.json"));
  expect(weights(planOf("b.json"))).toEqual(weights(a));

  // Pins edited by hand.
  const edited = readFileSync(at("a.json"), "utf8").replace('"c": "w8a8"', '"c": "w4a8"');
  expect(edited).toContain('"c": "w4a8"');
  writeFileSync(at("edited.json"), edited);
  await run("--start", at("edited.json"), ...budget, "-o", at("d.onnx"), "--plan", at("d.json"));
  const d = planOf("d.json");
  expect(d.schemes).toEqual({ c: "w4a8", "op:Gemm": "float" });
  const changed = pinnedSite!.value;
  expect(weights(d)[changed]).toBe("int4");
  expect(readFileSync(at("d.onnx")).byteLength).toBeLessThan(size);
}, 60_000);

test("what a recipe file may hold", () => {
  expect(parseRecipe("base: int8\nskip: ['op:Softmax']\nbudget: size<=1MB", "r.yaml")).toEqual({
    base: "int8",
    skip: ["op:Softmax"],
    budget: "size<=1MB",
  });
  const fails = (text: string) => {
    try {
      parseRecipe(text, "r.yaml");
    } catch (e) {
      return e instanceof QcError ? e.message : String(e);
    }
    return "";
  };
  expect(fails("base: int8\nscheme: {}")).toContain("schemes");
  expect(fails("base: w5a8")).toContain("base");
  expect(fails("schemes: {}")).toContain("base");
  expect(fails("base: [")).toContain("r.yaml");
});

test("schemes of a build file become pins: those of all models, then the model's own", () => {
  const config = parseBuild(
    "options: { schemes: { 'head.*': w8a8 } }\nmodels: { net: { file: m.onnx, options: { schemes: { 'head.last': float }, effort: fast } } }",
    "qc.yaml",
  );
  expect(wishesOf(config)[0]!.options).toEqual({
    effort: "fast",
    scheme: ["head.*=w8a8", "head.last=float"],
    target: "portable",
    recipe: "auto",
  });
});
