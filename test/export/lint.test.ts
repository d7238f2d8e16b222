import { Ajv } from "ajv";
import { describe, expect, test } from "vitest";
import { LINT_RULES, type LintFinding, lintModel, printLintJson, printSarif } from "../../src/export/lint/index.ts";
import { type Model, newModel, type Value } from "../../src/graph/ir.ts";
import { floats, type TensorData, tensorFrom, tensorFromBytes } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { byteCount, DTYPES, type DType, elementCount } from "../../src/quant/dtype.ts";

const codes = (dtype: DType, shape: readonly number[], value = 0): TensorData =>
  tensorFromBytes(dtype, shape, new Uint8Array(byteCount(dtype, elementCount(shape))).fill(value));

/** A quantized product with every choice open; the defaults are what TensorRT likes. */
interface Choice {
  readonly opset?: number;
  readonly op?: "Conv" | "MatMul" | "Gemm" | "ConvTranspose";
  readonly act?: DType | "float";
  readonly actZero?: number;
  readonly weight?: DType | "float";
  readonly weightZero?: number;
  readonly axis?: number;
  readonly blocks?: number;
  readonly scale?: readonly number[];
  readonly output?: DType;
  readonly bias32?: boolean;
  readonly relu?: boolean;
  readonly kernelShape?: boolean;
  readonly transB?: 1;
  readonly shape?: readonly number[];
}
function product(c: Choice): Model {
  const model = newModel(c.opset ?? 21, 10);
  const g = model.graph;
  const op = c.op ?? "Conv";
  const matrix = op === "MatMul" || op === "Gemm";
  const wshape = c.shape ?? (matrix ? (c.transB ? [8, 64] : [64, 8]) : [8, 8, 3, 3]);
  const x = g.addInput("x", tensorType("float32", matrix ? [4, 64] : [1, wshape[1]!, 8, 8]));
  const scalar = (name: string): Value => g.constant(floats([0.05], []), name);
  const qdq = (v: Value, dtype: DType, zero: number, name: string): Value => {
    const inputs = [scalar(`${name}_s`), g.constant(codes(dtype, [], zero), `${name}_z`)];
    const q = g.append({ op: "QuantizeLinear", inputs: [v, ...inputs], name: `${name}_q` }).outputs[0]!;
    return g.append({ op: "DequantizeLinear", inputs: [q, ...inputs], name: `${name}_dq` }).outputs[0]!;
  };
  const xq = c.act === "float" ? x : qdq(x, (c.act ?? "int8") as DType, c.actZero ?? 0, "x");
  let w: Value;
  if (c.weight === "float") w = g.constant(floats(new Array(elementCount(wshape)).fill(0.1), wshape), "w");
  else {
    const dtype = (c.weight ?? "int8") as DType;
    const right = op === "Conv" ? 0 : op === "Gemm" && c.transB ? 0 : 1;
    const axis = c.axis ?? (c.blocks ? (c.transB ? 1 : 0) : right);
    const sshape = c.blocks ? wshape.map((d, i) => (i === axis ? c.blocks! : d)) : [wshape[axis]!];
    const s = c.scale ?? new Array(elementCount(sshape)).fill(0.01);
    w = g.append({
      op: "DequantizeLinear",
      name: "w_dq",
      inputs: [
        g.constant(codes(dtype, wshape), "w"),
        g.constant(floats(s, c.scale ? [s.length] : sshape), "ws"),
        g.constant(codes(dtype, sshape, c.weightZero ?? 0), "wz"),
      ],
      attrs: c.blocks ? { axis, block_size: Math.ceil(wshape[axis]! / c.blocks) } : { axis },
    }).outputs[0]!;
  }
  const inputs = [xq, w];
  if (c.bias32) {
    const b = g.append({ op: "DequantizeLinear", name: "b_dq", inputs: [g.constant(tensorFrom(new Int32Array(8)), "b"), scalar("bs")] });
    inputs.push(b.outputs[0]!);
  }
  const attrs = matrix ? (c.transB ? { transB: 1 } : {}) : c.kernelShape === false ? {} : { kernel_shape: [3, 3] };
  let y = g.append({ op, inputs, attrs, name: "the" }).outputs[0]!;
  if (c.relu) y = g.append({ op: "Relu", inputs: [y], name: "relu" }).outputs[0]!;
  if (c.output) y = qdq(y, c.output, c.output === "uint8" && !c.relu ? 128 : 0, "y");
  g.addOutput(y);
  return model;
}
const rules = (c: Choice, target = "tensorrt@11:sm89"): string[] => [
  ...new Set(lintModel(product(c), targetOf(target)).map((f) => f.rule)),
];

describe("tensorrt", () => {
  test("what NVIDIA's documentation shows has no finding", () => {
    expect(rules({})).toEqual([]);
    expect(rules({ op: "MatMul" })).toEqual([]);
    expect(rules({ op: "Gemm", transB: 1 })).toEqual([]);
    expect(rules({ act: "float8e4m3fn", weight: "float8e4m3fn" })).toEqual([]);
    expect(rules({ op: "MatMul", act: "float", weight: "int4", blocks: 1 })).toEqual([]);
    expect(rules({ act: "float", weight: "float" })).toEqual([]);
    expect(rules({ opset: 17 }, "tensorrt@8.6")).toEqual([]);
  });
  test.each<[string, Choice, string?]>([
    ["TRT01", { actZero: 3 }],
    ["TRT01", { weightZero: 1 }],
    ["TRT03", { weight: "uint8" }],
    ["TRT03", { bias32: true }],
    ["TRT04", { op: "MatMul", act: "float", weight: "uint4", blocks: 2 }],
    ["TRT04", { weight: "float8e5m2" }],
    ["TRT06", { scale: [0.1, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0.1] }],
    ["TRT07", { scale: [0.1, 0.1] }],
    ["TRT08", { act: "float", weight: "int4", blocks: 1, axis: 1 }],
    ["TRT09", { op: "MatMul", act: "float", weight: "int4", shape: [63, 33] }],
    ["TRT10", { act: "float8e4m3fn", weight: "float8e4m3fn" }, "tensorrt@11:sm86"],
    ["TRT10", { op: "MatMul", act: "float", weight: "int4", blocks: 1 }, "tensorrt@11:sm75"],
    ["TRT11", { op: "MatMul" }, "tensorrt@11:sm75"],
    ["TRT12", { act: "float8e4m3fn" }],
    ["TRT12", { weight: "int4" }],
    ["TRT12", { op: "MatMul", weight: "int4", scale: [0.1], axis: 1 }],
    ["TRT12", { op: "Gemm", transB: 1, weight: "int4", blocks: 2 }],
    ["TRT13", { opset: 19 }, "tensorrt@8.6"],
    ["TRT14", { opset: 17, kernelShape: false }, "tensorrt@8.6"],
    ["TRT15", { opset: 17, weight: "int4" }, "tensorrt@8.6"],
    ["TRT16", { op: "MatMul", act: "float", weight: "int4", blocks: 3 }],
    ["TRT30", { act: "uint8" }],
    ["TRT31", { op: "MatMul", weight: "int4", blocks: 2 }],
    ["TRT32", { opset: 17, op: "ConvTranspose", axis: 0 }, "tensorrt@8.6"],
    ["TRT50", { axis: 1 }],
    ["TRT50", { op: "MatMul", axis: 0 }],
    ["TRT52", { op: "ConvTranspose" }],
    ["TRT53", { op: "MatMul", act: "float", weight: "int4" }],
    ["TRT55", { weight: "float" }],
    ["TRT55", { act: "float" }],
  ])("%s: %o", (rule, choice, target) => {
    expect(rules(choice, target)).toContain(rule);
  });
  test("TRT02, TRT05, TRT51, TRT54, TRT56, TRT57", () => {
    const model = newModel(21, 10);
    const g = model.graph;
    const x = g.addInput("x", tensorType("float32", [1, 8, 8, 8]));
    const z = g.addInput("z", tensorType("int8", []));
    const s = (v: number): Value => g.constant(floats([v], []), "s");
    const zero = g.constant(codes("int8", []), "zero");
    const qdq = (v: Value, scale: Value, zp: Value, attrs = {}): Value =>
      g.append({
        op: "DequantizeLinear",
        inputs: [g.append({ op: "QuantizeLinear", inputs: [v, scale, zp], attrs }).outputs[0], scale, zp],
        attrs,
      }).outputs[0]!;
    const open = qdq(x, s(1), z);
    const channels = qdq(open, g.constant(floats(new Array(8).fill(0.1)), "cs"), g.constant(codes("int8", [8]), "cz"), { axis: 1 });
    const w = g.append({ op: "DequantizeLinear", inputs: [g.constant(codes("int8", [8, 8, 1, 1]), "w"), s(1), zero] }).outputs[0]!;
    const conv = g.append({ op: "Conv", inputs: [channels, w], attrs: { kernel_shape: [1, 1] } }).outputs[0]!;
    const sum = g.append({ op: "Add", inputs: [qdq(conv, s(1), zero), qdq(x, s(2), zero)] }).outputs[0]!;
    const cat = g.append({ op: "Concat", inputs: [qdq(sum, s(1), zero), qdq(x, s(2), zero)], attrs: { axis: 1 } }).outputs[0]!;
    const w4 = g.append({
      op: "DequantizeLinear",
      inputs: [g.constant(codes("int4", [8, 8]), "w4"), g.constant(floats(new Array(8).fill(1), [1, 8]), "s4")],
      attrs: { axis: 0, block_size: 8 },
    }).outputs[0]!;
    const cast = g.append({ op: "Cast", inputs: [w4], attrs: { to: DTYPES.float32.code } }).outputs[0]!;
    g.addOutput(g.append({ op: "MatMul", inputs: [g.append({ op: "Unique", inputs: [cat] }).outputs[0], cast] }).outputs[0]!);
    const found = new Set(lintModel(model, targetOf("tensorrt@11:sm89")).map((f) => f.rule));
    for (const id of ["TRT02", "TRT05", "TRT51", "TRT54", "TRT56", "TRT57"]) expect(found).toContain(id);
  });
});

describe("onnxruntime", () => {
  test("a fused form has no finding", () => {
    expect(rules({ act: "uint8", actZero: 128, output: "uint8" }, "ort-cpu")).toEqual([]);
    expect(rules({ act: "uint8", actZero: 128, relu: true, output: "uint8" }, "ort-cpu")).toEqual([]);
    expect(rules({ act: "float", weight: "float" }, "ort-cuda")).toEqual([]);
  });
  test.each<[string, Choice, string]>([
    ["ORT01", { opset: 27 }, "portable"],
    ["ORT03", { act: "float", weight: "float4e2m1", opset: 23 }, "ort-cpu"],
    ["ORT04", { op: "MatMul", act: "float8e4m3fn", weight: "float8e4m3fn" }, "ort-cpu"],
    ["ORT30", { act: "uint8", actZero: 128 }, "ort-cpu"],
    ["ORT31", { act: "int8", relu: true, output: "int8" }, "ort-cpu"],
    ["ORT32", { act: "uint16" }, "ort-cpu"],
    ["ORT34", { act: "int8" }, "ort-cpu"],
    ["ORT36", { act: "uint8", output: "uint8", shape: [8, 3, 3, 3] }, "ort-cpu"],
    ["ORT50", {}, "ort-cuda"],
    ["ORT51", { opset: 23 }, "ort-cuda"],
    ["ORT52", { bias32: true }, "ort-cuda"],
    ["ORT53", { act: "float" }, "ort-cuda"],
    ["ORT70", {}, "ort-webgpu"],
    ["ORT71", { act: "float", opset: 24 }, "ort-webgpu"],
    ["ORT72", { op: "MatMul", act: "float", weight: "int4", blocks: 2 }, "ort-webgpu"],
  ])("%s: %o", (rule, choice, target) => {
    expect(rules(choice, target)).toContain(rule);
  });
});

test("rules have numbers of their own, a source and a remedy", () => {
  expect(new Set(LINT_RULES.map((r) => r.id)).size).toBe(LINT_RULES.length);
  for (const r of LINT_RULES) {
    expect(r.id).toMatch(/^(TRT|ORT)\d\d$/);
    for (const text of [r.title, r.remedy, r.source]) expect(text.length).toBeGreaterThan(2);
  }
});

describe("printed", () => {
  const subject = { file: "net.onnx", target: "tensorrt@11:sm89", tool: "qc", version: "1" };
  const found = (): LintFinding[] => lintModel(product({ actZero: 3, axis: 1 }), targetOf(subject.target));
  test("JSON: counts by kind, each finding with node and remedy", () => {
    const doc = JSON.parse(printLintJson(found(), subject));
    expect(doc.counts).toEqual({ reject: 2, meaning: 0, slow: 1 });
    expect(doc.findings[0]).toMatchObject({ rule: "TRT01", node: "x_q", op: "QuantizeLinear" });
  });
  test("SARIF: the shape of the standard, levels by kind", () => {
    const doc = JSON.parse(printSarif(found(), subject));
    // The part of the SARIF 2.1.0 schema that code scanning reads.
    const shape = new Ajv({ strict: false }).compile({
      type: "object",
      required: ["version", "runs"],
      properties: {
        version: { const: "2.1.0" },
        runs: {
          type: "array",
          items: {
            type: "object",
            required: ["tool", "results"],
            properties: {
              tool: { type: "object", required: ["driver"], properties: { driver: { type: "object", required: ["name", "rules"] } } },
              results: {
                type: "array",
                items: {
                  type: "object",
                  required: ["ruleId", "ruleIndex", "level", "message", "locations"],
                  properties: {
                    level: { enum: ["none", "note", "warning", "error"] },
                    ruleIndex: { type: "integer", minimum: 0 },
                    message: { type: "object", required: ["text"] },
                  },
                },
              },
            },
          },
        },
      },
    });
    expect(shape(doc), JSON.stringify(shape.errors)).toBe(true);
    const [run] = doc.runs;
    for (const r of run.results) expect(run.tool.driver.rules[r.ruleIndex].id).toBe(r.ruleId);
    expect(run.results.map((r: { level: string }) => r.level)).toEqual(["error", "error", "warning"]);
    expect(run.results[0].locations[0].logicalLocations[0].name).toBe("x_q");
  });
});
