import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { saveModel } from "../../src/graph/onnx/index.ts";
import { withBias } from "../export/lint-nets.ts";
import { freshFolder, qc, smallNet } from "./qc.ts";

test("a float network is legal: exit 0, and --json says so", async () => {
  const file = join(freshFolder(), "net.onnx");
  saveModel(smallNet(), file);
  const r = await qc(["lint", file, "--target", "tensorrt", "--json"]);
  expect(r.code).toBe(0);
  expect(JSON.parse(r.stdout)).toMatchObject({ ok: true, target: "tensorrt", counts: { reject: 0, meaning: 0 } });
});

test("a bias of int32 codes is refused for TensorRT: exit 3, the node and the remedy, and SARIF", async () => {
  const folder = freshFolder();
  const file = join(folder, "net.onnx");
  const sarif = join(folder, "lint.sarif");
  saveModel(withBias(), file);
  const r = await qc(["lint", file, "-t", "tensorrt", "--sarif", sarif]);
  expect(r.code).toBe(3);
  expect(r.stdout).toContain("bias_dq");
  expect(r.stdout).toContain("→");
  const doc = JSON.parse(readFileSync(sarif, "utf8")) as { runs: { results: { level: string; ruleId: string }[] }[] };
  expect(doc.runs[0]!.results.some((x) => x.level === "error")).toBe(true);
});

test("--with-builder asks about TensorRT only", async () => {
  const file = join(freshFolder(), "net.onnx");
  saveModel(smallNet(), file);
  const r = await qc(["lint", file, "-t", "ort-cpu", "--with-builder"]);
  expect(r.code).toBe(2);
  expect(r.stderr).toContain("cli/builder-target");
});

test.skipIf(!process.env["QC_TENSORRT_PYTHON"])("NVIDIA's builder says in which type a product runs (set QC_TENSORRT_PYTHON)", async () => {
  const folder = freshFolder();
  const [float, refused] = [join(folder, "float.onnx"), join(folder, "refused.onnx")];
  saveModel(smallNet(), float);
  saveModel(withBias(), refused);
  const taken = await qc(["lint", float, "-t", "tensorrt", "--with-builder", "--json"]);
  expect(taken.code).toBe(0);
  const { builder } = JSON.parse(taken.stdout) as { builder: { taken: boolean; products: { node: string; types: string }[] } };
  expect(builder.taken).toBe(true);
  expect(builder.products.map((p) => p.types)).toEqual(["Float × Float → Float", "Float × Float → Float"]);
  const not = await qc(["lint", refused, "-t", "tensorrt", "--with-builder", "--json"]);
  expect(not.code).toBe(3);
  expect(JSON.parse(not.stdout)).toMatchObject({ builder: { taken: false } });
});
