import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { openData } from "../../src/data/index.ts";

const folder = new URL("../../calibration-sets/digits", import.meta.url).pathname;

test("digits: the same bytes on every machine, classes in turn, roles as its set file says", async () => {
  const { samples } = (await import(`${folder}/digits.mjs`)) as {
    samples(): Iterable<{ feeds: { image: { data: Uint8Array } }; label: number }>;
  };
  const h = createHash("sha256");
  let n = 0;
  for (const s of samples()) {
    expect(s.label).toBe(n++ % 10);
    h.update(s.feeds.image.data);
  }
  expect([n, h.digest("hex")]).toEqual([2000, "0403c694053edd6eb7dc79cb672f1264adb23e4bbfbc075ed4e79f1bc5346395"]);

  const set = await openData(folder, [{ name: "input", dtype: "float32", dims: ["N", 1, 28, 28] }]);
  expect([set.name, set.metric?.name, set.roles.calibrate.length, set.roles.select.length, set.roles.heldOut.length]).toEqual([
    "digits",
    "top1",
    400,
    100,
    1500,
  ]);
  const s = await set.sample(17);
  expect([s.label, s.feeds["input"]!.dims]).toEqual([7, [1, 1, 28, 28]]);
  expect(Math.max(...(s.feeds["input"]!.data as Float32Array))).toBeLessThanOrEqual(1);
});
