import { chmodSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { deviceName, deviceUse } from "../../src/runtime/device.ts";

const path = process.env["PATH"];
afterEach(() => {
  process.env["PATH"] = path;
});
/** A program of this name in front of all others. */
function pretend(script: string): void {
  const folder = mkdtempSync(join(tmpdir(), "qc-smi-"));
  writeFileSync(join(folder, "nvidia-smi"), `#!/bin/sh\n${script}\n`);
  chmodSync(join(folder, "nvidia-smi"), 0o755);
  process.env["PATH"] = `${folder}${delimiter}${path}`;
}
const wait = (ms: number) => new Promise((r) => setTimeout(r, ms));

test("the processor is always told", async () => {
  const use = deviceUse("cpu");
  await wait(120);
  const { share, from } = use();
  expect(share).toBeGreaterThanOrEqual(0);
  expect(share).toBeLessThanOrEqual(1);
  expect(from).toBe("all cores");
  expect(deviceName("cpu")).toBeUndefined();
});

test("of several cards the busiest counts, by the mean of its samples", async () => {
  pretend(
    `case "$*" in *name*) echo "Card X"; echo "Card Y";; *) for i in 1 2; do echo "0, 10"; echo "1, 9$((4 + i * 2))"; done; sleep 5;; esac`,
  );
  expect(deviceName("webgpu")).toBe("webgpu on Card X");
  const use = deviceUse("cuda");
  await wait(1000);
  expect(use()).toEqual({ share: 0.97, from: "nvidia-smi" });
});

test("where nothing tells, that is what is said", async () => {
  process.env["PATH"] = mkdtempSync(join(tmpdir(), "qc-none-"));
  expect(deviceName("webgpu")).toMatch(/^webgpu on /);
  const use = deviceUse("webgpu");
  await wait(300);
  const { share, from } = use();
  // A card whose driver counts its load is told by /sys.
  if (share === undefined) expect(from).toContain("neither nvidia-smi nor /sys/class/drm");
  else expect(from).toContain("gpu_busy_percent");
});
