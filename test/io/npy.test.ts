import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { type NdArray, openNpy, readNpy, writeNpy } from "../../src/io/npy.ts";
import { memorySource } from "../../src/io/source.ts";

/** A `.npy` by hand: the format's specification, independent of our writer. */
function npy(header: string, body: Uint8Array, version = 1): Uint8Array {
  const text = new TextEncoder().encode(`${header}\n`);
  const head = version === 1 ? [text.length & 255, text.length >> 8] : [text.length & 255, text.length >> 8, 0, 0];
  return Uint8Array.from([0x93, ...new TextEncoder().encode("NUMPY"), version, 0, ...head, ...text, ...body]);
}
const dict = (descr: string, shape: string, fortran = "False") => `{'descr': '${descr}', 'fortran_order': ${fortran}, 'shape': ${shape}, }`;

describe("reading", () => {
  test.each([
    ["|b1", [1, 0], Uint8Array.of(1, 0), "bool"],
    ["|u1", [7, 255], Uint8Array.of(7, 255), "uint8"],
    ["<i2", [1, 0, 255, 255], Int16Array.of(1, -1), "int16"],
    [">i2", [0, 1, 255, 254], Int16Array.of(1, -2), "int16"],
    [">f4", [0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0], Float32Array.of(1, -2), "float32"],
    ["<f2", [0, 0x3c, 0, 0xc0], Uint16Array.of(0x3c00, 0xc000), "float16"],
    [
      "<i8",
      [...new Array(7).fill(255), 127, 1, 0, 0, 0, 0, 0, 0, 0].map((b, i) => (i === 0 ? 255 : b)),
      BigInt64Array.of(2n ** 63n - 1n, 1n),
      "int64",
    ],
  ] as const)("type %s", (descr, bytes, data, dtype) => {
    expect(readNpy(npy(dict(descr, "(2,)"), Uint8Array.from(bytes)))).toEqual({ dtype, shape: [2], data });
  });

  test("text of fixed width, both orders, and bytes", () => {
    const u = (little: boolean) => {
      const v = new DataView(new ArrayBuffer(16));
      [..."a€b"].forEach((c, i) => {
        v.setUint32(4 * [0, 1, 2][i]!, c.codePointAt(0)!, little);
      });
      return new Uint8Array(v.buffer);
    };
    expect(readNpy(npy(dict("<U2", "(2,)"), u(true))).data).toEqual(["a€", "b"]);
    expect(readNpy(npy(dict(">U2", "(2,)"), u(false))).data).toEqual(["a€", "b"]);
    expect(readNpy(npy(dict("|S3", "(2,)"), new TextEncoder().encode("abcd\0\0"))).data).toEqual(["abc", "d"]);
  });

  test("Fortran order, rows included", () => {
    // [[0, 1, 2], [3, 4, 5]] column by column.
    const f = openNpy(memorySource(npy(dict("|u1", "(2, 3)", "True"), Uint8Array.of(0, 3, 1, 4, 2, 5))));
    expect(f.all().data).toEqual(Uint8Array.of(0, 1, 2, 3, 4, 5));
    expect(f.rows(1, 1)).toEqual({ dtype: "uint8", shape: [1, 3], data: Uint8Array.of(3, 4, 5) });
  });

  test("rows read only their own bytes", () => {
    const bytes = npy(dict("<f4", "(1000, 10)"), new Uint8Array(40000));
    let read = 0;
    const inner = memorySource(bytes);
    const f = openNpy({
      ...inner,
      read: (o, n) => {
        read += n;
        return inner.read(o, n);
      },
    });
    const header = read;
    f.rows(500, 2);
    expect(read - header).toBe(80);
  });

  test("headers of versions 2 and 3, any key order, scalars, no items", () => {
    expect(readNpy(npy("{'shape': (), 'fortran_order': False, 'descr': '<f8'}", new Uint8Array(8), 2)).shape).toEqual([]);
    expect(readNpy(npy(dict("<f8", "(0, 4)"), new Uint8Array(0), 3)).data).toEqual(new Float64Array(0));
  });

  test.each([
    ["not NumPy", new Uint8Array(64), "signature"],
    ["empty", new Uint8Array(0), "signature"],
    ["objects", npy(dict("|O", "(1,)"), new Uint8Array(8)), "unpickling runs code"],
    ["records", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", new Uint8Array(4)), "records are not tensors"],
    ["raw", npy(dict("|V2", "(1,)"), new Uint8Array(2)), "no number type"],
    ["float128", npy(dict("<f16", "(1,)"), new Uint8Array(16)), "no ONNX counterpart"],
    ["truncated", npy(dict("<f4", "(4,)"), new Uint8Array(12)), "4 items of 4 bytes are promised, 12 bytes are there"],
    ["huge claim", npy(dict("<f4", "(999999999, 999999)"), new Uint8Array(12)), "are promised"],
    ["overflowing claim", npy(dict("<f4", "(999999999999, 999999999999)"), new Uint8Array(12)), "2^53"],
    ["negative", npy(dict("<f4", "(-1,)"), new Uint8Array(4)), "shape"],
    ["too many axes", npy(dict("|u1", `(${"1, ".repeat(65)})`), new Uint8Array(1)), "rank"],
    ["version 9", npy(dict("<f4", "(1,)"), new Uint8Array(4), 9), "format version 9"],
  ])("refused: %s", (_, bytes, why) => {
    expect(() => readNpy(bytes)).toThrow(QcError);
    expect(() => readNpy(bytes)).toThrow(why);
  });

  test("whatever the bytes, an error is one of ours", () => {
    const valid = npy(dict("<i4", "(2, 3)"), new Uint8Array(24));
    fc.assert(
      fc.property(fc.nat(valid.length - 1), fc.nat(255), fc.nat(valid.length), (at, value, cut) => {
        const bytes = valid.slice(0, cut);
        if (at < bytes.length) bytes[at] = value;
        try {
          readNpy(bytes);
        } catch (e) {
          expect(e).toBeInstanceOf(QcError);
        }
      }),
      { seed: 1, numRuns: 500 },
    );
  });
});

describe("writing", () => {
  test("the bytes that numpy.save writes", () => {
    const bytes = writeNpy({ dtype: "float32", shape: [2, 1], data: Float32Array.of(1, 2) });
    expect(bytes.length).toBe(128 + 8);
    expect(new TextDecoder("latin1").decode(bytes.subarray(1, 128))).toBe(
      `${"NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }".padEnd(126)}\n`,
    );
  });

  const arrays = fc
    .tuple(
      fc.constantFrom(
        "float32",
        "float64",
        "float16",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "bool",
        "complex64",
      ),
      fc.array(fc.nat(4), { maxLength: 4 }),
      fc.nat(255),
    )
    .map(([dtype, shape, start]): NdArray => {
      const n = shape.reduce((a, b) => a * b, 1) * (dtype === "complex64" ? 2 : 1);
      const Data = {
        float32: Float32Array,
        complex64: Float32Array,
        float64: Float64Array,
        float16: Uint16Array,
        int8: Int8Array,
        uint8: Uint8Array,
        bool: Uint8Array,
        int16: Int16Array,
        uint16: Uint16Array,
        int32: Int32Array,
        uint32: Uint32Array,
      }[dtype as "float32"] as typeof Float32Array | undefined;
      const values = Array.from({ length: n }, (_, i) => (start + 37 * i) % (dtype === "bool" ? 2 : 120));
      if (dtype === "int64") return { dtype, shape, data: BigInt64Array.from(values, (v) => -BigInt(v)) };
      if (dtype === "uint64") return { dtype, shape, data: BigUint64Array.from(values, BigInt) };
      return { dtype: dtype as "float32", shape, data: Data!.from(values) };
    });
  test("read ∘ write = id", () => {
    fc.assert(
      fc.property(arrays, (a) => {
        expect(readNpy(writeNpy(a))).toEqual(a);
      }),
      { seed: 2, numRuns: 300 },
    );
  });
  test("text", () => {
    const a: NdArray = { dtype: "string", shape: [3], data: ["", "héllo", "日本🙂"] };
    expect(readNpy(writeNpy(a))).toEqual(a);
  });
});
