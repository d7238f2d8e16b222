import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { BenchResult } from "../../src/bench.ts";
import { freshFolder, qc, root } from "./qc.ts";

const digits = join(root, "calibration-sets/digits");
const model = join(digits, "model.onnx");
const folder = freshFolder();
const kept = join(folder, "bench.json");
const bench = (...more: string[]) => qc(["bench", model, "--data", digits, "--rounds", "15", "--concurrency", "1", ...more]);

test("percentiles, throughput, memory and how busy the device was; figures that were kept compare on the same machine alone", async () => {
  const first = await qc([
    "bench",
    model,
    model,
    "-d",
    digits,
    "--rounds",
    "15",
    "--concurrency",
    "1",
    "--json",
    "--quiet",
    "--save",
    kept,
  ]);
  expect(first.code, first.stderr).toBe(0);
  const result = JSON.parse(first.stdout) as BenchResult;
  for (const r of result.rows) {
    expect(r.p50Ms).toBeGreaterThan(0);
    expect(r.p90Ms).toBeGreaterThanOrEqual(r.p50Ms);
    expect(r.p99Ms).toBeGreaterThanOrEqual(r.p90Ms);
    expect(r.perSecond).toBeGreaterThan(0);
    expect(r.peakBytes).toBeGreaterThan(20e6);
  }
  const { low, high } = result.rows[1]!.ratio!;
  expect(low).toBeLessThanOrEqual(high);
  expect(result.utilization.share).toBeGreaterThan(0);
  const again = await bench("--against", kept, "--json", "--quiet");
  expect(again.code, again.stderr).toBe(0);
  expect((JSON.parse(again.stdout) as BenchResult).rows[0]!.against!.ratio).toBeGreaterThan(0);
  const other = JSON.parse(readFileSync(kept, "utf8")) as { machine: { cpu: string; device?: string } };
  other.machine.cpu = "Another";
  writeFileSync(kept, JSON.stringify(other));
  const refused = await bench("--against", kept);
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain("another machine (Another");
}, 60_000);

test("a load test answers at a rate that it can keep, and fails where it cannot", async () => {
  const calm = await bench("--rate", "50", "--seconds", "1", "--p99", "5000");
  expect(calm.code, calm.stderr + calm.stdout).toBe(0);
  expect(calm.stdout).toMatch(/load +model.onnx: \d+ of 50 requests\/s over 50 requests/);
  const strict = await bench("--rate", "50", "--seconds", "1", "--p99", "0");
  expect(strict.code).toBe(3);
}, 60_000);

test("batches that the model's first axis does not take are said, files that are no models named", async () => {
  const missing = await qc(["bench", join(folder, "none.onnx")]);
  expect(missing.code).toBe(1);
  expect(missing.stderr).toContain("none.onnx");
  const bad = await bench("--threads", "0");
  expect(bad.code).toBe(2);
});

test("WebGPU: runs with the default concurrency, or says that there is no adapter", async () => {
  const r = await qc(["bench", model, "-d", digits, "--rounds", "3", "--provider", "webgpu", "--json", "--quiet"]);
  if (r.code === 0) {
    const result = JSON.parse(r.stdout) as BenchResult;
    expect(result.provider).toBe("webgpu");
    expect(result.concurrency).toBe(1);
    expect(result.machine.device).toMatch(/^webgpu on /);
  } else {
    expect(r.code).toBe(1);
    expect(r.stderr).toContain('"webgpu" does not start here');
  }
}, 120_000);
