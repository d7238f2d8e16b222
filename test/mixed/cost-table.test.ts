import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { type CostTable, checkCosts, parseCosts, printCostsSchema, readCosts } from "../../src/mixed/cost-table.ts";

const machine = { platform: "linux", arch: "x64", cpu: "a cpu", cores: 2 };
const good: CostTable = {
  schema: "qc.costs/1",
  tool: "qc",
  model: { structure: "s", weights: "w" },
  prepare: "p",
  target: "ort-cpu",
  source: { kind: "onnxruntime", version: "1.30.0", level: "all", threads: 1, runs: 80, recordingUs: 3, machine },
  floatUs: 100,
  fixedUs: 10,
  nodes: [{ node: "conv", op: "Conv", us: { float: 60, w8a8: 20 }, toCodes: 4, toFloat: 5 }],
  inputs: [{ value: "x", toCodes: 3 }],
  fastest: { floats: [], us: 40 },
  checks: [{ graph: "float", measuredUs: 100, predictedUs: 99 }],
};
const codesOf = (run: () => unknown): readonly string[] => {
  try {
    run();
  } catch (e) {
    if (e instanceof QcError) return e.diagnostics.map((d) => d.code);
    throw e;
  }
  return [];
};

test("the published schema is the one that tables are checked against", () => {
  expect(readFileSync(resolve(import.meta.dirname, "../../docs/costs.schema.json"), "utf8")).toBe(printCostsSchema());
});

test("a table is read back as it was written, and named by its bytes", () => {
  const folder = mkdtempSync(join(tmpdir(), "qc-costs-"));
  const file = join(folder, "t.json");
  writeFileSync(file, JSON.stringify(good));
  const read = readCosts(file);
  rmSync(folder, { recursive: true });
  expect(read.table).toEqual(good);
  expect(read.sha256).toMatch(/^[0-9a-f]{64}$/);
});

test.each([
  ["no JSON", "{"],
  ["another document", '{"schema":"qc.plan/1"}'],
  ["a list", "[]"],
  ["a time below 0", JSON.stringify({ ...good, nodes: [{ node: "c", op: "Conv", us: { float: -1 } }] })],
  ["a time that is no number", JSON.stringify({ ...good, nodes: [{ node: "c", op: "Conv", us: { float: "1" } }] })],
  ["a time beyond all numbers", JSON.stringify(good).replace('"fixedUs":10', '"fixedUs":1e999')],
  ["a float model that takes no time", JSON.stringify({ ...good, floatUs: 0 })],
  ["an unknown key", JSON.stringify({ ...good, extra: 1 })],
  ["two rows of a node", JSON.stringify({ ...good, nodes: [good.nodes[0], good.nodes[0]] })],
  ["nesting without end", "[".repeat(100_000)],
])("hostile input: %s is an error with a code", (_, text) => {
  const codes = codesOf(() => parseCosts(text, "t.json"));
  expect(codes.length).toBeGreaterThan(0);
  expect(new Set(codes)).toEqual(new Set(["costs/malformed"]));
});

test("names like those of prototypes are names", () => {
  const text = JSON.stringify(good).replace('"float":60', '"__proto__":60,"constructor":1,"float":60');
  const { nodes } = parseCosts(text, "t.json");
  expect(Object.hasOwn(nodes[0]!.us, "__proto__")).toBe(true);
  expect(({} as Record<string, unknown>)["float"]).toBeUndefined();
});

test("a table of another model, preparation, target, machine or engine is refused, each by name", () => {
  const file = { table: good, sha256: "", file: "t.json" };
  const want = { model: { structure: "s" }, prepare: "p", target: "ort-cpu", machine, version: "1.30.0" };
  expect(codesOf(() => checkCosts(file, want))).toEqual([]);
  const cases = [
    { ...want, model: { structure: "t" } },
    { ...want, prepare: "q" },
    { ...want, target: "portable" },
    { ...want, machine: { ...machine, cpu: "another" } },
    { ...want, version: "1.31.0" },
  ];
  for (const other of cases) expect(codesOf(() => checkCosts(file, other))).toEqual(["costs/mismatch"]);
  const all = { model: { structure: "t" }, prepare: "q", target: "portable", machine: { ...machine, cores: 64 }, version: "2" };
  expect(codesOf(() => checkCosts(file, all))).toHaveLength(5);
  // Profiles of an engine come from elsewhere: the machine here has no part in them.
  const foreign = { ...file, table: { ...good, source: { kind: "tensorrt", profiles: [] } as const } };
  expect(codesOf(() => checkCosts(foreign, { ...want, machine: { ...machine, cpu: "another" }, version: "2" }))).toEqual([]);
});
