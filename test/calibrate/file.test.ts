import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkStats, decodeStats, encodeStats, readStats, writeStats } from "../../src/calibrate/file.ts";
import { mergeStats } from "../../src/calibrate/merge.ts";
import { Observer } from "../../src/calibrate/observer.ts";
import type { Stats, ValueStats } from "../../src/calibrate/types.ts";
import { QcError } from "../../src/diagnostics.ts";
import { openNpz, writeNpz } from "../../src/io/npz.ts";
import { memorySource } from "../../src/io/source.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "stats-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const key = (n: number): string => n.toString(16).padStart(64, "0");
function observed(name: string, x: readonly number[], histogram = true): ValueStats {
  const o = new Observer(name, histogram);
  if (x.length > 0) o.add(Float32Array.from(x));
  return o.result();
}
function statsOf(values: readonly ValueStats[], keys: readonly number[]): Stats {
  return {
    schema: "qc.stats/1",
    model: { structure: "s", weights: "w" },
    prepare: "7",
    samples: keys.length,
    sampleKeys: keys.map(key).sort(),
    values: new Map([...values].sort((a, b) => (a.name < b.name ? -1 : 1)).map((v) => [v.name, v])),
  };
}
const example = statsOf([observed("b/c", [0, 1, 2.5, -3]), observed("a", [Number.NaN, Infinity]), observed("r", [1, 2], false)], [1, 2, 3]);
const bytesOf = (s: Stats): Uint8Array => Buffer.concat(encodeStats(s));

describe("stats file", () => {
  test("read after write is the same, and equal stats give equal bytes", () => {
    const path = join(folder, "a.stats");
    writeStats(example, path);
    expect(readStats(path)).toEqual(example);
    expect(Buffer.compare(readFileSync(path), bytesOf(example))).toBe(0);
    expect(readdirSync(folder)).toEqual(["a.stats"]);
    fc.assert(
      fc.property(fc.array(fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { maxLength: 12 }), { maxLength: 3 }), (xs) => {
        const s = statsOf(
          xs.map((x, i) => observed(`v${i}`, x)),
          [xs.length],
        );
        expect(decodeStats(memorySource(bytesOf(s)))).toEqual(s);
      }),
      { seed: 6, numRuns: 25 },
    );
  });

  const refused = (bytes: Uint8Array): string => {
    try {
      decodeStats(memorySource(bytes, "x.stats"));
    } catch (e) {
      expect(e).toBeInstanceOf(QcError);
      return (e as QcError).message;
    }
    throw new Error("accepted");
  };

  test("every truncation and every flipped byte is refused or reads the same", () => {
    const bytes = bytesOf(example);
    for (let n = 0; n < bytes.length; n += 7) refused(bytes.subarray(0, n));
    for (let i = 0; i < bytes.length; i += 3) {
      const bad = bytes.slice();
      bad[i]! ^= 0x55;
      try {
        expect(decodeStats(memorySource(bad))).toEqual(example);
      } catch (e) {
        expect(e).toBeInstanceOf(QcError);
      }
    }
  });

  test("numbers that contradict each other are refused", () => {
    const npz = openNpz(memorySource(bytesOf(example)));
    const manifest = JSON.parse(new TextDecoder().decode(npz.files.get("manifest.json")!.bytes())) as Record<string, unknown>;
    const with_ = (array: string | undefined, change: (data: Float64Array) => void, m: Record<string, unknown> = {}) => {
      const arrays = npz.names.map((n) => {
        const a = npz.array(n)!.all();
        const data = (a.data as Float64Array).slice();
        if (n === array) change(data);
        return [n, { ...a, data }] as const;
      });
      const json = new TextEncoder().encode(JSON.stringify({ ...manifest, ...m }));
      return Buffer.concat(writeNpz(arrays, { files: [{ name: "manifest.json", bytes: json }] }));
    };
    expect(refused(with_("count", (d) => d.set([5], 1)))).toMatch(/counted elements of 5/);
    expect(refused(with_("counts", (d) => d.set([0.5], 0)))).toMatch(/a count of 0.5/);
    expect(refused(with_("counts", (d) => d.set([-1], 0)))).toMatch(/a count of -1/);
    expect(refused(with_("max", (d) => d.set([99], 1)))).toMatch(/does not lie over its range/);
    expect(refused(with_("min", (d) => d.set([Number.NaN], 1)))).toMatch(/the range \[NaN/);
    expect(refused(with_("bins", (d) => d.set([1e9], 1)))).toMatch(/a histogram of 1000000000 bins/);
    expect(refused(with_("first", (d) => d.set([0], 1)))).toMatch(/does not lie/);
    expect(refused(with_("zeros", (d) => d.set([9], 1)))).toMatch(/9 zeros among 4/);
    expect(refused(with_(undefined, () => {}, { schema: "qc.stats/2" }))).toMatch(/this qc reads/);
    expect(refused(with_(undefined, () => {}, { samples: 4 }))).toMatch(/4 samples with 3 keys/);
    expect(refused(with_(undefined, () => {}, { values: ["a", "a", "b"] }))).toMatch(/there twice/);
    expect(refused(with_(undefined, () => {}, { values: ["a", "b"] }))).toMatch(/not float64 \[2\]/);
    expect(refused(with_(undefined, () => {}, { sampleKeys: ["x"] }))).toMatch(/no hashes/);
    expect(refused(with_(undefined, () => {}, { model: null }))).toMatch(/hashes are missing/);
    expect(refused(new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\n"))).toBeTypeOf("string");
    writeFileSync(join(folder, "empty"), "");
    expect(() => readStats(join(folder, "empty"))).toThrow(QcError);
  });
});

describe("merge", () => {
  const a = statsOf([observed("x", [1, 2]), observed("only-a", [5])], [1, 2]);
  const b = statsOf([observed("x", [-7, 0])], [3]);
  test("adds what is disjoint", () => {
    const m = mergeStats([a, b]);
    expect(m.samples).toBe(3);
    expect(m.values.get("x")).toEqual({ ...observed("x", [1, 2, -7, 0]), runs: 2 });
    expect([...m.values.keys()]).toEqual(["only-a", "x"]);
    expect(mergeStats([b, a])).toEqual(m);
    expect(Buffer.compare(bytesOf(mergeStats([b, a])), bytesOf(m))).toBe(0);
  });
  test("refuses overlap, another model, other rules, ranges with histograms", () => {
    expect(() => mergeStats([a, { ...b, sampleKeys: [key(2)] }])).toThrow(/share 1 sample/);
    expect(() => mergeStats([a, { ...b, model: { structure: "s", weights: "other" } }])).toThrow(/different model weights/);
    expect(() => mergeStats([a, { ...b, prepare: "8" }])).toThrow(/different prepare rules/);
    expect(() => mergeStats([a, statsOf([observed("x", [1], false)], [3])])).toThrow(/different histograms/);
  });
  test("stats are bound to the model", () => {
    const of = { model: a.model, prepare: "7", values: ["x"] };
    checkStats(a, of);
    expect(() => checkStats(a, { ...of, prepare: "8" })).toThrow(/version of the prepare rules/);
    expect(() => checkStats(a, { ...of, model: { structure: "t", weights: "w" } })).toThrow(/structure differs/);
    expect(() => checkStats(a, { ...of, values: ["x", "y"] })).toThrow(/lack 1 value.*"y"/);
  });
});
