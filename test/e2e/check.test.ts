import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { cloneModel } from "../../src/graph/clone.ts";
import { loadModel, saveModel } from "../../src/graph/onnx/index.ts";
import { floats } from "../../src/graph/tensor.ts";
import { freshFolder, qc, root } from "./qc.ts";

const digits = join(root, "calibration-sets/digits");
const model = join(digits, "model.onnx");
const folder = freshFolder();
const broken = join(folder, "broken.onnx");
const COMMON = ["--data", digits, "--samples", "200", "--json", "--quiet"];

beforeAll(() => {
  // The last layer's first class never wins again.
  const m = cloneModel(loadModel(model));
  const bias = m.graph.initializers.find((v) => v.data?.shape.join() === "10")!;
  const node = bias.uses[0]!.node;
  const b = new Float32Array(10);
  b[3] = -1000;
  const at = node.inputs.indexOf(bias);
  m.graph.replaceUse(node, at, m.graph.constant(floats(b, [10]), "spoiled"));
  saveModel(m, broken);
});

test("a model passes against itself without times, and a destroyed class fails with exit code 3", async () => {
  const same = await qc(["check", model, model, ...COMMON, "--rounds", "0"]);
  expect(same.code, same.stderr).toBe(0);
  const bad = await qc(["check", model, broken, ...COMMON, "--rounds", "0", "--junit", join(folder, "j.xml")]);
  expect(bad.code).toBe(3);
  const { failed, metric } = JSON.parse(bad.stdout) as { failed: { check: string }[]; metric: { flips: { samples: { lost: string[] } } } };
  expect(failed.map((f) => f.check)).toEqual(["accuracy (top1)", "class 3"]);
  expect(metric.flips.samples.lost.length).toBeGreaterThan(10);
  expect(readFileSync(join(folder, "j.xml"), "utf8")).toContain('failures="2"');
});
test("a baseline stands for the reference, and only for its own set", async () => {
  const file = join(folder, "baseline.json");
  expect((await qc(["check", model, ...COMMON, "--rounds", "12", "--save-baseline", file])).code).toBe(0);
  const gate = join(folder, "gate.yaml");
  writeFileSync(gate, "latency: false\nthroughput: false\n");
  const bad = await qc(["check", broken, ...COMMON, "--rounds", "12", "--baseline", file, "--gate", gate]);
  expect(bad.code, bad.stderr).toBe(3);
  const found = (JSON.parse(bad.stdout) as { findings: { check: string; outcome: string }[] }).findings;
  expect(found.filter((f) => f.outcome === "fail" && f.check !== "utilization").map((f) => f.check)).toEqual([
    "accuracy (top1)",
    "class 3",
  ]);
  expect(found.some((f) => f.check === "memory")).toBe(true);
  const other = await qc(["check", broken, "--data", digits, "--samples", "100", "--baseline", file]);
  expect(other.code).toBe(1);
  expect(other.stderr).toContain("number of samples is 200, not 100");
});
test("one model alone is wrong usage", async () => {
  const r = await qc(["check", model, "--data", digits]);
  expect(r.code).toBe(2);
});
