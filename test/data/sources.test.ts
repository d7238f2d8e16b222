import { describe, expect, test } from "vitest";
import wavefile from "wavefile";
import { createRuntime } from "../../src/runtime/index.ts";
import { accumulator, bytesOf } from "../runtime/models.ts";
import { input, opened, refused, scratch } from "./helpers.ts";

const at = scratch();
const ints = (d: unknown) => Array.from(d as BigInt64Array, Number);

describe("text", () => {
  /** Word pieces by white space: a = 3, b = 4, c = 5, anything else 1. */
  at.write(
    "tokenizer.json",
    JSON.stringify({
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: { type: "WhitespaceSplit" },
      post_processor: null,
      decoder: null,
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: { "[PAD]": 0, "[UNK]": 1, "[BOS]": 2, a: 3, b: 4, c: 5 },
      },
    }),
  );
  const ids = input(["B", "S"], "ids", "int64");

  test("a line is a document; bos, truncation, padding, masks, next tokens", async () => {
    at.write("t.txt", "a b c a b\n\n c zzz \n");
    const spec = at.write(
      "t.yaml",
      `source: t.txt
text: { tokenizer: tokenizer.json, bos: 2, pad: { length: 4, id: 0 } }
labels: targets
metric: perplexity
inputs: { ids: { from: ids }, attention: { from: mask }, where: { from: positions } }
`,
    );
    const { set } = await opened(spec, [ids, input(["B", "S"], "attention", "int64"), input(["B", "S"], "where", "int64")]);
    expect(set.size).toBe(2);
    const [a, b] = [await set.sample(0), await set.sample(1)];
    expect([ints(a.feeds["ids"]!.data), ints(a.feeds["attention"]!.data)]).toEqual([
      [2, 3, 4, 5],
      [1, 1, 1, 1],
    ]);
    expect([ints(b.feeds["ids"]!.data), ints(b.feeds["attention"]!.data), ints(b.feeds["where"]!.data)]).toEqual([
      [2, 5, 1, 0],
      [1, 1, 1, 0],
      [0, 1, 2, 0],
    ]);
    expect(ints((b.label as { data: unknown }).data)).toEqual([5, 1, -1, -1]);
    const left = at.write("left.yaml", "source: t.txt\ntext: { tokenizer: tokenizer.json, pad: { length: 3, id: 0, side: left } }\n");
    expect(ints((await (await opened(left, [ids])).set.sample(1)).feeds["ids"]!.data)).toEqual([0, 5, 1]);
  });

  test("decode: a window is one prefill and then single tokens behind a cache that starts empty", async () => {
    at.write("d.txt", "a b c a b c");
    const spec = at.write(
      "d.yaml",
      `source: d.txt
inputs:
  input_ids: { from: ids }
  attention_mask: { from: mask }
  position_ids: { from: positions }
  "past.*.key": { state: "present.*.key", init: empty }
text: { tokenizer: tokenizer.json, bos: 2, windows: 3, decode: { prefill: 2 } }
labels: targets
`,
    );
    const tokens = { dtype: "int64", dims: ["batch", "sequence"] } as const;
    const cache = { dtype: "float32", dims: ["batch", 4, "past", 8] } as const;
    const inputs = [
      { name: "input_ids", ...tokens },
      { name: "attention_mask", ...tokens },
      { name: "position_ids", ...tokens },
      { name: "past.0.key", ...cache },
      { name: "past.1.key", ...cache },
    ];
    const { set } = await opened(spec, inputs);
    expect(set.state).toEqual({ "past.0.key": "present.0.key", "past.1.key": "present.1.key" });
    const samples = await Promise.all([...Array(set.size).keys()].map((i) => set.sample(i)));
    expect(set.sequences).toEqual(samples.map((_, i) => Math.floor(i / 2)));
    expect(samples[0]!.feeds["past.1.key"]!.dims).toEqual([1, 4, 0, 8]);
    expect(samples[1]!.feeds["past.1.key"]).toBeUndefined();
    const numbersOf = (i: number, name: string) => Array.from(samples[i]!.feeds[name]!.data as BigInt64Array, Number);
    expect([0, 1].map((i) => numbersOf(i, "input_ids").length)).toEqual([2, 1]);
    expect([numbersOf(0, "attention_mask"), numbersOf(1, "attention_mask")]).toEqual([
      [1, 1],
      [1, 1, 1],
    ]);
    expect([numbersOf(0, "position_ids"), numbersOf(1, "position_ids")]).toEqual([[0, 1], [2]]);
  });

  test("windows over one stream: every token is predicted once", async () => {
    at.write("w.txt", "a b c a b c a b");
    const spec = at.write("w.yaml", "source: w.txt\ntext: { tokenizer: tokenizer.json, bos: 2, windows: 3 }\nlabels: targets\n");
    const { set } = await opened(spec, [ids]);
    expect(set.size).toBe(2);
    const s = await set.sample(1);
    expect([ints(s.feeds["ids"]!.data), ints((s.label as { data: unknown }).data)]).toEqual([
      [2, 3, 4],
      [3, 4, 5],
    ]);
    const bare = at.write("bare.yaml", "source: w.txt\ntext: { tokenizer: tokenizer.json, windows: 4 }\nlabels: targets\n");
    const t = await (await opened(bare, [ids])).set.sample(0);
    expect([ints(t.feeds["ids"]!.data), ints((t.label as { data: unknown }).data)]).toEqual([
      [3, 4, 5, 3],
      [4, 5, 3, -1],
    ]);
  });

  test("documents by separator and least length; a column of a table beside its label", async () => {
    at.write("d.txt", "a b c\n<END>\nb\n<END>\nc c c c");
    const spec = at.write("d.yaml", 'source: d.txt\ntext: { tokenizer: tokenizer.json, split: "<END>", least: 3 }\n');
    expect((await opened(spec, [ids])).set.size).toBe(2);
    at.write("d.jsonl", '{"text": "a b", "label": 1}\n{"text": "c", "label": 0}\n');
    const table = at.write("dj.yaml", "source: d.jsonl\ntext: { tokenizer: tokenizer.json }\nlabels: label\nsplit: { calibrate: 1 }\n");
    const { set } = await opened(table, [ids]);
    expect([ints((await set.sample(0)).feeds["ids"]!.data), (await set.sample(0)).label]).toEqual([[3, 4], 1]);
  });

  test("what is no tokenizer, and text without one", async () => {
    at.write("bad.json", "{}");
    expect((await refused(opened(at.write("bad.yaml", "source: t.txt\ntext: { tokenizer: bad.json }\n"), [ids]))).message).toContain(
      "no tokenizer.json",
    );
    expect((await refused(opened(`${at.path}/t.txt`, [ids]))).diagnostics[0]!.code).toBe("data/needs-set-file");
  });
});

describe("tables", () => {
  test("jsonl: lists, numbers, classes as text", async () => {
    at.write("r.jsonl", '{"x": [[1, 2], [3, 4]], "y": "no"}\n{"x": [[5, 6], [7, 8]], "y": "yes"}\n{"x": [[0, 0], [0, 0]], "y": "no"}\n');
    const { set, told } = await opened(at.write("r.yaml", "source: r.jsonl\ninputs: { input: { from: x } }\nlabels: y\n"), [
      input(["N", 2, 2]),
    ]);
    const s = await set.sample(1);
    expect([s.feeds["input"]!.data, s.feeds["input"]!.dims, s.label]).toEqual([Float32Array.of(5, 6, 7, 8), [1, 2, 2], 1]);
    expect(told.map((d) => d.code)).toEqual(["data/no-held-out"]);
    expect((await refused(opened(at.write("broken.jsonl", '{"x": 1}\n{"x": \n'), [input(["N", 1])]))).message).toContain("line 2");
  });
  test("csv: columns become a vector", async () => {
    at.write("c.csv", 'a,b,kind\n1,2.5,"x, y"\n3,4,z\n5,6,z\n7,8,z\n');
    const { set } = await opened(
      at.write("c.yaml", "source: c.csv\ninputs: { input: { from: [b, a], steps: [ { divide: 2 } ] } }\nlabels: kind\n"),
      [input(["N", 2])],
    );
    const s = await set.sample(0);
    expect([s.feeds["input"]!.data, s.label]).toEqual([Float32Array.of(1.25, 0.5), 0]);
    expect(
      (await refused(opened(at.write("c2.yaml", "source: c.csv\ninputs: { input: { from: [a, kind] } }\n"), [input(["N", 2])]))).message,
    ).toContain('"kind"');
  });
  test("paths in a table are opened below the set's folder", async () => {
    const sharp = (await import("sharp")).default;
    at.write(
      "pics/one.png",
      await sharp(Uint8Array.of(1, 2, 3), { raw: { width: 1, height: 1, channels: 3 } })
        .png()
        .toBuffer(),
    );
    at.write("p.csv", "file,y\none.png,1\n");
    const spec = at.write(
      "p.yaml",
      "source: p.csv\ninputs: { input: { from: file, steps: [ { open: pics }, decode, { cast: float32 } ] } }\n",
    );
    expect((await (await opened(spec, [input(["N", 1, 1, 3])])).set.sample(0)).feeds["input"]!.data).toEqual(Float32Array.of(1, 2, 3));
  });
  test("parquet", async () => {
    // Written by pyarrow: x list<float> of two, y int64; 3 rows; Snappy.
    at.write("p.parquet", Buffer.from(PARQUET, "base64"));
    const { set } = await opened(
      at.write("pq.yaml", "source: p.parquet\ninputs: { input: { from: x } }\nlabels: y\nsplit: { calibrate: 1 }\n"),
      [input(["N", 2])],
    );
    expect(set.size).toBe(3);
    const s = await set.sample(2);
    expect([s.feeds["input"]!.data, s.label]).toEqual([Float32Array.of(5, 6.5), 7]);
  });
});

describe("audio", () => {
  const wave = (samples: readonly number[], rate: number, channels = 1) => {
    const w = new wavefile.WaveFile();
    w.fromScratch(channels, rate, "16", channels === 1 ? [...samples] : [[...samples], samples.map(() => 0)]);
    return w.toBuffer();
  };
  test("whole files: cut, padded, mixed", async () => {
    at.write("wav/a/1.wav", wave([16384, -16384, 0, 8192], 8000));
    at.write("wav/b/2.wav", wave([16384, 16384], 8000, 2));
    const { set } = await opened(at.write("w.yaml2.yaml", "source: wav\naudio: { length: 3 }\nlabels: class\nsplit: { calibrate: 1 }\n"), [
      input(["N", 3]),
    ]);
    const [a, b] = [await set.sample(0), await set.sample(1)];
    expect([a.feeds["input"]!.data, a.label, b.label]).toEqual([Float32Array.of(0.5, -0.5, 0), 0, 1]);
    expect(b.feeds["input"]!.data).toEqual(Float32Array.of(0.25, 0.25, 0));
  });
  test("frames with context are sequences", async () => {
    at.write(
      "long/x.wav",
      wave(
        [1, 2, 3, 4, 5].map((v) => v * 1024),
        8000,
      ),
    );
    at.write(
      "long/y.wav",
      wave(
        [6, 7].map((v) => v * 1024),
        8000,
      ),
    );
    const { set } = await opened(at.write("l.yaml", "source: long\naudio: { frame: 2, context: 1 }\n"), [input(["B", 3])]);
    expect([set.size, set.sequences]).toEqual([3, [0, 0, 1]]);
    const all = await Promise.all(
      [0, 1, 2].map(async (i) => Array.from((await set.sample(i)).feeds["input"]!.data as Float32Array, (v) => v * 32)),
    );
    expect(all).toEqual([
      [0, 1, 2],
      [2, 3, 4],
      [0, 6, 7],
    ]);
  });
  test("resampling keeps a tone", async () => {
    const tone = Array.from({ length: 800 }, (_, i) => Math.round(16000 * Math.sin((2 * Math.PI * 200 * i) / 8000)));
    at.write("tone/t.wav", wave(tone, 8000));
    const { set } = await opened(at.write("tone.yaml", "source: tone\naudio: { rate: 16000, length: 1600 }\n"), [input(["B", 1600])]);
    const x = (await set.sample(0)).feeds["input"]!.data as Float32Array;
    let error = 0;
    for (let i = 200; i < 1400; i++) error = Math.max(error, Math.abs(x[i]! - (16000 / 32768) * Math.sin((2 * Math.PI * 200 * i) / 16000)));
    // 16-bit rounding is 1.5e-5, the stop band −90 dB; a wrong rate or a shift by one sample errs by 0.04 and more.
    expect(error).toBeLessThan(1e-4);
  });
  test("no WAV inside", async () => {
    at.write("fake/t.wav", "RIFF but no more");
    expect((await refused(opened(at.write("fake.yaml", "source: fake\naudio: {}\n"), [input(["B", "T"])]))).diagnostics[0]!.code).toBe(
      "data/sample-unreadable",
    );
  });
});

describe("loader modules", () => {
  test("samples, labels, roles and a score of their own", async () => {
    const file = at.write(
      "loader.mjs",
      `export async function* samples() {
        for (let i = 0; i < 12; i++)
          yield { id: "s" + i, feeds: { input: new Float32Array([i, i + 1]) }, label: i % 3, role: i < 6 ? "calibrate" : i < 8 ? "select" : "heldOut" };
      }
      export const score = (outputs, sample) => outputs.y.data[0] - sample.label;
      export const better = "lower";`,
    );
    const { set } = await opened(file, [input(["N", 2])]);
    expect([set.roles.calibrate.length, set.roles.select.length, set.roles.heldOut.length]).toEqual([6, 2, 4]);
    expect(await set.sample(7)).toEqual({
      id: "s7",
      feeds: { input: { dtype: "float32", dims: [1, 2], data: Float32Array.of(7, 8) } },
      label: 1,
    });
    expect([set.metric?.better, set.classes?.slice(0, 4)]).toEqual(["lower", [0, 1, 2, 0]]);
  });
  test("more than fits in memory waits on disk, and two reads are equal", async () => {
    const file = at.write(
      "big.mjs",
      "export function* samples() { for (let i = 0; i < 20; i++) yield { feeds: { input: { dtype: 'float32', dims: [1, 1250000], data: new Float32Array(1250000).fill(i) } } }; }",
    );
    const { set } = await opened(file, [input(["N", 1_250_000])]);
    for (const i of [19, 0, 15, 19]) expect((await set.sample(i)).feeds["input"]!.data[777]).toBe(i);
  });
  test("mistakes", async () => {
    const of = async (text: string) => (await refused(opened(at.write(`m${text.length}.mjs`, text), [input(["N", 2])]))).message;
    expect(await of("export const x = 1;")).toContain("exports no function `samples`");
    expect(await of("export function* samples() { yield {}; }")).toContain("has no `feeds`");
    expect(await of("export function* samples() { yield { feeds: { input: 'x' } }; }")).toContain("is no tensor");
    expect(await of("export function* samples() { throw new Error('went wrong'); }")).toContain("went wrong");
    expect(await of("export function* samples( {")).toContain("Loader module");
  });
});

test("a field that names the sequence of a sample, and one that names its group", async () => {
  at.write("q.jsonl", ["a", "a", "b", "b", "b", "a"].map((who, i) => JSON.stringify({ x: [i], who })).join("\n"));
  const spec = at.write("q.yaml", "source: q.jsonl\ninputs: { input: { from: x } }\nsequences: who\ngroup: who\n");
  const { set } = await opened(spec, [input(["N", 1])]);
  expect([set.sequences, (await set.sample(3)).group]).toEqual([[0, 0, 1, 1, 1, 2], "b"]);
});

test("state goes round within a sequence, from the start value at its beginning", async () => {
  const file = at.write(
    "seq.mjs",
    "export function* samples() { for (let i = 0; i < 6; i++) yield { feeds: { x: new Float32Array([i + 1]) }, sequence: i < 2 ? 'a' : 'b' }; }",
  );
  const spec = at.write("seq.yaml", `source: ${file}\ninputs: { x: {}, acc: { state: next, init: 100 } }\n`);
  const { set } = await opened(spec, [input([1], "x"), input([1], "acc")]);
  expect(set.state).toEqual({ acc: "next" });
  const runtime = createRuntime();
  try {
    const s = await runtime.open(bytesOf(accumulator()), { state: set.state! });
    const sums: number[] = [];
    for (let i = 0; i < 6; i++) sums.push(Number((await s.run((await set.sample(i)).feeds))["next"]!.data[0]));
    expect(sums).toEqual([101, 103, 103, 107, 112, 118]);
  } finally {
    await runtime.close();
  }
});

const PARQUET =
  "UEFSMRUEFTAVNEwVDBUAEgAAGFwAAIA/AAAAQAAAQEAAAIBAAACgQAAA0EAVABUiFSYsFQwVEBUGFQYcAAAAEUACAAAAAyoCAAAADAMDA4jGAhUEFTAVLEwVBhUAEgAAGAAADQE8AQAAAAAAAAAHAAAAAAAAABUAFRQVGCwVBhUQFQYVBhwAAAAKJAIAAAAGAQIDJAAVBBlcNQAYBnNjaGVtYRUEADUCGAF4FQIVBkw8AAAANQQYBGxpc3QVAgAVCCUCGAdlbGVtZW50ABUEJQIYAXkAFgYZHBksJgAcFQgZNQAGEBk4AXgEbGlzdAdlbGVtZW50FQIWDBaUARacASZYJggpLBUEFQAVAgAVABUQFQIAPCkmBgYZRgAAAAwAAAAmABwVBBk1AAYQGRgBeRUCFgYWhgEWhgEm7AEmpAEpLBUEFQAVAgAVABUQFQIAPCkGGSYABgAAABaaAhYGJggWogIAKCBwYXJxdWV0LWNwcC1hcnJvdyB2ZXJzaW9uIDI2LjAuMRksHAAAHAAAAPsAAABQQVIx";
