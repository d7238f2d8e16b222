import { expect, test } from "vitest";
import type { QcError } from "../../../src/diagnostics.ts";
import { DEFAULT_GATE, formatGithub, formatJunit, formatMarkdown, judgeGate, parseGate } from "../../../src/verify/gate/index.ts";

const top1 = { name: "top1", unit: "%", better: "higher" } as const;
const run = (perSample: number[]) => ({
  value: (100 * perSample.reduce((s, t) => s + t, 0)) / perSample.length,
  n: perSample.length,
  perSample,
});
const hits = (n: number, wrong: number) => run(Array.from({ length: n }, (_, i) => (i < wrong ? 0 : 1)));
const score = (n: number, wrong: number) => ({
  n,
  metric: hits(n, wrong),
  classes: { "0": hits(50, 0), "1": hits(50, wrong > 40 ? 50 : 0) },
  groups: {},
  tops: [],
});
const flat = (x: number) => Array.from({ length: 40 }, (_, i) => x * (1 + 0.01 * Math.sin(i)));

const input = (wrong: number, o: { bytes?: number; ms?: number; gate?: string } = {}) => ({
  gate: o.gate === undefined ? DEFAULT_GATE : parseGate(o.gate, "gate.yaml"),
  reference: { sizeBytes: 1000, score: score(500, 10), latency: flat(2), throughput: flat(100) },
  candidate: { sizeBytes: o.bytes ?? 1000, score: score(500, wrong), latency: flat(o.ms ?? 2), throughput: flat(100) },
  metric: top1,
  ids: [],
  outputs: [],
  paired: true,
});
const failed = (j: ReturnType<typeof judgeGate>) => j.failed.map((f) => `${f.check} ${f.severity}`);

test("the defaults: size 10 %, latency 5 %, accuracy 3 %, and a destroyed class", () => {
  expect(failed(judgeGate(input(10)))).toEqual([]);
  expect(failed(judgeGate(input(10, { bytes: 1101 })))).toEqual(["size P1"]);
  expect(failed(judgeGate(input(10, { bytes: 1099 })))).toEqual([]);
  expect(failed(judgeGate(input(10, { ms: 2.2 })))).toEqual(["latency P1"]);
  expect(failed(judgeGate(input(10, { ms: 2.06 })))).toEqual([]);
  expect(failed(judgeGate(input(60)))).toEqual(["accuracy (top1) P1", "class 1 P1"]);
});
test("a gate file changes limits and severities, and switches checks off", () => {
  expect(failed(judgeGate(input(60, { gate: "accuracy: { severity: P2 }\nclasses: false" })))).toEqual([]);
  expect(failed(judgeGate(input(16, { gate: "accuracy: { most: 0.5pt, harmless: 0 }" })))).toEqual(["accuracy (top1) P1"]);
  expect(failed(judgeGate(input(10, { bytes: 1400, gate: "size: { most: 50% }" })))).toEqual([]);
});
test("what cannot be told warns, or fails when the gate says so", () => {
  const few = (gate: string) => {
    const o = input(10, { gate });
    return judgeGate({ ...o, reference: { ...o.reference, score: score(30, 0) }, candidate: { ...o.candidate, score: score(30, 1) } });
  };
  expect(failed(few("classes: false"))).toEqual([]);
  expect(failed(few("undecided: fail\nclasses: false"))).toEqual(["accuracy (top1) P1"]);
  const f = few("classes: false").findings[0]!;
  expect(f.outcome).toBe("undecided");
  expect(f.note).toMatch(/about \d+ samples would tell/);
});
test("typing errors are named with their line and the nearest word", () => {
  try {
    parseGate("size: { most: 5% }\nlatency: { mst: 3% }\nacuracy: {}\n", "gate.yaml");
    expect.unreachable();
  } catch (e) {
    expect((e as QcError).diagnostics).toMatchObject([
      { at: "acuracy", line: 3, nearest: "accuracy" },
      { at: "latency.mst", line: 2, nearest: "most" },
    ]);
  }
  expect(() => parseGate("size: { most: lots }", "gate.yaml")).toThrow(/3%, 0.03, 0.5pt/);
  expect(() => parseGate("size: { most: *lots }", "gate.yaml")).toThrow(/[Uu]nresolved alias/);
});
test("junit, annotations and markdown carry what failed, with awkward names", () => {
  const j = judgeGate(input(60, { bytes: 5000 }));
  const junit = formatJunit('a<b & "c"', j);
  expect(junit).toContain('failures="3"');
  expect(junit).not.toContain("a<b");
  expect(junit.match(/<testcase /g)).toHaveLength(Number(/tests="(\d+)"/.exec(junit)![1]));
  expect(formatGithub(j, "m:1.onnx").split("\n")[0]).toMatch(/^::error file=m%3A1.onnx,title=qc check%3A accuracy/);
  expect(formatMarkdown(j, { reference: "a", candidate: "b" })).toContain("| ❌ fail | P1 | size | 1.0 kB | 5.0 kB | +400.00 % | 10.0 % |");
});
