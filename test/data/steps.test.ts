import sharp from "sharp";
import { beforeAll, describe, expect, test } from "vitest";
import { fromHalf, type Item, type TensorItem, toHalf } from "../../src/data/item.ts";
import { type Kernel, resizeImage } from "../../src/data/resize.ts";
import { compileSteps, type StepConfig } from "../../src/data/steps/index.ts";
import { input, opened, refused, scratch } from "./helpers.ts";

const at = scratch();
const tensor = (
  dims: readonly number[],
  data: TensorItem["data"] | readonly number[],
  dtype: TensorItem["dtype"] = "float32",
): TensorItem => ({
  kind: "tensor",
  dtype,
  dims,
  data: Array.isArray(data)
    ? dtype === "uint8"
      ? Uint8Array.from(data as number[])
      : Float32Array.from(data as number[])
    : (data as TensorItem["data"]),
});
async function run(item: Item, ...steps: StepConfig[]): Promise<TensorItem> {
  for (const s of compileSteps(steps, at.path)) item = await s.run(item);
  return item as TensorItem;
}
const values = (t: TensorItem) => Array.from(t.data as Float32Array);

describe("numbers", () => {
  test("arithmetic in float32, per channel where lists are given", async () => {
    const x = tensor([1, 2, 3], [0, 51, 255, 10, 20, 30], "uint8");
    expect(await run(x, { divide: 255 })).toMatchObject({ dtype: "float32", dims: [1, 2, 3] });
    expect(values(await run(x, { divide: 255 }))).toEqual([0, 51, 255, 10, 20, 30].map((v) => Math.fround(v / 255)));
    expect(values(await run(x, { subtract: [10, 20, 30] }))).toEqual([-10, 31, 225, 0, 0, 0]);
    expect(values(await run(tensor([2, 3], [1, 2, 3, 4, 5, 6]), { multiply: { by: [10, 100], axis: 0 } }))).toEqual([
      10, 20, 30, 400, 500, 600,
    ]);
    expect(values(await run(tensor([2], [1, 3]), { normalize: { mean: 1, std: 4 } }))).toEqual([0, 0.5]);
    expect(values(await run(tensor([3], [-9, 0.5, 9]), { clip: [-1, 1] }))).toEqual([-1, 0.5, 1]);
    await expect(run(x, { divide: [1, 2] })).rejects.toThrow("2 numbers do not fit axis");
  });
  test("channels follow the layout, even where sizes are equal", async () => {
    const cube = tensor(
      [3, 3, 3],
      Array.from({ length: 27 }, () => 0),
      "uint8",
    );
    expect(values(await run(cube, { layout: "nchw" }, { add: [1, 2, 3] })).slice(0, 10)).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
    expect(values(await run(cube, { layout: "nhwc" }, { add: [1, 2, 3] })).slice(0, 4)).toEqual([1, 2, 3, 1]);
  });
  test("shapes", async () => {
    const x = tensor([2, 3], [1, 2, 3, 4, 5, 6]);
    expect(await run(x, { transpose: [1, 0] })).toMatchObject({ dims: [3, 2], data: Float32Array.of(1, 4, 2, 5, 3, 6) });
    expect((await run(x, { reshape: [-1, 1] })).dims).toEqual([6, 1]);
    expect(await run(tensor([4, 2], [1, 2, 3, 4, 5, 6, 7, 8]), { windows: { size: 2 } })).toMatchObject({
      dims: [3, 4],
      data: Float32Array.of(1, 2, 3, 4, 3, 4, 5, 6, 5, 6, 7, 8),
    });
    expect((await run(tensor([5, 1], [1, 2, 3, 4, 5]), { windows: { size: 2, hop: 2 } })).dims).toEqual([2, 2]);
    await expect(run(x, { reshape: [4] })).rejects.toThrow("does not become");
    await expect(run(x, { windows: { size: 3 } })).rejects.toThrow("does not fit");
  });
  test("casts that are asked for saturate", async () => {
    expect((await run(tensor([4], [-5, 3.7, 300, -0.5]), { cast: "uint8" })).data).toEqual(Uint8Array.of(0, 3, 255, 0));
    expect((await run(tensor([2], [1, 2], "uint8"), { cast: "int64" })).data).toEqual(BigInt64Array.of(1n, 2n));
    expect(() => compileSteps([{ cast: "int4" }], ".")).toThrow("no type that a graph can be fed");
  });
  test("float16 both ways: every pattern, and rounding to even", () => {
    const all = Uint16Array.from({ length: 65_536 }, (_, i) => i);
    const wide = fromHalf(all);
    for (let i = 0; i < 65_536; i++) {
      if (Number.isNaN(wide[i]!)) continue;
      if (toHalf(wide[i]!) !== i) throw new Error(`pattern ${i} became ${toHalf(wide[i]!)}`);
    }
    // Halfway between neighbours: to the even one.
    expect([toHalf(1 + 2 ** -11), toHalf(1 + 3 * 2 ** -11), toHalf(65519), toHalf(65520), toHalf(2 ** -25), toHalf(3 * 2 ** -25)]).toEqual([
      0x3c00, 0x3c02, 0x7bff, 0x7c00, 0, 2,
    ]);
  });
});

describe("images", () => {
  // 4 wide, 2 high: the red channel counts pixels.
  const pixels = Uint8Array.from({ length: 24 }, (_, i) => (i % 3 === 0 ? 10 * (i / 3) : i % 3 === 1 ? 100 : 200));
  beforeAll(async () => {
    const png = await sharp(pixels, { raw: { width: 4, height: 2, channels: 3 } })
      .png()
      .toBuffer();
    for (const name of ["cats/b.png", "cats/a.png", "dogs/c.png"]) at.write(`animals/${name}`, png);
    at.write("animals/gray.png.txt", "");
  });
  const image = tensor([2, 4, 3], pixels, "uint8");

  test("decode, channels, layout, crop and pad", async () => {
    expect((await run(image, { channels: "bgr" })).data.slice(0, 6)).toEqual(Uint8Array.of(200, 100, 0, 200, 100, 10));
    expect(await run(image, { channels: "gray" })).toMatchObject({ dims: [2, 4, 1] });
    expect((await run(image, { channels: "gray" })).data[0]).toBe(Math.round(0.587 * 100 + 0.114 * 200));
    expect((await run(image, { layout: "nchw" })).data.slice(0, 8)).toEqual(Uint8Array.of(0, 10, 20, 30, 40, 50, 60, 70));
    expect(await run(image, { crop: 2 })).toMatchObject({ dims: [2, 2, 3] });
    expect((await run(image, { crop: 2 })).data[0]).toBe(10);
    expect((await run(image, { crop: { width: 1, height: 1, at: [3, 1] } })).data[0]).toBe(70);
    const padded = await run(image, { pad: { width: 6, height: 4, fill: 9 } });
    expect([padded.dims, padded.data[0], padded.data[(1 * 6 + 1) * 3]]).toEqual([[4, 6, 3], 9, 0]);
    await expect(run(image, { crop: 3 })).rejects.toThrow("smaller than the window 3×3");
    await expect(run(image, { pad: 3 })).rejects.toThrow("larger than 3×3");
    await expect(run(image, { layout: "nchw" }, { crop: 1 })).rejects.toThrow("channels-first already");
  });

  test("resizing keeps the aspect where it should", async () => {
    const dims = async (r: object) => (await run(image, { resize: r })).dims;
    expect(await dims({ width: 8, height: 8 })).toEqual([8, 8, 3]);
    expect(await dims({ width: 8, height: 8, mode: "inside" })).toEqual([4, 8, 3]);
    expect(await dims({ width: 8, height: 8, mode: "pad" })).toEqual([8, 8, 3]);
    expect(await dims({ width: 8, height: 8, mode: "crop" })).toEqual([8, 8, 3]);
    expect(await dims({ shorter: 6 })).toEqual([6, 12, 3]);
    expect(() => compileSteps([{ resize: { width: 3 } }], ".")).toThrow("width and height, or shorter");
    const letterbox = await run(image, { resize: { width: 8, height: 8, mode: "pad", fill: 114 } });
    expect([letterbox.data[0], letterbox.data[3 * 8 * 2]]).toEqual([114, 0]);
  });

  test("folders of classes: labels by name, sorted; the steps of a set file", async () => {
    const spec = at.write(
      "animals.yaml",
      `source: animals
inputs: { input: { steps: [ decode, { layout: nchw }, { divide: 255 } ] } }
labels: class
metric: top1
split: { calibrate: 1, select: 1 }
`,
    );
    const { set } = await opened(spec, [input(["N", 3, 2, 4])]);
    expect(set.size).toBe(3);
    const all = await Promise.all([0, 1, 2].map((i) => set.sample(i)));
    expect(all.map((s) => [s.id, s.label])).toEqual([
      ["cats/a.png", 0],
      ["cats/b.png", 0],
      ["dogs/c.png", 1],
    ]);
    expect(all[0]!.feeds["input"]!.data.slice(0, 3)).toEqual(Float32Array.of(0, 10 / 255, 20 / 255));
    expect(all[0]!.file).toContain("a.png");
    const other = at.write(
      "animals2.yaml",
      "source: 'animals/**/*.png'\nclasses: [dogs, cats]\nlabels: class\ninputs: { input: { steps: [ decode, { cast: float32 } ] } }\n",
    );
    expect((await (await opened(other, [input([1, 2, 4, 3])])).set.sample(0)).label).toBe(1);
  });

  test("without a set file, and with a file that is no image", async () => {
    expect((await refused(opened(`${at.path}/animals`, [input([1, 3, 2, 4])]))).message).toContain("decode");
    at.write("broken/a.png", "no image at all");
    const e = await refused(
      opened(at.write("broken.yaml", "source: broken\ninputs: { input: { steps: [ decode ] } }\n"), [input([1, 2, 4, 3])]),
    );
    expect(e.diagnostics[0]).toMatchObject({ code: "data/step", sample: "a.png", step: "decode" });
  });

  test("boxes beside the images", async () => {
    at.write("animals/labels/a.txt", "3 0.5 0.5 0.25 1\n");
    at.write("animals/labels/b.txt", "");
    const spec = at.write(
      "boxes.yaml",
      "source: animals/cats\nlabels: { boxes: animals/labels }\ninputs: { input: { steps: [ decode, { cast: float32 } ] } }\n",
    );
    const { set } = await opened(spec, [input([1, 2, 4, 3])]);
    expect((await set.sample(0)).label).toEqual([{ class: 3, cx: 0.5, cy: 0.5, w: 0.25, h: 1 }]);
    expect((await set.sample(1)).label).toEqual([]);
    at.write("animals/labels/b.txt", "oops\n");
    expect((await refused(set.sample(1))).message).toContain("five numbers");
  });
});

describe("resizing", () => {
  const from = { width: 9, height: 7, channels: 2 };
  const ramp = Float32Array.from({ length: 9 * 7 * 2 }, (_, i) => Math.floor(i / 2) % 9);
  test.each(["bilinear", "bicubic", "lanczos3"] as const)("%s keeps constants and the mean of a ramp", (kernel: Kernel) => {
    const flat = resizeImage(new Uint8Array(126).fill(77), from, { width: 4, height: 13 }, kernel);
    expect(new Set(flat)).toEqual(new Set([77]));
    const r = resizeImage(ramp, from, { width: 3, height: 7 }, kernel);
    expect([r[0]! < r[2]!, Math.abs(r[2]! - 4) < 1e-6, r[0] === r[1]]).toEqual([true, true, true]);
  });
  test("bilinear at twice the size, by hand", () => {
    expect(Array.from(resizeImage(Uint8Array.of(0, 100), { width: 2, height: 1, channels: 1 }, { width: 4, height: 1 }))).toEqual([
      0, 25, 75, 100,
    ]);
  });
  test("shrinking with and without antialias", () => {
    const x = Uint8Array.of(0, 0, 0, 255, 255, 255);
    const to = { width: 2, height: 1 };
    expect(Array.from(resizeImage(x, { width: 6, height: 1, channels: 1 }, to, "bilinear", false))).toEqual([0, 255]);
    // Weights ⅔, 1, ⅔, ⅓ around the centre 1.5: the other half reaches in by an eighth of 255.
    expect(Array.from(resizeImage(x, { width: 6, height: 1, channels: 1 }, to, "bilinear", true))).toEqual([32, 223]);
  });
});
