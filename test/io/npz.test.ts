import { deflateRawSync } from "node:zlib";
import fc from "fast-check";
import { unzipSync, zipSync } from "fflate";
import { describe, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { crc32, crc32Table } from "../../src/io/crc.ts";
import { LIMITS } from "../../src/io/limits.ts";
import { writeNpy } from "../../src/io/npy.ts";
import { openNpz, writeNpz } from "../../src/io/npz.ts";
import { type ByteSource, memorySource } from "../../src/io/source.ts";
import { openZip, writeZip } from "../../src/io/zip.ts";

const join = (parts: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(parts));
const bytes = (n: number, seed = 1) => Uint8Array.from({ length: n }, (_, i) => (i * seed + (i >> 3)) & 255);

describe("zip", () => {
  test("crc-32 of the standard's check string, whole and in parts", () => {
    const text = new TextEncoder().encode("123456789");
    expect(crc32(text)).toBe(0xcbf43926);
    for (const f of [crc32, crc32Table]) {
      expect(f(text)).toBe(0xcbf43926);
      expect(f(text.subarray(4), f(text.subarray(0, 4)))).toBe(0xcbf43926);
      expect(f(bytes(1001, 7))).toBe(crc32(bytes(1001, 7)));
    }
  });

  test("an independent reader takes what we write, and we take what an independent writer writes", () => {
    const files = { "a.txt": bytes(10), "b/ü.bin": bytes(5000, 3), empty: new Uint8Array(0) };
    for (const deflate of [false, true]) {
      const zip = join(
        writeZip(
          Object.entries(files).map(([name, b]) => ({ name, bytes: b })),
          { deflate },
        ),
      );
      const back = unzipSync(zip);
      expect(Object.keys(back)).toEqual(Object.keys(files));
      for (const [name, b] of Object.entries(files)) expect(Buffer.from(back[name]!).equals(b)).toBe(true);
    }
    for (const level of [0, 6] as const) {
      const entries = openZip(memorySource(zipSync(files, { level })));
      for (const [name, b] of Object.entries(files)) expect(Buffer.from(entries.get(name)!.bytes()).equals(b)).toBe(true);
    }
  });

  test("equal entries give equal bytes", () => {
    const make = () => join(writeZip([{ name: "x", bytes: bytes(999) }], { deflate: true }));
    expect(make()).toEqual(make());
  });

  test("parts of a stored entry are read alone; of a deflated one too, forward and backward", async () => {
    const content = bytes(100_000, 7);
    for (const deflate of [false, true]) {
      const zip = join(writeZip([{ name: "x", bytes: content }], { deflate }));
      const e = openZip(memorySource(zip)).get("x")!;
      await e.prepare();
      for (const [at, n] of [
        [50_000, 100],
        [10, 20],
        [99_990, 10],
      ] as const)
        expect(Array.from(e.read(at, n))).toEqual(Array.from(content.subarray(at, at + n)));
      expect(() => e.read(99_999, 2)).toThrow(QcError);
    }
  });

  test("a deflated entry too big to hold is read in pieces", () => {
    // The directory claims more than `inflateWhole`: a sparse source stands in for a file of that size.
    const content = bytes(3_000_000, 11);
    const packed = deflateRawSync(content);
    const claimed = LIMITS.inflateWhole + content.length;
    const zip = zipOf("x", packed, claimed, 8, 0);
    const real = memorySource(zip);
    const padded: ByteSource = { ...real, size: real.size };
    // The ratio guard needs a packed size that could hold the claim, so the claim is checked against it first.
    expect(() => openZip(padded).get("x")).toThrow("claims");
    const long = zipOf("x", packed, claimed, 8, Math.ceil(claimed / LIMITS.deflateRatio));
    const e = openZip(memorySource(long)).get("x")!;
    for (const [at, n] of [
      [5, 10],
      [2_900_000, 1000],
      [1_000_000, 5],
      [999_000, 2000],
    ] as const)
      expect(Array.from(e.read(at, n))).toEqual(Array.from(content.subarray(at, at + n)));
    expect(() => e.read(content.length - 1, 10)).toThrow("ends early");
  });

  test("zip64 sizes and counts", () => {
    const zip = zip64Of("x", bytes(100));
    expect(openZip(memorySource(zip)).get("x")!.bytes()).toEqual(bytes(100));
  });

  test("more than 65 535 entries", () => {
    const many = Array.from({ length: 65_540 }, (_, i) => ({ name: `e${i}`, bytes: Uint8Array.of(i & 255) }));
    const zip = join(writeZip(many));
    const entries = openZip(memorySource(zip));
    expect(entries.size).toBe(65_540);
    expect(entries.get("e65539")!.bytes()).toEqual(Uint8Array.of(65_539 & 255));
  });

  describe("hostile input", () => {
    const good = join(writeZip([{ name: "x", bytes: bytes(100) }]));
    const edit = (f: (v: DataView, central: number) => void) => {
      const b = good.slice();
      const v = new DataView(b.buffer);
      f(v, v.getUint32(b.length - 22 + 16, true));
      return b;
    };
    test.each([
      ["truncated", good.slice(0, -30), "truncated"],
      ["no zip", new Uint8Array(10), "truncated"],
      ["encrypted", edit((v, c) => v.setUint16(c + 8, 1, true)), "encrypted"],
      ["an unknown method", edit((v, c) => v.setUint16(c + 10, 12, true)), "method 12"],
      [
        "a bomb's claim",
        edit((v, c) => {
          v.setUint16(c + 10, 8, true);
          v.setUint32(c + 24, 0x7fffffff, true);
        }),
        "claims",
      ],
      ["an offset outside", edit((v, c) => v.setUint32(c + 42, 0x00ffffff, true)), "outside"],
      ["sizes that differ", edit((v, c) => v.setUint32(c + 24, 99, true)), "sizes differ"],
      ["a directory elsewhere", edit((v) => v.setUint32(good.length - 22 + 16, 0x00ffffff, true)), "should lie"],
      ["too many entries", edit((v) => v.setUint16(good.length - 22 + 10, 900, true)), "do not fit"],
    ])("%s", (_, b, why) => {
      expect(() => openZip(memorySource(b)).get("x")!.bytes()).toThrow(QcError);
      expect(() => openZip(memorySource(b)).get("x")!.bytes()).toThrow(why);
    });
    test("a flipped bit of the content", () => {
      const b = good.slice();
      b[40] = b[40]! ^ 1;
      expect(() => openZip(memorySource(b)).get("x")!.bytes()).toThrow("the checksum differs");
    });
    test("a name twice", () => {
      expect(() =>
        openZip(
          memorySource(
            join(
              writeZip([
                { name: "x", bytes: bytes(1) },
                { name: "x", bytes: bytes(2) },
              ]),
            ),
          ),
        ),
      ).toThrow("twice");
    });
    test("whatever the bytes, an error is one of ours", () => {
      const zip = join(writeNpz([["a", { dtype: "float32", shape: [50], data: new Float32Array(50) }]], { deflate: true }));
      fc.assert(
        fc.property(fc.array(fc.tuple(fc.nat(zip.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }), (edits) => {
          const b = zip.slice();
          for (const [at, value] of edits) b[at] = value;
          try {
            openNpz(memorySource(b)).array("a")?.all();
          } catch (e) {
            expect(e).toBeInstanceOf(QcError);
          }
        }),
        { seed: 3, numRuns: 1000 },
      );
    });
  });
});

describe("npz", () => {
  test("arrays by name, in order, with other files in front", () => {
    const zip = join(
      writeNpz(
        [
          ["b", { dtype: "float32", shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }],
          ["a/x", { dtype: "int64", shape: [1], data: BigInt64Array.of(-7n) }],
        ],
        { files: [{ name: "manifest.json", bytes: new TextEncoder().encode("{}") }] },
      ),
    );
    const z = openNpz(memorySource(zip));
    expect(z.names).toEqual(["b", "a/x"]);
    expect([...z.files.keys()]).toEqual(["manifest.json", "b.npy", "a/x.npy"]);
    expect(z.array("b")!.rows(1, 1)).toEqual({ dtype: "float32", shape: [1, 2], data: Float32Array.of(3, 4) });
    expect(z.array("a/x")!.all().data).toEqual(BigInt64Array.of(-7n));
    expect(z.array("c")).toBeUndefined();
  });

  test("one row of a stored array is read without the rest", () => {
    const zip = join(writeNpz([["x", { dtype: "float32", shape: [1000, 100], data: new Float32Array(100_000) }]]));
    const inner = memorySource(zip);
    let read = 0;
    const z = openNpz({
      ...inner,
      read: (o, n) => {
        read += n;
        return inner.read(o, n);
      },
    });
    z.array("x")!.rows(0, 1);
    const before = read;
    z.array("x")!.rows(700, 1);
    expect(read - before).toBe(400);
  });
});

/** A zip by hand, with sizes as given; `pad` bytes follow the packed data and count as part of it. */
function zipOf(name: string, packed: Uint8Array, size: number, method: number, pad: number): Uint8Array {
  const n = new TextEncoder().encode(name);
  const length = Math.max(packed.length, pad);
  const head = (central: boolean) => {
    const v = new DataView(new ArrayBuffer((central ? 46 : 30) + n.length));
    v.setUint32(0, central ? 0x02014b50 : 0x04034b50, true);
    const o = central ? 2 : 0;
    v.setUint16(8 + o, method, true);
    v.setUint32(18 + o, length, true);
    v.setUint32(22 + o, size, true);
    v.setUint16(26 + o, n.length, true);
    const b = new Uint8Array(v.buffer);
    b.set(n, b.length - n.length);
    return b;
  };
  const local = head(false);
  const data = new Uint8Array(length);
  data.set(packed);
  const central = head(true);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, 1, true);
  end.setUint16(10, 1, true);
  end.setUint32(12, central.length, true);
  end.setUint32(16, local.length + data.length, true);
  return join([local, data, central, new Uint8Array(end.buffer)]);
}

/** A stored entry whose sizes and offset all stand in zip64 fields, as writers of big files leave them. */
function zip64Of(name: string, content: Uint8Array): Uint8Array {
  const n = new TextEncoder().encode(name);
  const extra = new DataView(new ArrayBuffer(4 + 24));
  extra.setUint16(0, 1, true);
  extra.setUint16(2, 24, true);
  extra.setBigUint64(4, BigInt(content.length), true);
  extra.setBigUint64(12, BigInt(content.length), true);
  const local = new DataView(new ArrayBuffer(30 + n.length));
  local.setUint32(0, 0x04034b50, true);
  local.setUint16(26, n.length, true);
  new Uint8Array(local.buffer).set(n, 30);
  const central = new DataView(new ArrayBuffer(46 + n.length));
  central.setUint32(0, 0x02014b50, true);
  central.setUint32(16, crc32(content), true);
  for (const at of [20, 24, 42]) central.setUint32(at, 0xffffffff, true);
  central.setUint16(28, n.length, true);
  central.setUint16(30, 28, true);
  new Uint8Array(central.buffer).set(n, 46);
  const start = 30 + n.length + content.length;
  const size = 46 + n.length + 28;
  const end64 = new DataView(new ArrayBuffer(56 + 20));
  end64.setUint32(0, 0x06064b50, true);
  end64.setBigUint64(32, 1n, true);
  end64.setBigUint64(40, BigInt(size), true);
  end64.setBigUint64(48, BigInt(start), true);
  end64.setUint32(56, 0x07064b50, true);
  end64.setBigUint64(64, BigInt(start + size), true);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(10, 0xffff, true);
  end.setUint32(12, 0xffffffff, true);
  end.setUint32(16, 0xffffffff, true);
  return join(
    [local, extra, central, extra, end64, end].map((v, i) =>
      i === 0 ? join([new Uint8Array(v.buffer), content]) : i === 1 ? new Uint8Array(0) : new Uint8Array(v.buffer),
    ),
  );
}

test("an independent unzip finds the .npy that writeNpy makes", () => {
  const a = { dtype: "float32", shape: [3], data: Float32Array.of(1, 2, 3) } as const;
  expect(unzipSync(join(writeNpz([["x", a]])))["x.npy"]).toEqual(writeNpy(a));
});
