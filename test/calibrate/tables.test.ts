import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeTable, encodeTable, TABLE_FORMATS, tableFormatOf } from "../../src/calibrate/tables.ts";
import { QcError } from "../../src/diagnostics.ts";

const text = (b: Uint8Array) => new TextDecoder().decode(b);
const ranges = new Map([
  ["input:0", { min: -2.5, max: 1 }],
  ["a", { min: 0, max: 127 }],
]);

test("a TensorRT cache: header, sorted names, scale = magnitude / 127 as the float's 8 hex digits", () => {
  // 127 / 127 = 1 = 0x3f800000; 2.5 / 127 = 0.019685039, the float32 0x3ca14285.
  expect(text(encodeTable(ranges, "tensorrt"))).toBe("TRT-8600-EntropyCalibration2\na: 3f800000\ninput:0: 3ca14285\n");
});

test("onnxruntime's text and JSON, with Python's decimal points", () => {
  expect(text(encodeTable(ranges, "ort-cache"))).toBe("a 127.0\ninput:0 2.5\n");
  expect(JSON.parse(text(encodeTable(ranges, "ort-json")))).toEqual({
    a: {
      lowest: { data: 0, dtype: "float32", CLS: "numpy.array" },
      highest: { data: 127, dtype: "float32", CLS: "numpy.array" },
      CLS: "TensorData",
    },
    "input:0": {
      lowest: { data: -2.5, dtype: "float32", CLS: "numpy.array" },
      highest: { data: 1, dtype: "float32", CLS: "numpy.array" },
      CLS: "TensorData",
    },
  });
  expect(text(encodeTable(ranges, "ort-json"))).toContain('"data": 127.0,');
});

test("the flatbuffers table of onnxruntime's writer, byte by byte where its layout is fixed", () => {
  const b = encodeTable(new Map([["x", { min: -1, max: 6 }]]), "ort-flatbuffers");
  expect(decodeTable(b, "t").ranges).toEqual(new Map([["x", { min: -6, max: 6 }]]));
  // Root offset, then one vtable of one field; strings end in a zero.
  expect(new DataView(b.buffer, b.byteOffset).getUint32(0, true)).toBe(12);
  expect(text(b)).toContain("6.0\0");
});

test("every form reads back what it wrote: JSON both ends, the others the magnitude", () => {
  const float = fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e30), max: Math.fround(1e30) });
  const table = fc.dictionary(fc.stringMatching(/^[a-zA-Z0-9_/:. é]{1,12}[a-z]$/), fc.tuple(float, float), { minKeys: 1, maxKeys: 9 });
  fc.assert(
    fc.property(table, fc.constantFrom(...TABLE_FORMATS), (d, format) => {
      const given = new Map(Object.entries(d).map(([k, [a, b]]) => [k, { min: Math.min(a, b), max: Math.max(a, b) }]));
      const back = decodeTable(encodeTable(given, format), "t");
      expect(back.format).toBe(format);
      expect([...back.ranges.keys()].sort()).toEqual([...given.keys()].sort());
      for (const [k, r] of given) {
        const got = back.ranges.get(k)!;
        const a = Math.max(Math.abs(r.min), Math.abs(r.max));
        if (format === "ort-json") expect([got.min + 0, got.max + 0]).toEqual([r.min + 0, r.max + 0]);
        // The cache stores a / 127 as float32 and is multiplied again: two roundings.
        else expect(Math.abs(got.max - a)).toBeLessThanOrEqual(format === "tensorrt" ? a * 2 ** -22 + 2 ** -140 : 0);
      }
    }),
    { seed: 1 },
  );
});

test("the form follows the name of the file", () => {
  expect(["a/calibration.cache", "t.json", "t.flatbuffers", "t.txt", "plain"].map(tableFormatOf)).toEqual([
    "tensorrt",
    "ort-json",
    "ort-flatbuffers",
    "ort-cache",
    "tensorrt",
  ]);
});

test.each([
  ["an empty file", ""],
  ["a header alone", "TRT-8600-EntropyCalibration2\n"],
  ["a scale that is none", "TRT-8600-EntropyCalibration2\nx: 3f8\n"],
  ["a NaN", "TRT-8600-EntropyCalibration2\nx: 7fc00000\n"],
  ["JSON of something else", '{"x": 1}'],
  ["words", "hello"],
])("%s is refused", (_, content) => {
  expect(() => decodeTable(new TextEncoder().encode(content), "t")).toThrow(QcError);
});

test("a broken flatbuffers table is refused, whatever is broken", () => {
  const whole = encodeTable(ranges, "ort-flatbuffers");
  let refused = 0;
  for (let i = 0; i < whole.length; i++)
    for (const value of [0x7f, 0xff]) {
      const b = whole.slice();
      b[i] = value;
      try {
        decodeTable(b, "t");
      } catch (e) {
        expect(e).toBeInstanceOf(QcError);
        refused++;
      }
    }
  expect(refused).toBeGreaterThan(20);
});
