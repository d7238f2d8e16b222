import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { QcError } from "../../../src/diagnostics.ts";
import { type Model, newModel } from "../../../src/graph/ir.ts";
import { loadModel, saveModel } from "../../../src/graph/onnx/index.ts";
import { floats, type TensorData } from "../../../src/graph/tensor.ts";
import { difference, plain } from "./helpers.ts";

const root = mkdtempSync(join(tmpdir(), "qc-save-"));
afterAll(() => rmSync(root, { recursive: true }));
const fresh = () => mkdtempSync(join(root, "d"));

function model(value: number, n = 1000): Model {
  const m = newModel();
  const x = m.graph.addInput("x", { kind: "tensor", elem: "float32", shape: [n] });
  const w = m.graph.constant(floats(new Float32Array(n).fill(value)), "w");
  const tied = m.graph.constant(w.data!, "tied");
  const small = m.graph.constant(floats([1]), "small");
  const a = m.graph.append({ op: "Mul", inputs: [x, w] }).outputs[0]!;
  const b = m.graph.append({ op: "Add", inputs: [a, tied] }).outputs[0]!;
  m.graph.addOutput(m.graph.append({ op: "Mul", inputs: [b, small], outputs: ["y"] }).outputs[0]!);
  return m;
}
const withoutExternal = (m: Model) => plain(m);

test("external data: large tensors once, small ones inline, the old pair replaced as a whole", () => {
  const dir = fresh();
  const path = join(dir, "m.onnx");
  saveModel(model(1), path, { externalData: "always" });
  const [data, onnx] = readdirSync(dir);
  expect(data).toMatch(/^m\.[0-9a-f]{16}\.data$/);
  expect(onnx).toBe("m.onnx");
  expect(readFileSync(join(dir, data!))).toHaveLength(4000);
  const m = loadModel(path);
  expect(m.graph.values.get("w")!.data!.external).toMatchObject({ offset: 0, length: 4000, location: data });
  expect(m.graph.values.get("small")!.data!.external).toBeUndefined();
  expect(difference(withoutExternal(m), withoutExternal(model(1)))).toBeUndefined();
  saveModel(model(2), path, { externalData: "always" });
  expect(readdirSync(dir)).toHaveLength(2);
  expect(difference(withoutExternal(loadModel(path)), withoutExternal(model(2)))).toBeUndefined();
  // What was loaded before the swap still reads what it was.
  expect(difference(withoutExternal(m), withoutExternal(model(1)))).toBeUndefined();
  // A model may be saved onto its own files, and back into one file.
  saveModel(loadModel(path), path);
  expect(readdirSync(dir)).toEqual(["m.onnx"]);
  expect(difference(withoutExternal(loadModel(path)), withoutExternal(model(2)))).toBeUndefined();
});

test("equal models give equal files", () => {
  const [a, b] = [fresh(), fresh()];
  for (const d of [a, b]) saveModel(model(3), join(d, "m.onnx"), { externalData: "always" });
  expect(readdirSync(a)).toEqual(readdirSync(b));
  for (const f of readdirSync(a)) expect(Buffer.compare(readFileSync(join(a, f)), readFileSync(join(b, f)))).toBe(0);
});

test("tensors are asked for one by one, when they are written", () => {
  const m = newModel();
  let held = 0;
  let made = 0;
  for (let i = 0; i < 20; i++) {
    const data: TensorData = {
      dtype: "uint8",
      shape: [1 << 20],
      byteLength: 1 << 20,
      bytes() {
        made++;
        held = Math.max(held, i + 1 - made);
        return new Uint8Array(1 << 20).fill(i);
      },
    };
    m.graph.constant(data, `w${i}`);
  }
  const path = join(fresh(), "m.onnx");
  saveModel(m, path, { externalData: "always" });
  expect(made).toBe(20);
  expect(loadModel(path).graph.values.get("w7")!.data!.bytes()[5]).toBe(7);
});

test("a failure while writing leaves the old pair and nothing else", () => {
  const dir = fresh();
  const path = join(dir, "m.onnx");
  saveModel(model(1), path, { externalData: "always" });
  const before = readdirSync(dir);
  for (const externalData of ["always", "never"] as const) {
    const m = model(2);
    const broken: TensorData = {
      dtype: "float32",
      shape: [5000],
      byteLength: 20_000,
      bytes() {
        throw new Error("no");
      },
    };
    m.graph.constant(broken, "broken");
    expect(() => saveModel(m, path, { externalData })).toThrow("no");
    expect(readdirSync(dir)).toEqual(before);
    expect(difference(withoutExternal(loadModel(path)), withoutExternal(model(1)))).toBeUndefined();
  }
});

test("data files that are short, absent or overlapping are refused on load", () => {
  const codeOf = (path: string) => {
    try {
      loadModel(path);
    } catch (e) {
      if (e instanceof QcError) return e.diagnostics[0]!.code;
      throw e;
    }
    return "loaded";
  };
  const dir = fresh();
  const path = join(dir, "m.onnx");
  saveModel(model(1), path, { externalData: "always" });
  const data = readdirSync(dir)[0]!;
  writeFileSync(join(dir, data), new Uint8Array(3999));
  expect(codeOf(path)).toBe("io/external-range");
  rmSync(join(dir, data));
  expect(codeOf(path)).toBe("io/not-found");
  writeFileSync(join(dir, data), new Uint8Array(8000));
  const bytes = readFileSync(path);
  // The second tensor's offset, "0" as text: one digit changed makes the ranges overlap in part.
  const at = bytes.lastIndexOf("offset") + "offset".length + 2;
  expect(String.fromCharCode(bytes[at]!)).toBe("0");
  bytes[at] = "7".charCodeAt(0);
  writeFileSync(path, bytes);
  expect(codeOf(path)).toBe("io/external-range");
});
