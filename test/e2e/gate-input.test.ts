import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { saveModel } from "../../src/graph/onnx/index.ts";
import { freshFolder, qc, root, smallNet } from "./qc.ts";

const digits = join(root, "calibration-sets/digits");
const model = join(digits, "model.onnx");
const folder = freshFolder();
const other = join(folder, "other.onnx");
saveModel(smallNet(), other);
const broken = join(folder, "broken.json");
writeFileSync(broken, "{");

test.each([
  ["check", [model, other, "--data", digits], '"other.onnx" takes "x", and "model.onnx" takes "input"'],
  ["bench", [model, other], '"other.onnx" takes "x", and "model.onnx" takes "input"'],
  ["bench", [model, "--against", broken], "broken.json: is no JSON"],
  ["report", [broken], "broken.json: is no JSON"],
  ["check", [model, model, "--data", digits, "--gate", broken], "broken.json"],
] as const)("qc %s says what is wrong with what it was given (%#)", async (command, args, text) => {
  const r = await qc([command, ...args]);
  expect(r.code).toBe(1);
  expect(r.stderr).toContain(text);
  expect(r.stderr).not.toContain("internal:");
  // Whoever reads the note is not sent to the page of another file.
  if (text.includes("JSON")) expect(r.stderr).not.toContain("docs/data.md");
});

test("a verdict names what was not judged, and why", async () => {
  const r = await qc(["check", model, model, "--rounds", "0"]);
  expect(r.code).toBe(0);
  expect(r.stdout).toContain("no held-out sample was run: give --data");
  expect(r.stdout).toMatch(/verdict +passes: model.onnx against model.onnx +\(not judged: accuracy, latency, throughput\)/);
});
