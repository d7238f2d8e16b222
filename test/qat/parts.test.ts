import { expect, test } from "vitest";
import { augment, fittingAugmentations, OPTIMIZERS } from "../../src/qat/index.ts";
import { optimizerSchedule } from "../../src/qat/optimizer.ts";
import { cutPoints, outputPoints } from "../../src/qat/points.ts";
import { cosine } from "../../src/qat/schedule.ts";
import { smallNet } from "./net.ts";

const image = (dims: number[]) => ({
  dtype: "float32" as const,
  dims,
  data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * 12.9898) * 3),
});

test("augmentation depends on its seed alone and keeps its input", () => {
  const t = image([4, 3, 16, 16]);
  const before = t.data.slice();
  const kinds = ["flip", "shift", "jitter", "noise", "mixup"] as const;
  expect(augment(t, kinds, 5)).toEqual(augment(t, kinds, 5));
  expect(augment(t, kinds, 5)).not.toEqual(augment(t, kinds, 6));
  expect(t.data).toEqual(before);
});

test("a flip mirrors rows, in both layouts", () => {
  const nchw = image([8, 3, 4, 6]);
  const nhwc = {
    ...nchw,
    dims: [8, 4, 6, 3],
    data: nchw.data.map((_, i) => {
      const c = i % 3;
      const [n, y, x] = [Math.floor(i / 72), Math.floor(i / 18) % 4, Math.floor(i / 3) % 6];
      return nchw.data[n * 72 + c * 24 + y * 6 + x]!;
    }),
  };
  const a = augment(nchw, ["flip"], 1).data as Float32Array;
  const b = augment(nhwc, ["flip"], 1).data as Float32Array;
  let flipped = 0;
  for (let n = 0; n < 8; n++) {
    const mirrored = a[n * 72] === nchw.data[n * 72 + 5];
    if (mirrored) flipped++;
    for (let c = 0; c < 3; c++)
      for (let y = 0; y < 4; y++)
        for (let x = 0; x < 6; x++) {
          const want = nchw.data[n * 72 + c * 24 + y * 6 + (mirrored ? 5 - x : x)];
          expect(a[n * 72 + c * 24 + y * 6 + x]).toBe(want);
          expect(b[n * 72 + y * 18 + x * 3 + c]).toBe(want);
        }
  }
  expect(flipped).toBeGreaterThan(0);
  expect(flipped).toBeLessThan(8);
});

test("what is no colour image is not turned round", () => {
  expect(fittingAugmentations([8, 49, 10, 1], false)).toEqual(["noise", "mixup"]);
  expect(fittingAugmentations([8, 3, 32, 32], true)).toEqual(["flip", "shift", "jitter"]);
  const rows = image([4, 40]);
  expect(augment(rows, ["flip", "shift", "jitter"], 1).data).toEqual(rows.data);
});

test("schedules", () => {
  expect(cosine(0, 100, 10)).toBeCloseTo(1 / 11, 12);
  expect(cosine(10, 100, 10)).toBe(1);
  expect(cosine(55, 100, 10)).toBeCloseTo(0.5, 12);
  expect(cosine(100, 100, 10)).toBeCloseTo(0, 12);
  // Adam's first step is as long as the learning rate: η·√(1−β₂)/(1−β₁) · (1−β₁)g / √((1−β₂)g²).
  const s = optimizerSchedule(OPTIMIZERS.adam, 0.1, 1);
  expect(s["rate"]! * ((1 - 0.9) / Math.sqrt(1 - 0.999))).toBeCloseTo(0.1, 12);
});

test("points of comparison: logits, and what everything passes through", () => {
  const model = smallNet();
  const shapes: Record<string, number[]> = { logits: [2, 5], product: [2, 5] };
  const points = outputPoints(
    model,
    (v) => shapes[v.name],
    () => true,
  );
  expect(points.map((p) => [p.output, p.kind, p.value.name])).toEqual([["logits", "logits", "logits"]]);
  // relu1 feeds the block and its shortcut; inside the block nothing is alone.
  expect(cutPoints(model, () => true, 8).map((v) => v.name)).not.toContain("conv2");
  expect(cutPoints(model, () => true, 8).length).toBeGreaterThan(0);
});
