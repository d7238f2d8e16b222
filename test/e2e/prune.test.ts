import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { readModel, writeModel } from "../../src/graph/onnx/index.ts";
import { writeNpz } from "../../src/io/npz.ts";
import { parsePlan } from "../../src/plan/io.ts";
import { residualNet } from "../plan/nets.ts";
import { feedsOf } from "../prepare/build.ts";
import { freshFolder, qc } from "./qc.ts";

/** Channels taken out by `qc quantize`, and what the plan's other readers make of it. */

let folder: string;
const at = (name: string) => join(folder, name);

beforeAll(() => {
  folder = freshFolder();
  const net = residualNet();
  writeFileSync(at("m.onnx"), writeModel(net));
  const samples = Array.from({ length: 40 }, (_, i) => Object.entries(feedsOf(net, i + 1))[0]!);
  const [name, first] = samples[0]!;
  const each = (first.data as Float32Array).length;
  const all = new Float32Array(40 * each);
  for (const [i, [, t]] of samples.entries()) all.set(t.data as Float32Array, i * each);
  writeFileSync(
    at("d.npz"),
    Buffer.concat(writeNpz([[name, { dtype: "float32", shape: [40 * first.dims[0]!, ...first.dims.slice(1)], data: all }]])),
  );
});
const run = (...args: string[]) => qc(["quantize", at("m.onnx"), "--data", at("d.npz"), "--verify-samples", "4", ...args]);

test("a pruned plan is smaller, applies to the same bytes, and trains with the whole network as teacher", async () => {
  const whole = await run("--effort", "fast", "-o", at("whole.onnx"));
  const r = await run("--effort", "fast", "--prune", "0.3", "-o", at("p.onnx"), "--plan", at("p.json"));
  expect([whole.code, r.code]).toEqual([0, 0]);
  expect(r.stderr).toMatch(/prune {6}\d+ % of the products +a 16 → 8/);
  expect(readFileSync(at("p.onnx")).byteLength).toBeLessThan(readFileSync(at("whole.onnx")).byteLength);
  const { pruned } = parsePlan(readFileSync(at("p.json"), "utf8"));
  expect(pruned?.groups).toEqual([{ of: ["a", "c"], channels: 16, kept: 8 }]);
  const constants = readModel(readFileSync(at("p.onnx")), { label: "p" }).graph.initializers;
  expect(constants.find((v) => v.name.startsWith("a.w"))?.data?.shape).toEqual([8, 8, 3, 3]);

  expect((await qc(["apply", at("m.onnx"), "--plan", at("p.json"), "-o", at("again.onnx")])).code).toBe(0);
  expect(readFileSync(at("again.onnx"))).toEqual(readFileSync(at("p.onnx")));

  const steps = ["--steps", "2", "--batch", "4", "--data", at("d.npz")];
  const q = await qc(["qat", "train", at("m.onnx"), "--plan", at("p.json"), ...steps, "-o", at("q.onnx")]);
  expect(q.stderr).not.toContain("✘");
  const trained = readModel(readFileSync(at("q.onnx")), { label: "q" }).graph.initializers;
  expect(trained.find((v) => v.name.startsWith("a.w"))?.data?.shape).toEqual([8, 8, 3, 3]);
}, 60_000);

test("what is asked for has to make sense", async () => {
  const said = async (...args: string[]) => {
    const r = await run(...args, "-o", at("bad.onnx"));
    expect(r.code).not.toBe(0);
    return r.stderr;
  };
  expect(await said("--prune", "1.5")).toContain("between 0 and 1");
  expect(await said("--prune", "auto")).toContain("limit on size or latency");
  expect(await said("--prune", "auto", "--budget", "drop<=1%")).toContain("limit on size or latency");
});

test("auto takes out no more than a limit on the size needs", async () => {
  const size = readFileSync(at("whole.onnx")).byteLength;
  const none = await run(
    "--effort",
    "fast",
    "--prune",
    "auto",
    "--budget",
    `size<=${size}B`,
    "-r",
    "int8",
    "-o",
    at("n.onnx"),
    "--plan",
    at("n.json"),
  );
  expect(none.stderr).not.toContain("✘");
  expect(none.code).toBe(0);
  expect(parsePlan(readFileSync(at("n.json"), "utf8")).pruned).toBeUndefined();
}, 60_000);
