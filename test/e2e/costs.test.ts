import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { saveModel } from "../../src/graph/onnx/index.ts";
import { writeNpy } from "../../src/io/npy.ts";
import type { CostTable } from "../../src/mixed/cost-table.ts";
import type { Plan } from "../../src/plan/types.ts";
import { freshFolder, qc, smallData, smallNet } from "./qc.ts";

const folder = freshFolder();
const at = (name: string) => join(folder, name);
saveModel(smallNet(), at("net.onnx"));
writeFileSync(at("x.npy"), writeNpy({ dtype: "float32", shape: [64, 2, 6, 6], data: smallData(64) }));
const json = <T>(name: string): T => JSON.parse(readFileSync(at(name), "utf8")) as T;
const quantize = (more: readonly string[], out: string) =>
  qc(["quantize", at("net.onnx"), "-d", at("x.npy"), "-t", "ort-cpu", "-e", "fast", "--cost-table", ...more, "-o", at(out)]);

test("times measured here keep slow nodes float; equal tables give equal bytes, others do what they say", {
  timeout: 120_000,
}, async () => {
  const made = await qc(["costs", at("net.onnx"), "-d", at("x.npy"), "--runs", "12", "-o", at("t.json")]);
  expect(made.stderr + made.stdout).not.toContain("✘");
  expect(made.code).toBe(0);
  const table = json<CostTable>("t.json");
  const products = table.nodes.filter((r) => "w8a8" in r.us);
  expect(products.length).toBeGreaterThanOrEqual(2);
  for (const r of products) expect(Object.keys(r.us)).toContain("float");
  expect(table.checks.map((c) => c.graph)).toEqual(expect.arrayContaining(["float", "w8a8", "w4a8", "mixture 1", "placement 1.1"]));
  for (const out of ["a.onnx", "b.onnx"]) expect((await quantize([at("t.json")], out)).stderr).not.toContain("✘");
  expect(readFileSync(at("a.onnx")).equals(readFileSync(at("b.onnx")))).toBe(true);
  expect(json<Plan>("a.plan.json").time).toMatchObject({ source: "onnxruntime", table: expect.stringMatching(/^[0-9a-f]{64}$/) });

  // A table in which codes cost nothing, and one in which they cost everything.
  const us = (float: number, codes: number) =>
    table.nodes.map((r) => ({
      ...r,
      us: Object.fromEntries(Object.keys(r.us).map((s) => [s, s === "float" ? float : codes])),
      toCodes: 0,
      toFloat: 0,
    }));
  const { fastest: _, ...rest } = table;
  writeFileSync(at("fast.json"), JSON.stringify({ ...rest, nodes: us(50, 1) }));
  writeFileSync(at("slow.json"), JSON.stringify({ ...rest, nodes: us(1, 50) }));
  await quantize([at("fast.json")], "fast.onnx");
  await quantize([at("slow.json")], "slow.onnx");
  const slow = (name: string) => json<Plan>(name).skips.filter((s) => s.code === "target-slow" && s.op === "Conv");
  expect(slow("fast.plan.json")).toEqual([]);
  expect(slow("slow.plan.json").length).toBeGreaterThan(0);
  expect(slow("slow.plan.json")[0]!.detail).toContain("float takes 1.0 µs, codes 50.0 µs");
});

test("a limit that cannot be met ends with 3 and says by how much; a wrong table with 1 and a code", { timeout: 120_000 }, async () => {
  const missed = await qc([
    "quantize",
    at("net.onnx"),
    "-d",
    at("x.npy"),
    "-t",
    "ort-cpu",
    "--samples",
    "32",
    "--cost-table",
    at("t.json"),
    "-b",
    "latency<=0.0001x",
    "-o",
    at("m.onnx"),
  ]);
  expect(missed.code).toBe(3);
  expect(missed.stderr).toMatch(/latency<=0\.0001x" is missed: \d\.\d+ of the float model's time/);
  writeFileSync(at("other.json"), JSON.stringify({ ...json<CostTable>("t.json"), model: { structure: "x", weights: "x" } }));
  const wrong = await quantize([at("other.json")], "w.onnx");
  expect(wrong.code).toBe(1);
  expect(wrong.stderr).toContain("[costs/mismatch]");
  writeFileSync(at("bad.json"), "{");
  expect((await quantize([at("bad.json")], "w.onnx")).stderr).toContain("[costs/malformed]");
});

test("layer profiles of TensorRT engines make a table; fused layers are shared, lost ones named", { timeout: 60_000 }, async () => {
  const nodes = smallNet().graph.nodes.filter((n) => n.op === "Conv" || n.op === "Gemm" || n.op === "MatMul");
  const names = nodes.map((n) => n.name || n.outputs[0]!.name);
  const profile = (each: number) =>
    JSON.stringify([
      { count: 10 },
      ...names.map((n, i) => ({
        name: i === 0 ? `${n} + PWN(Relu)` : `Reformatting CopyNode for Input Tensor 0 to ${n}`,
        timeMs: 1,
        averageMs: each,
        percentage: 1,
      })),
      { name: "entry", averageMs: 0.001 },
    ]);
  writeFileSync(at("f.prof"), profile(0.02));
  writeFileSync(at("i.prof"), profile(0.005));
  const made = await qc([
    "costs",
    at("net.onnx"),
    "-d",
    at("x.npy"),
    "-t",
    "tensorrt",
    "-r",
    "int8",
    "--profile",
    `float=${at("f.prof")}`,
    "--profile",
    `w8a8=${at("i.prof")}`,
    "-o",
    at("trt.json"),
  ]);
  expect(made.stderr + made.stdout).not.toContain("✘");
  const t = json<CostTable>("trt.json");
  expect(t.source).toMatchObject({ kind: "tensorrt", profiles: [{ scheme: "float" }, { scheme: "w8a8" }] });
  expect(t.nodes.find((r) => r.node === names[0])!.us).toEqual({ float: 20, w8a8: 5 });
  expect(t.floatUs).toBeCloseTo(20 * names.length + 1, 6);
  writeFileSync(at("lost.prof"), JSON.stringify([{ name: "something", averageMs: 1 }]));
  const lost = await qc([
    "costs",
    at("net.onnx"),
    "-d",
    at("x.npy"),
    "-t",
    "tensorrt",
    "-r",
    "int8",
    "--profile",
    `float=${at("lost.prof")}`,
  ]);
  expect(lost.code).toBe(1);
  expect(lost.stderr).toContain("[costs/no-layer]");
  writeFileSync(at("no.prof"), JSON.stringify([{ name: "x", averageMs: -1 }]));
  expect(
    (await qc(["costs", at("net.onnx"), "-d", at("x.npy"), "-t", "tensorrt", "--profile", `float=${at("no.prof")}`])).stderr,
  ).toContain("[costs/bad-profile]");
});
