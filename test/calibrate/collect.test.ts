import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { encodeStats } from "../../src/calibrate/file.ts";
import { collectStats } from "../../src/calibrate/index.ts";
import { mergeStats } from "../../src/calibrate/merge.ts";
import type { Stats } from "../../src/calibrate/types.ts";
import type { DataSet } from "../../src/data/types.ts";
import type { Diagnostic } from "../../src/diagnostics.ts";
import { type Model, newModel } from "../../src/graph/ir.ts";
import { floats } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime({ workers: 2 });
});
afterAll(() => runtime.close());

/** x [1, C, N] -> Relu -> Mul -> y, N free or fixed. */
function modelOf(n: number | string): Model {
  const m = newModel(17, 8);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", [1, 4, n]));
  const r = g.append({ op: "Relu", inputs: [x], outputs: ["r"] }).outputs[0]!;
  r.type = tensorType("float32", [1, 4, n]);
  const y = g.append({ op: "Mul", inputs: [r, g.constant(floats([-3.7]), "k")], outputs: ["y"] }).outputs[0]!;
  y.type = tensorType("float32", [1, 4, n]);
  g.addOutput(y);
  return m;
}

function setOf(
  n: number,
  lengthOf: (i: number) => number,
  at: (i: number, j: number) => number = (i, j) => Math.sin(i * 1009 + j) * (1 + i),
): DataSet {
  return {
    name: "made",
    size: n,
    roles: { calibrate: [], select: [], heldOut: [] },
    sha256: createHash("sha256").update("made").digest("hex"),
    metric: undefined,
    classes: undefined,
    async sample(i) {
      const length = lengthOf(i);
      return {
        id: String(i),
        feeds: { x: { dtype: "float32", dims: [1, 4, length], data: Float32Array.from({ length: 4 * length }, (_, j) => at(i, j)) } },
      };
    },
  };
}
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const bytes = (s: Stats): string =>
  createHash("sha256")
    .update(Buffer.concat(encodeStats(s)))
    .digest("hex");
const VALUES = ["x", "r", "y"];

describe("collectStats", () => {
  const data = setOf(23, (i) => 5 + (i % 7));
  const model = modelOf("n");
  const collect = (o: Partial<Parameters<typeof collectStats>[0]> = {}) =>
    collectStats({ model, values: VALUES, data, indices: range(23), runtime, ...o });

  test("counts what ran, in shapes that vary", async () => {
    const s = await collect();
    const all = range(23).flatMap((i) =>
      Array.from({ length: 4 * (5 + (i % 7)) }, (_, j) => Math.fround(Math.sin(i * 1009 + j) * (1 + i))),
    );
    expect(s.values.get("x")).toMatchObject({ count: all.length, min: Math.min(...all), max: Math.max(...all), runs: 23 });
    expect(s.values.get("r")).toMatchObject({ min: 0, zeros: all.filter((v) => v <= 0).length });
    expect(s.values.get("y")!.min).toBe(Math.fround(Math.max(...all) * Math.fround(-3.7)));
    expect(s.samples).toBe(23);
  });

  test("the same bytes from any order, from 1 or 2 workers, and from 7 shards merged in any order", async () => {
    const want = bytes(await collect());
    expect(bytes(await collect({ indices: range(23).reverse(), workers: 2 }))).toBe(want);
    const shards = [];
    for (let k = 0; k < 7; k++) shards.push(await collect({ indices: range(23).filter((i) => i % 7 === k) }));
    expect(bytes(mergeStats(shards))).toBe(want);
    expect(bytes(mergeStats([3, 6, 0, 1, 5, 2, 4].map((k) => shards[k]!)))).toBe(want);
    expect(() => mergeStats([shards[0]!, shards[0]!])).toThrow(/share 4 samples/);
  });

  test("goes on from a checkpoint after an interruption", async () => {
    const want = bytes(await collect());
    const saved: Stats[] = [];
    const stop = new AbortController();
    const slow: DataSet = { ...data, sample: (i) => new Promise((r) => setTimeout(() => r(data.sample(i)), 5)) };
    await expect(
      collect({
        data: slow,
        signal: stop.signal,
        checkpoint: { everyMs: 20, save: (s) => void saved.push(s) },
        progress: (done) => done === 15 && stop.abort(new Error("stopped")),
      }),
    ).rejects.toThrow("stopped");
    const last = saved.at(-1)!;
    expect(last.samples).toBeGreaterThan(0);
    expect(last.samples).toBeLessThan(23);
    expect(bytes(await collect({ resume: last }))).toBe(want);
    expect(bytes(await collect({ resume: await collect() }))).toBe(want);
    await expect(collect({ resume: { ...last, prepare: "other" } })).rejects.toThrow(/different prepare rules/);
  });

  test("a sample that the set holds twice counts twice, resumed or not", async () => {
    const twice = setOf(
      4,
      () => 3,
      (i, j) => (i % 2) + j,
    );
    const s = await collect({ data: twice, indices: range(4), workers: 2 });
    expect(s.samples).toBe(4);
    const part = await collect({ data: twice, indices: [0, 1, 2] });
    expect(bytes(await collect({ data: twice, indices: range(4), resume: part }))).toBe(bytes(s));
  });

  test("warns of NaN, infinity, constants and values that never ran; refuses integers", async () => {
    const said: Diagnostic[] = [];
    const odd = setOf(
      3,
      () => 2,
      (i, j) => (i === 1 && j === 0 ? Number.NaN : i === 2 && j === 1 ? -Infinity : 2),
    );
    const s = await collect({ data: odd, indices: range(3), values: ["x"], report: (d) => said.push(d) });
    expect(s.values.get("x")).toMatchObject({ nan: 1, inf: 1, count: 22, min: 2, max: 2 });
    expect(said.map((d) => d.code)).toEqual(["calibrate/not-finite", "calibrate/constant"]);
    const g = modelOf("n");
    const shape = g.graph.append({ op: "Shape", inputs: [g.graph.values.get("x")!], outputs: ["shape"] }).outputs[0]!;
    shape.type = tensorType("int64", [3]);
    await expect(collect({ model: g, values: ["shape"] })).rejects.toThrow(/has type int64/);
    await expect(collect({ indices: [] })).rejects.toThrow(/No calibration sample/);
    said.length = 0;
    const none = await collect({ data: setOf(2, () => 0), indices: range(2), report: (d) => said.push(d) });
    expect(none.values.get("r")).toMatchObject({ count: 0, runs: 0, min: Infinity });
    expect(said.map((d) => d.code)).toEqual(["calibrate/never-ran"]);
  });
});

describe("collectStats, ranges alone", () => {
  const N = 4096; // 4 x 4096 elements: worth reducing inside the graph
  const fixed = modelOf(N);
  const collect = (data: DataSet, detail: "range" | "histogram") =>
    collectStats({ model: fixed, values: VALUES, data, indices: range(data.size), runtime, detail, workers: 2 });
  const cut = (s: Stats) => [...s.values.values()].map(({ hist: _h, zeros: _z, ...rest }) => rest);

  test("are those of the histograms, with NaN and infinity in some samples", async () => {
    for (const odd of [0, Number.NaN, Infinity, -Infinity, 3e38]) {
      const data = setOf(
        6,
        () => N,
        (i, j) => (i === 3 && j % 5000 === 77 ? odd : Math.sin(i * 1009 + j) * (i - 2)),
      );
      const a = await collect(data, "range");
      const b = await collect(data, "histogram");
      expect(cut(a)).toEqual(cut(b));
      expect(a.sampleKeys).toEqual(b.sampleKeys);
      if (odd !== 3e38) expect(a.values.get("r")!.hist).toBeUndefined();
    }
  });
});

describe("collectStats, ranges alone, when a large value is sometimes empty", () => {
  test("every element is looked at instead", async () => {
    const data = setOf(5, (i) => (i === 3 ? 0 : 4096));
    const types = new Map(VALUES.map((v) => [v, tensorType("float32", [1, 4, 4096])]));
    const of = { model: modelOf("n"), values: VALUES, data, indices: range(5), runtime };
    const cut = (s: Stats) => [...s.values.values()].map(({ hist: _h, zeros: _z, ...rest }) => rest);
    const a = await collectStats({ ...of, types, detail: "range" });
    expect(cut(a)).toEqual(cut(await collectStats(of)));
    expect(a.values.get("r")!.hist).toBeUndefined();
  });
});

describe("collectStats, ranges alone, with outliers", () => {
  test("a value of which one element dwarfs the rest gets a histogram", async () => {
    const n = 4096;
    const data = setOf(
      4,
      () => n,
      (i, j) => (i === 2 && j === 99 ? 400 : Math.sin(i * 1009 + j)),
    );
    const of = { model: modelOf(n), values: VALUES, data, indices: range(4), runtime };
    const a = await collectStats({ ...of, detail: "range" });
    const b = await collectStats({ ...of, detail: "histogram" });
    expect(a.values.get("r")).toEqual(b.values.get("r"));
    expect(a.sampleKeys).toEqual(b.sampleKeys);
  });
});

describe("collectStats, data with state", () => {
  /** y = x + s, s' = y: a running sum within a sequence. */
  const m = newModel(17, 8);
  const g = m.graph;
  const x = g.addInput("x", tensorType("float32", [1, 2]));
  const s = g.addInput("s", tensorType("float32", [1, 2]));
  const y = g.append({ op: "Add", inputs: [x, s], outputs: ["y"] }).outputs[0]!;
  y.type = tensorType("float32", [1, 2]);
  g.addOutput(y);
  const sequences = [0, 0, 0, 1, 1, 2, 2, 2, 2];
  const data: DataSet = {
    ...setOf(9, () => 1),
    state: { s: "y" },
    sequences,
    async sample(i) {
      const x = { dtype: "float32", dims: [1, 2], data: Float32Array.of(i + 1, -1) } as const;
      const start = { dtype: "float32", dims: [1, 2], data: new Float32Array(2) } as const;
      return { id: String(i), feeds: i === 0 || sequences[i] !== sequences[i - 1] ? { x, s: start } : { x } };
    },
  };
  const collect = (o: Partial<Parameters<typeof collectStats>[0]> = {}) =>
    collectStats({ model: m, values: ["y", "x"], data, indices: range(9), runtime, ...o });

  test("runs sequences whole, in order, on any number of workers, resumed or not", async () => {
    const one = await collect();
    // Sums: 1 3 6 | 4 9 | 6 13 21 30
    expect(one.values.get("y")).toMatchObject({ max: 30, min: -4, count: 18 });
    expect(bytes(await collect({ indices: range(9).reverse(), workers: 2 }))).toBe(bytes(one));
    expect(bytes(await collect({ resume: await collect({ indices: [3, 4] }) }))).toBe(bytes(one));
    await expect(collect({ indices: [0, 1, 6] })).rejects.toThrow(/Sample 6 .* follows on sample 5/);
  });
});
