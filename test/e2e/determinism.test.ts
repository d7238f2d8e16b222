import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { freshFolder, qc, root } from "./qc.ts";

const model = join(root, "calibration-sets/digits/model.onnx");
const data = join(root, "calibration-sets/digits");
const folder = freshFolder();
const out = (name: string) => join(folder, name);
const bytes = (name: string) => readFileSync(out(name)).toString("base64");

async function ok(...args: string[]): Promise<string> {
  const r = await qc(args);
  expect(r.code, `${args.join(" ")}\n${r.stderr}`).toBe(0);
  return r.stdout;
}
const short = ["--data", data, "--effort", "fast", "--samples", "64", "--verify-samples", "8"];

test("equal inputs and seed give equal bytes, with one worker or two", async () => {
  await ok("quantize", model, ...short, "--calibrator", "entropy", "--threads", "1", "-o", out("a.onnx"));
  await ok("quantize", model, ...short, "--calibrator", "entropy", "--threads", "2", "-o", out("b.onnx"));
  expect(bytes("b.onnx")).toBe(bytes("a.onnx"));
  expect(bytes("b.plan.tensors")).toBe(bytes("a.plan.tensors"));
  expect(readFileSync(out("b.plan.json"), "utf8").replaceAll("b.plan", "a.plan")).toBe(readFileSync(out("a.plan.json"), "utf8"));
});

test("shards merged in any order give the statistics of the whole, and the plan and model of the whole command", async () => {
  const some = ["--data", data, "--samples", "64"];
  await ok("calibrate", model, ...some, "-o", out("whole.stats"));
  for (const i of [1, 2, 3]) await ok("calibrate", model, ...some, "--shard", `${i}/3`, "-o", out(`${i}.stats`));
  await ok("stats", "merge", out("2.stats"), out("3.stats"), out("1.stats"), "-o", out("merged.stats"));
  expect(bytes("merged.stats")).toBe(bytes("whole.stats"));
  await ok("plan", model, "--stats", out("merged.stats"), "--calibrator", "entropy", "-o", out("p.json"));
  await ok("apply", model, "--plan", out("p.json"), "-o", out("applied.onnx"));
  await ok("quantize", model, ...short, "--calibrator", "entropy", "-o", out("direct.onnx"));
  const diff = JSON.parse(await ok("plan", "diff", out("p.json"), out("direct.plan.json"), "--json")) as {
    differences: { what: string }[];
  };
  // The statistics files hold other sets of values (one target's, all targets'), and the plan names them; every decision is the same.
  expect(diff.differences.filter((d) => d.what !== "stats")).toEqual([]);
  await ok("apply", model, "--plan", out("direct.plan.json"), "-o", out("again.onnx"));
  expect(bytes("again.onnx")).toBe(bytes("direct.onnx"));
});

test("what was planned can be explained, and the report is a whole document", async () => {
  const sites = JSON.parse(await ok("explain", out("direct.onnx"), "block1*", "--json")) as { sites: { because: string }[] };
  expect(sites.sites.length).toBeGreaterThanOrEqual(1);
  for (const s of sites.sites) expect(s.because.length).toBeGreaterThan(10);
  const report = JSON.parse(readFileSync(out("direct.report.json"), "utf8")) as Record<string, unknown>;
  expect(report).toMatchObject({ schema: "qc.report/1", verdict: "ok", samples: { n: 8 }, recipe: "int8", target: "portable" });
  // Nothing that names a machine, a user or a folder.
  expect(JSON.stringify(report)).not.toContain(folder);
  expect(JSON.stringify(report)).not.toContain(root);
});

test("a missed budget ends with exit code 3 and still writes the model", async () => {
  const r = await qc(["quantize", model, ...short, "--budget", "size<=1KB", "-o", out("large.onnx"), "--json"]);
  expect(r.code).toBe(3);
  expect(r.stderr).toContain("[check/below-budget]");
  expect(JSON.parse(r.stdout)).toMatchObject({ ok: false, missed: [{ limit: "size<=1KB" }] });
  expect(readFileSync(out("large.onnx")).byteLength).toBeGreaterThan(1000);
});
