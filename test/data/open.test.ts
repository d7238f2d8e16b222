import { describe, expect, test } from "vitest";
import { writeTensorProto } from "../../src/graph/onnx/index.ts";
import { floats, int64s } from "../../src/graph/tensor.ts";
import { writeNpy } from "../../src/io/npy.ts";
import { f32, i64, input, npz, opened, refused, scratch, u8 } from "./helpers.ts";

const at = scratch();

describe("one row a sample", () => {
  test("an array with the input's name; batch axis 1 is put in front", async () => {
    const { set, told } = await opened(at.write("a.npz", npz({ input: f32([10, 3]), other: f32([10, 1]) })), [input(["N", 3])]);
    expect(set.size).toBe(10);
    expect(set.metric).toBeUndefined();
    expect(await set.sample(2)).toEqual({ id: "2", feeds: { input: { dtype: "float32", dims: [1, 3], data: Float32Array.of(6, 7, 8) } } });
    expect(told).toEqual([{ code: "data/unused-array", set: "a", arrays: ["other"] }]);
  });
  test("a fixed batch of 1, samples that bring their own batch axis, inputs without any", async () => {
    const file = at.write("b.npz", npz({ x: f32([4, 3]), y: f32([4, 2, 3]), z: f32([4]) }));
    const { set } = await opened(file, [input([1, 3], "x"), input(["N", 3], "y"), input([], "z")]);
    const { feeds } = await set.sample(3);
    expect([feeds["x"]!.dims, feeds["y"]!.dims, feeds["z"]!.dims]).toEqual([[1, 3], [2, 3], []]);
  });
  test("a .npy for the only input; another array that fits is taken and told", async () => {
    const one = await opened(at.write("c.npy", writeNpy(f32([5, 2]))), [input(["N", 2])]);
    expect(one.set.size).toBe(5);
    const two = await opened(at.write("d.npz", npz({ x: f32([5, 2]), y: i64([0, 1, 0, 1, 0]) })), [input(["N", 2])]);
    expect(two.told).toContainEqual({ code: "data/chosen-array", set: "d", array: "x", input: "input" });
  });
  test("two reads are equal, also from several places at once", async () => {
    const { set } = await opened(at.write("e.npz", npz({ input: f32([50, 7], Math.sin) })), [input(["N", 7])]);
    const all = await Promise.all([3, 4, 3].map((i) => set.sample(i)));
    expect(all[0]).toEqual(all[2]);
  });
  test("sets are told apart by content and by set file", async () => {
    const a = await opened(at.write("f.npz", npz({ input: f32([5, 2]) })), [input(["N", 2])]);
    const b = await opened(at.write("g.npz", npz({ input: f32([5, 2], (i) => i + 1) })), [input(["N", 2])]);
    const c = await opened(at.write("h.npz", npz({ input: f32([5, 2]) })), [input(["N", 2])]);
    expect(a.set.sha256).not.toBe(b.set.sha256);
    expect(a.set.sha256).toBe(c.set.sha256);
    expect(a.set.secret).not.toBe(a.set.sha256);
  });
});

describe("types", () => {
  const of = async (array: ReturnType<typeof f32>, dtype: "float32" | "int64" | "int32" | "float16" | "uint8" | "bool") =>
    opened(at.write(`t-${array.dtype}-${dtype}.npz`, npz({ input: array })), [input(["N", 2], "input", dtype)]);

  test("float16 widens silently, float64 rounds with a warning", async () => {
    const half = await of({ dtype: "float16", shape: [1, 2], data: Uint16Array.of(0x3c00, 0x0001) }, "float32");
    expect((await half.set.sample(0)).feeds["input"]!.data).toEqual(Float32Array.of(1, 2 ** -24));
    expect(half.told.map((d) => d.code)).toEqual(["data/no-held-out"]);
    const double = await of({ dtype: "float64", shape: [1, 2], data: Float64Array.of(0.1, 2) }, "float32");
    expect((await double.set.sample(0)).feeds["input"]!.data).toEqual(Float32Array.of(0.1, 2));
    expect(double.told.map((d) => d.code)).toContain("data/rounded");
  });
  test("integers move between widths when every value fits", async () => {
    const wide = await of(
      u8([1, 2], (i) => 200 + i),
      "int64",
    );
    expect((await wide.set.sample(0)).feeds["input"]!.data).toEqual(BigInt64Array.of(200n, 201n));
    const narrow = await of({ dtype: "int64", shape: [1, 2], data: BigInt64Array.of(-5n, 7n) }, "int32");
    expect((await narrow.set.sample(0)).feeds["input"]!.data).toEqual(Int32Array.of(-5, 7));
    const e = await refused(of({ dtype: "int64", shape: [1, 2], data: BigInt64Array.of(1n << 40n, 7n) }, "int32"));
    expect(e.message).toContain("1099511627776 does not fit int32");
    expect(
      (
        await refused(
          of(
            u8([1, 2], (i) => i + 1),
            "bool",
          ),
        )
      ).message,
    ).toContain("2 does not fit bool");
  });
  test("pixels are not taken as floats unasked; the remedy says how", async () => {
    const e = await refused(of(u8([1, 2]), "float32"));
    expect(e.diagnostics[0]).toMatchObject({ code: "data/dtype", input: "input", sample: "0" });
    expect(e.message).toContain("{ divide: 255 }");
    expect((await refused(of(f32([1, 2]), "int64"))).message).toContain("{ cast: int64 }");
  });
});

describe("folders of samples", () => {
  test("one .npz each, shapes that differ, in the order of their names", async () => {
    for (const n of [2, 10, 1])
      at.write(`folder/s${String(n).padStart(2, "0")}.npz`, npz({ ids: { dtype: "int64", shape: [1, n], data: new BigInt64Array(n) } }));
    const { set } = await opened(`${at.path}/folder`, [input(["B", "S"], "ids", "int64")]);
    const dims = await Promise.all([0, 1, 2].map(async (i) => (await set.sample(i)).feeds["ids"]!.dims));
    expect(dims).toEqual([
      [1, 1],
      [1, 2],
      [1, 10],
    ]);
    expect((await set.sample(2)).id).toBe("s10.npz");
  });
  test("ONNX test data, by name or by number", async () => {
    for (const k of [0, 1, 10]) {
      at.write(`zoo/test_data_set_${k}/input_0.pb`, writeTensorProto(floats([k, k], [1, 2]), "image"));
      at.write(`zoo/test_data_set_${k}/input_1.pb`, writeTensorProto(int64s([k]), ""));
      at.write(`zoo/test_data_set_${k}/output_0.pb`, writeTensorProto(floats([0]), "y"));
    }
    const { set } = await opened(`${at.path}/zoo`, [input([1, 2], "image"), input([1], "size", "int64")]);
    expect(set.size).toBe(3);
    const last = await set.sample(2);
    expect(last.id).toBe("test_data_set_10");
    expect(last.feeds).toEqual({
      image: { dtype: "float32", dims: [1, 2], data: Float32Array.of(10, 10) },
      size: { dtype: "int64", dims: [1], data: BigInt64Array.of(10n) },
    });
  });
});

describe("what cannot be", () => {
  test.each([
    ["nothing there", () => "/no/such/set.npz", "io/not-found"],
    ["no sample", () => at.write("empty.npz", npz({ input: f32([0, 3]) })), "data/no-samples"],
    ["lengths that differ", () => at.write("odd.npz", npz({ input: f32([4, 3]), y: f32([5]) })), "data/unknown-form"],
    ["no such array", () => at.write("names.npz", npz({ a: f32([4, 2]), b: f32([4, 2]) })), "data/missing-input"],
    ["an empty folder", () => at.write("hollow/.keep", "").slice(0, -6), "data/no-samples"],
    ["files of another kind", () => at.write("docs/a.pdf", "").slice(0, -6), "data/unknown-form"],
    ["a shape that differs", () => at.write("shape.npz", npz({ input: f32([4, 5]) })), "data/shape"],
  ])("%s", async (_, spec, code) => {
    expect((await refused(opened(spec(), [input(["N", 3])]))).diagnostics[0]!.code).toBe(code);
  });

  test("every input that is missing is told at once", async () => {
    const e = await refused(opened(at.write("none.npz", npz({ q: f32([4, 1]) })), [input([1], "a"), input([1], "b")]));
    expect(e.diagnostics.map((d) => d.code)).toEqual(["data/missing-input", "data/missing-input"]);
    expect(e.message).toContain("q float32[1]");
  });

  test("channels at the wrong end, and a fixed batch, get their own advice", async () => {
    const hwc = await refused(opened(at.write("hwc.npz", npz({ input: f32([2, 8, 9, 3]) })), [input(["N", 3, 8, 9])]));
    expect(hwc.message).toContain("{ layout: nchw }");
    const chw = await refused(opened(at.write("chw.npz", npz({ input: f32([2, 3, 8, 9]) })), [input(["N", 8, 9, 3])]));
    expect(chw.message).toContain("transpose: [1, 2, 0]");
    const batch = await refused(opened(at.write("batch.npz", npz({ input: f32([2, 5]) })), [input([8, 5])]));
    expect(batch.message).toContain("fixed at 8");
  });

  test("NaN and infinity are told with sample, input and number", async () => {
    const bad = f32([20, 3], (i) => (i === 31 ? Number.NaN : i === 32 ? Number.POSITIVE_INFINITY : i));
    const { set } = await opened(at.write("nan.npz", npz({ input: bad })), [input(["N", 3])], 1);
    const e = await refused(set.sample(10));
    expect(e.diagnostics[0]).toEqual({
      code: "data/not-finite",
      set: "nan",
      input: "input",
      sample: "10",
      what: "NaN or infinity",
      count: 2,
    });
    expect((await set.sample(9)).id).toBe("9");
  });
});
