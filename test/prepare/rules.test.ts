import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Graph } from "../../src/graph/ir.ts";
import { printModel } from "../../src/graph/print.ts";
import { floats, int64s, tensorFrom } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { foldAffine } from "../../src/prepare/rules/fold-affine.ts";
import { foldBatchnorm } from "../../src/prepare/rules/fold-batchnorm.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Runtime } from "../../src/runtime/types.ts";
import { Builder, lawful, refusals } from "./build.ts";

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const BN = foldBatchnorm.tolerance;
const AFFINE = foldAffine.tolerance;

describe("constants", () => {
  test("Constant nodes become constants of their graph", async () => {
    const b = new Builder();
    const x = b.input("x", ["N", 3]);
    const c = b.node("Constant", [], { value: { kind: "tensor", value: floats([1, 2, 3]) } }, "three");
    const d = b.node("Constant", [], { value_float: { kind: "float", value: 0.5 } }, "half");
    const p = await lawful(runtime, b.output(b.node("Mul", [b.node("Add", [x, c]), d], {}, "y")), 0);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,3]) -> (y: ?)
        add = Add(x, three=float32[3] {1, 2, 3})
        y = Mul(add, half=float32[] {0.5})"
    `);
  });

  test("inputs with a value of their own become constants; the others stay in order", async () => {
    const b = new Builder(9, 3);
    const w = b.input("w", [3]);
    w.data = floats([1, 2, 3]);
    const x = b.input("x", ["N", 3]);
    const codes: string[] = [];
    const p = await lawful(runtime, b.output(b.node("Add", [x, w], {}, "y")), 0, { report: (d) => codes.push(d.code) });
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 13, ir 7
      main(x: float32[N,3]) -> (y: ?)
        y = Add(x, w=float32[3] {1, 2, 3})"
    `);
    expect(codes).toContain("prepare/default-inputs");
  });

  test("folding: all constant arithmetic in one go, random operators never", async () => {
    const b = new Builder();
    const x = b.input("x", ["N", 3]);
    const c = b.node("Mul", [b.floats("a", [1, 2, 3]), b.node("Sqrt", [b.floats("b", [4, 9, 16])], {}, "root")], {}, "product");
    const noise = b.node("RandomUniformLike", [b.floats("like", [0, 0, 0])], { seed: { kind: "float", value: 3 } }, "noise");
    b.g.addOutput(b.node("Shape", [noise], {}, "s"));
    const p = await lawful(runtime, b.output(b.node("Add", [x, c], {}, "y")), 0);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,3]) -> (s: ?, y: ?)
        noise = RandomUniformLike(like=float32[3] {0, 0, 0}) seed=3f
        s = Shape(noise)
        y = Add(x, product=float32[3] {2, 6, 12})"
    `);
  });

  test("folding: a Cast of stored float16 and a Transpose of a shared weight stay, a lone Transpose folds", async () => {
    const b = new Builder();
    const x = b.input("x", ["N", 32]);
    const half = b.g.constant(tensorFrom(new Uint16Array(32 * 32).fill(0x3c00), [32, 32], "float16"), "half");
    const tied = b.weight("tied", [32, 32]);
    const lone = b.weight("lone", [32, 16]);
    const y1 = b.node("MatMul", [x, b.node("Cast", [half], { to: 1 }, "wide")], {}, "y1");
    const y2 = b.node("MatMul", [b.node("MatMul", [y1, tied]), b.node("Transpose", [tied], { perm: [1, 0] }, "turned")], {}, "y2");
    const y3 = b.node(
      "MatMul",
      [x, b.node("Reshape", [b.node("Transpose", [lone], { perm: [1, 0] }), b.ints("shape", [32, 16])])],
      {},
      "y3",
    );
    b.g.addOutput(y3);
    const p = await lawful(runtime, b.output(y2), 0);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,32]) -> (y3: ?, y2: ?)
        wide = Cast(half=float16[32,32] {… #7935ddc5}) to=1
        y1 = MatMul(x, wide)
        matmul = MatMul(y1, tied=float32[32,32] {-0.522438, 0.826987, 0.224983, … #560ca9ec})
        turned = Transpose(tied=float32[32,32] {-0.522438, 0.826987, 0.224983, … #560ca9ec}) perm=[1,0]
        y2 = MatMul(matmul, turned)
        y3 = MatMul(x, reshape=float32[32,16] {-0.663912, -0.192292, -0.296418, … #245a8a73})"
    `);
  });

  test("folding: what would make the file larger stays, its inputs fold", async () => {
    const b = new Builder();
    const x = b.input("x", [64, 64]);
    const shape = b.node("Concat", [b.ints("a", [64]), b.ints("b", [64])], { axis: 0 }, "shape");
    const mask = b.node("Expand", [b.floats("low", [-1e9], []), shape], {}, "mask");
    const p = await lawful(runtime, b.output(b.node("Add", [x, mask], {}, "y")), 0);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[64,64]) -> (y: ?)
        mask = Expand(low=float32[] {-1000000000}, shape=int64[2] {64, 64})
        y = Add(x, mask)"
    `);
    expect(refusals(p)).toMatchInlineSnapshot(`
      [
        "fold-constants at mask: it would make the file 16364 bytes larger",
      ]
    `);
  });

  test("folding: equal computations in two branches become one constant of the outer graph", async () => {
    const b = new Builder();
    const x = b.input("x", [2, 16]);
    const cond = b.g.addInput("cond", tensorType("bool", []));
    const w = b.weight("w", [16, 64]);
    const branch = (name: string, twice: boolean): Graph => {
      const g = new Graph(name, b.g);
      const one = g.append({ op: "Constant", inputs: [], outputs: ["zero"], attrs: { value: { kind: "tensor", value: int64s([0]) } } })
        .outputs[0]!;
      const end = g.append({ op: "Constant", inputs: [], outputs: ["end"], attrs: { value: { kind: "tensor", value: int64s([32]) } } })
        .outputs[0]!;
      const most = g.append({ op: "Constant", inputs: [], outputs: ["most"], attrs: { value: { kind: "tensor", value: int64s([64]) } } })
        .outputs[0]!;
      const axis = g.append({ op: "Constant", inputs: [], outputs: ["axis"], attrs: { value: { kind: "tensor", value: int64s([1]) } } })
        .outputs[0]!;
      const left = g.append({ op: "Slice", inputs: [w, one, end, axis], outputs: ["left"] }).outputs[0]!;
      const right = g.append({ op: "Slice", inputs: [w, end, most, axis], outputs: ["right"] }).outputs[0]!;
      const joined = g.append({ op: "Concat", inputs: [right, left], outputs: ["joined"], attrs: { axis: 1 } }).outputs[0]!;
      const y = g.append({ op: "MatMul", inputs: [x, joined], outputs: ["product"] }).outputs[0]!;
      g.addOutput(twice ? g.append({ op: "Neg", inputs: [y], outputs: ["out"] }).outputs[0]! : y);
      return g;
    };
    const y = b.node(
      "If",
      [cond],
      { then_branch: { kind: "graph", value: branch("then", false) }, else_branch: { kind: "graph", value: branch("else", true) } },
      "y",
    );
    const p = await lawful(runtime, b.output(y), 0);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[2,16], cond: bool[]) -> (y: ?)
        y = If(cond)
          else_branch:
            else() -> (out: ?)
              product = MatMul(x, joined_constant=float32[16,64] {-0.771949, 0.243193, 0.545658, … #2633ab6c})
              out = Neg(product)
          then_branch:
            then() -> (product: ?)
              product = MatMul(x, joined_constant=float32[16,64] {-0.771949, 0.243193, 0.545658, … #2633ab6c})"
    `);
  });

  test("Shape folds only where the shape holds for every sample", async () => {
    const make = (n: number | string) => {
      const b = new Builder();
      const x = b.node("Relu", [b.input("x", [n, 4])]);
      return b.output(b.node("Reshape", [b.node("Abs", [x]), b.node("Shape", [x], {}, "shape")], {}, "y"));
    };
    expect((await lawful(runtime, make(3), 0)).applied).toContainEqual({ rule: "fold-shape", count: 1 });
    expect((await lawful(runtime, make("N"), 0)).applied.map((a) => a.rule)).not.toContain("fold-shape");
  });
});

describe("drop-identity and drop-dead", () => {
  test("identities go, output names stay", async () => {
    const b = new Builder();
    const x = b.input("x", [2, 3, 4, 4]);
    let v = b.node("Identity", [x]);
    v = b.node("Dropout", [b.node("Relu", [v], {}, "r")]);
    v = b.node("Pad", [v, b.ints("nothing", [0, 0, 0, 0, 0, 0, 0, 0])]);
    v = b.node("Transpose", [b.node("Cast", [v], { to: 1 })], { perm: [0, 1, 2, 3] });
    v = b.node("Neg", [b.node("Concat", [v], { axis: 1 })], {}, "n");
    b.node("Exp", [b.node("Log", [x])]);
    b.weight("unused", [3]);
    const p = await lawful(runtime, b.output(b.node("Identity", [v], {}, "y")), 0);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[2,3,4,4]) -> (y: ?)
        r = Relu(x)
        y = Neg(r)"
    `);
  });

  test("an input handed straight to an output keeps its Identity; so does one value with two output names", async () => {
    const b = new Builder();
    const x = b.input("x", [3]);
    const r = b.node("Relu", [x], {}, "r");
    b.g.addOutput(r);
    b.g.addOutput(b.node("Identity", [r], {}, "twice"));
    const p = await lawful(runtime, b.output(b.node("Identity", [x], {}, "y")), 0);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[3]) -> (r: ?, twice: ?, y: ?)
        r = Relu(x)
        twice = Identity(r)
        y = Identity(x)"
    `);
    expect(refusals(p)).toMatchInlineSnapshot(`
      [
        "drop-identity at twice: it gives one value two output names",
      ]
    `);
  });

  test("Dropout in training mode stays", async () => {
    const b = new Builder();
    const x = b.input("x", [3]);
    const training = b.g.constant(tensorFrom(Uint8Array.of(1), [], "bool"), "training");
    const p = await lawful(runtime, b.output(b.node("Dropout", [x, b.floats("ratio", [0], []), training], {}, "y")), 0);
    expect(p.model.graph.nodes.map((n) => n.op)).toEqual(["Dropout"]);
  });
});

describe("fold-batchnorm", () => {
  test("Conv with bias, grouped", async () => {
    const b = new Builder();
    const x = b.input("x", ["N", 4, 6, 6]);
    const conv = b.node("Conv", [x, b.weight("w", [6, 2, 3, 3]), b.weight("b", [6])], { group: 2, pads: [1, 1, 1, 1] }, "conv");
    const p = await lawful(runtime, b.output(b.batchNorm(conv, 6, "y")), BN);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,4,6,6]) -> (y: ?)
        y = Conv(x, w=float32[6,2,3,3] {-0.239278, 0.378761, 0.103043, … #9cb08831}, b=float32[6] {-0.709828, 0.187972, 0.0381266, 4.07305, -1.35231, -0.896464}) group=2 pads=[1,1,1,1]  # fold-batchnorm"
    `);
  });

  test.each([
    ["depthwise Conv", "Conv", [6, 1, 3, 3], 6, 6],
    ["grouped ConvTranspose", "ConvTranspose", [6, 2, 3, 3], 3, 6],
    ["ConvTranspose", "ConvTranspose", [6, 5, 2, 2], 1, 5],
  ] as const)("%s", async (_, op, shape, group, channels) => {
    const b = new Builder();
    const x = b.input("x", ["N", 6, 5, 5]);
    const y = b.node(op, [x, b.weight("w", shape)], { group });
    const p = await lawful(runtime, b.output(b.batchNorm(y, channels, "y")), BN);
    expect(p.model.graph.nodes.map((n) => n.op)).toEqual([op]);
  });

  test.each([0, 1])("Gemm with transB %d and beta", async (transB) => {
    const b = new Builder();
    const x = b.input("x", ["N", 5]);
    const y = b.node("Gemm", [x, b.weight("w", transB ? [7, 5] : [5, 7]), b.weight("c", [1, 7])], {
      transB,
      beta: { kind: "float", value: 0.5 },
    });
    const p = await lawful(runtime, b.output(b.batchNorm(y, 7, "y")), BN);
    expect(p.model.graph.nodes.map((n) => n.op)).toEqual(["Gemm"]);
  });

  test("MatMul, with and without the Add of its bias", async () => {
    const make = (bias: boolean) => {
      const b = new Builder();
      let y = b.node("MatMul", [b.input("x", ["N", 5]), b.weight("w", [5, 7])], {}, "mm");
      if (bias) y = b.node("Add", [b.weight("bias", [7]), y], {}, "sum");
      return b.output(b.batchNorm(y, 7, "y"));
    };
    expect(printModel((await lawful(runtime, make(false), BN)).model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,5]) -> (y: ?)
        mm = MatMul(x, w=float32[5,7] {-0.379194, 1.2099, 0.571729, … #433ca261})
        y = Add(mm, mm.bias=float32[7] {-0.695593, 0.468553, 1.25531, 0.0320126, -0.282311, 0.101899, -0.223063})  # fold-batchnorm"
    `);
    expect(printModel((await lawful(runtime, make(true), BN)).model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,5]) -> (y: ?)
        mm = MatMul(x, w=float32[5,7] {-0.632593, 1.12931, 0.167333, … #38f0ab80})
        y = Add(bias=float32[7] {0.773922, 0.437808, 0.468633, -0.106379, 0.444534, -0.894207, 0.27361}, mm)  # fold-batchnorm"
    `);
  });

  test("in front of a Conv without padding; a grouped one too", async () => {
    for (const group of [1, 2]) {
      const b = new Builder();
      const bn = b.batchNorm(b.node("Relu", [b.input("x", ["N", 4, 6, 6])]), 4);
      const p = await lawful(runtime, b.output(b.node("Conv", [bn, b.weight("w", [6, 4 / group, 3, 3])], { group }, "y")), BN);
      expect(p.model.graph.nodes.map((n) => n.op)).toEqual(["Relu", "Conv"]);
    }
  });

  test("refuses, with the reason", async () => {
    const reasons: string[] = [];
    const attempt = async (build: (b: Builder) => void) => {
      const b = new Builder();
      build(b);
      const p = await lawful(runtime, b.model, BN);
      reasons.push(...refusals(p).filter((r) => r.startsWith("fold-batchnorm")));
    };
    await attempt((b) => {
      const bn = b.batchNorm(b.node("Relu", [b.input("x", ["N", 4, 6, 6])]), 4, "bn");
      b.output(b.node("Conv", [bn, b.weight("w", [6, 4, 3, 3])], { pads: [1, 1, 1, 1] }, "y"));
    });
    await attempt((b) => {
      const conv = b.node("Conv", [b.input("x", ["N", 4, 6, 6]), b.weight("w", [6, 4, 3, 3])], {}, "conv");
      b.g.addOutput(b.batchNorm(conv, 6, "y"));
      b.output(b.node("Neg", [conv], {}, "z"));
    });
    await attempt((b) => {
      const w = b.node("Mul", [b.input("scale", [6, 4, 3, 3]), b.weight("w", [6, 4, 3, 3])]);
      b.output(b.batchNorm(b.node("Conv", [b.input("x", ["N", 4, 6, 6]), w]), 6, "y"));
    });
    await attempt((b) => b.output(b.batchNorm(b.node("MatMul", [b.input("x", ["N", 3, 5]), b.weight("w", [5, 7])], {}, "mm"), 3, "y")));
    await attempt((b) => {
      const half = b.g.constant(tensorFrom(new Uint16Array(6 * 4 * 9).fill(0x3800), [6, 4, 3, 3], "float16"), "half");
      b.output(b.batchNorm(b.node("Conv", [b.input("x", ["N", 4, 6, 6]), b.node("Cast", [half], { to: 1 })]), 6, "y"));
    });
    await attempt((b) => {
      const x = b.input("x", ["N", 2, 3]);
      const params = [b.floats("g", [1, 1]), b.floats("b", [0, 0]), b.floats("m", [0, 0]), b.floats("v", [0, -1])];
      b.output(b.node("BatchNormalization", [x, ...params], { epsilon: { kind: "float", value: 0 } }, "y"));
    });
    expect(reasons).toMatchInlineSnapshot(`
      [
        "fold-batchnorm at bn: it pads its input, and the padding is not shifted (at "y")",
        "fold-batchnorm at y: its result is used by other nodes too (at "conv")",
        "fold-batchnorm at y: it stands at no product with constant weights",
        "fold-batchnorm at y: its outputs are not axis 1 (at "mm")",
        "fold-batchnorm at y: its weight is stored as float16, and folding would widen it (at "conv")",
        "fold-batchnorm at y: its scale is not finite",
      ]
    `);
  });
});

describe("fold-affine", () => {
  test("a scale and a shift behind a Conv, one number or one a channel", async () => {
    const b = new Builder();
    const conv = b.node("Conv", [b.input("x", ["N", 4, 6, 6]), b.weight("w", [6, 4, 3, 3])], {}, "conv");
    let y = b.node("Mul", [b.weight("k", [6, 1, 1], 2), conv]);
    y = b.node("Div", [y, b.floats("d", [3], [])]);
    y = b.node("Sub", [b.weight("s", [1, 6, 1, 1]), y]);
    const p = await lawful(runtime, b.output(b.node("Add", [y, b.floats("one", [1])], {}, "y")), AFFINE);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,4,6,6]) -> (y: ?)
        y = Conv(x, w=float32[6,4,3,3] {0.211881, -0.335394, -0.0912445, … #d65fd757}, conv.bias=float32[6] {1.38434, 1.4661, 0.319368, 1.31418, 0.450983, 0.108427})  # fold-affine"
    `);
  });

  test("behind a MatMul: the bias Add stays, a scale behind it goes", async () => {
    const b = new Builder();
    const mm = b.node("MatMul", [b.input("x", ["N", 3, 5]), b.weight("w", [5, 7])], {}, "mm");
    const sum = b.node("Add", [mm, b.weight("bias", [7])], {}, "sum");
    const p = await lawful(runtime, b.output(b.node("Mul", [sum, b.floats("half", [0.5], [])], {}, "y")), AFFINE);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,3,5]) -> (y: ?)
        mm = MatMul(x, w=float32[5,7] {-0.261219, 0.413493, 0.112492, … #c00075e7})
        y = Add(mm, bias=float32[7] {-0.415459, 0.105567, 0.426348, -0.234272, 0.0905121, -0.147261, -0.187238})  # fold-affine"
    `);
  });

  test("input scaling in front of a Conv: a factor always, a shift only without padding", async () => {
    const make = (pads: number) => {
      const b = new Builder();
      const x = b.input("x", ["N", 3, 6, 6]);
      const shifted = b.node("Sub", [x, b.weight("mean", [1, 3, 1, 1])], {}, "shifted");
      const scaled = b.node("Div", [shifted, b.weight("std", [3, 1, 1], 2)], {}, "scaled");
      return b.output(b.node("Conv", [scaled, b.weight("w", [4, 3, 3, 3])], { pads: [pads, pads, pads, pads] }, "y"));
    };
    expect((await lawful(runtime, make(0), AFFINE)).model.graph.nodes.map((n) => n.op)).toEqual(["Conv"]);
    const padded = await lawful(runtime, make(1), AFFINE);
    expect(padded.model.graph.nodes.map((n) => n.op)).toEqual(["Sub", "Conv"]);
    expect(refusals(padded)).toMatchInlineSnapshot(`
      [
        "fold-affine at shifted: it pads its input, and the padding is not shifted (at "y")",
      ]
    `);
  });

  test("leaves the constants of a recognized function alone", async () => {
    const b = new Builder();
    const x = b.node("Conv", [b.input("x", ["N", 2, 5, 5]), b.weight("w", [3, 2, 1, 1])], {}, "conv");
    const clip = b.node("Clip", [b.node("Add", [x, b.floats("three", [3], [])]), b.floats("low", [0], []), b.floats("high", [6], [])]);
    const swish = b.node("Div", [b.node("Mul", [x, clip]), b.floats("six", [6], [])]);
    const p = await lawful(runtime, b.output(b.node("Conv", [swish, b.weight("v", [2, 3, 1, 1])], {}, "y")), 0);
    expect(p.model.graph.nodes.map((n) => n.op)).toEqual(["Conv", "Add", "Clip", "Mul", "Div", "Conv"]);
  });

  test("refuses a shared weight, a constant over space, and a quotient of the product", async () => {
    const b = new Builder();
    const x = b.input("x", ["N", 4, 6, 6]);
    const w = b.weight("w", [4, 4, 1, 1]);
    const a = b.node("Mul", [b.node("Conv", [x, w], {}, "shared"), b.floats("two", [2], [])], {}, "a");
    const c = b.node("Mul", [b.node("Conv", [a, b.weight("w2", [4, 4, 1, 1])], {}, "c2"), b.weight("map", [6, 6])], {}, "c");
    const d = b.node("Div", [b.floats("one", [1], []), b.node("Conv", [c, b.weight("w3", [4, 4, 1, 1], 3)], {}, "c3")], {}, "d");
    const p = await lawful(runtime, b.output(b.node("Conv", [d, w], {}, "y")), AFFINE);
    expect(refusals(p)).toMatchInlineSnapshot(`
      [
        "fold-affine at c: its constant varies over more than the channels",
        "fold-affine at d: it divides a constant by its input",
      ]
    `);
  });
});

describe("types", () => {
  test("ranks behind a Reshape whose target is computed", async () => {
    const b = new Builder();
    const x = b.input("x", ["N", 6]);
    const target = b.node(
      "Concat",
      [b.node("Slice", [b.node("Shape", [x]), b.ints("s", [0]), b.ints("e", [1])]), b.ints("rest", [2, 3])],
      { axis: 0 },
      "target",
    );
    // Through floats, where the runtime follows no shape.
    const computed = b.node("Cast", [b.node("Cast", [target], { to: 1 })], { to: 7 });
    const r = b.node("Reshape", [x, computed], {}, "r");
    const t = b.node("Transpose", [r], { perm: [0, 2, 1] }, "t");
    const m = b.node("MatMul", [t, b.weight("w", [2, 4])], {}, "m");
    const p = await lawful(runtime, b.output(b.node("ReduceMax", [m], { axes: [1], keepdims: 1 }, "y")), 0);
    const rank = (name: string) => {
      const type = p.types.get(name);
      return type?.kind === "tensor" ? [type.elem, type.shape?.length] : undefined;
    };
    expect(["r", "t", "m", "y"].map(rank)).toEqual(new Array(4).fill(["float32", 3]));
  });

  test("a sample's shapes are reported, and decide no rewrite", async () => {
    const b = new Builder();
    const x = b.input("x", [2, 4]);
    // As many rows as there are elements that are not 0: other samples have other shapes.
    const found = b.node("Transpose", [b.node("NonZero", [x])], {}, "found");
    const model = b.output(b.node("Shape", [found], {}, "y"));
    const feeds = { x: { dtype: "float32" as const, dims: [2, 4], data: Float32Array.of(1, 0, 0, 2, 0, 0, 3, 0) } };
    b.g.addOutput(b.node("ConstantOfShape", [b.node("Shape", [found], {}, "inner")], {}, "z"));
    const p = await lawful(runtime, model, 0, { feeds });
    expect(p.types.get("found")).toMatchObject({ elem: "int64", shape: [3, 2] });
    expect(p.applied.map((a) => a.rule)).not.toContain("fold-shape");
  });
});

test("a shape that the file claims folds nothing", async () => {
  const b = new Builder();
  const x = b.input("x", [2, 4]);
  const found = b.node("NonZero", [x], {}, "found");
  found.type = tensorType("int64", [2, 5]);
  const p = await lawful(runtime, b.output(b.node("Shape", [found], {}, "inner")), 0);
  expect(p.model.graph.nodes.map((n) => n.op)).toEqual(["NonZero", "Shape"]);
  const c = new Builder();
  const v = c.node("NonZero", [c.input("x", [2, 4])], {}, "found");
  v.type = tensorType("int64", [2, 5]);
  const q = await lawful(runtime, c.output(c.node("ConstantOfShape", [c.node("Shape", [v])], {}, "y")), 0);
  expect(q.model.graph.nodes.map((n) => n.op)).toEqual(["NonZero", "Shape", "ConstantOfShape"]);
});

test("an If that a shape decides becomes its branch", async () => {
  const make = (rows: number | string) => {
    const b = new Builder();
    const x = b.node("Neg", [b.input("x", [rows, 4])], {}, "n");
    const dim = b.node("Gather", [b.node("Shape", [x]), b.ints("zero", [0])], { axis: 0 }, "dim");
    const cond = b.node("Equal", [dim, b.ints("one", [1])], {}, "cond");
    const branch = (name: string, op: string, attrs: Record<string, number> = {}) => {
      const s = new Graph(name, b.g);
      const k = s.constant(floats([2]), "k");
      const twice = s.append({ op: "Mul", inputs: [x, k], outputs: ["twice"], name: "mul" }).outputs[0]!;
      s.addOutput(s.append({ op, inputs: [twice], outputs: ["out"], attrs }).outputs[0]!);
      return { kind: "graph", value: s } as const;
    };
    const attrs = { then_branch: branch("then", "Flatten", { axis: 0 }), else_branch: branch("else", "Exp") };
    const y = b.node("If", [cond], attrs, "y");
    b.g.addOutput(b.node("Abs", [y], {}, "z"));
    return b.output(y);
  };
  expect(printModel((await lawful(runtime, make(1), 0)).model)).toMatchInlineSnapshot(`
    "opset 17, ir 8
    main(x: float32[1,4]) -> (z: ?, y: ?)
      n = Neg(x)
      twice = Mul(n, k=float32[1] {2})  # inline-if
      y = Flatten(twice) axis=0  # inline-if
      z = Abs(y)"
  `);
  expect(printModel((await lawful(runtime, make(3), 0)).model)).toMatchInlineSnapshot(`
    "opset 17, ir 8
    main(x: float32[3,4]) -> (z: ?, y: ?)
      n = Neg(x)
      twice = Mul(n, k=float32[1] {2})  # inline-if
      y = Exp(twice)  # inline-if
      z = Abs(y)"
  `);
  expect((await lawful(runtime, make("N"), 0)).model.graph.nodes.map((n) => n.op)).toContain("If");
});

test("a branch inside a branch, both settled", async () => {
  const b = new Builder();
  const x = b.input("x", ["N", 2, 4, 4]);
  const yes = b.g.constant(tensorFrom(Uint8Array.of(1), [], "bool"), "yes");
  const inner = (parent: Graph, name: string) => {
    const s = new Graph(name, parent);
    const conv = s.append({ op: "Conv", inputs: [x, b.weight(`w${name}`, [3, 2, 1, 1])], outputs: ["conv"] }).outputs[0]!;
    s.addOutput(s.append({ op: "Mul", inputs: [conv, s.constant(floats([2], []), "two")], outputs: ["scaled"] }).outputs[0]!);
    return { kind: "graph", value: s } as const;
  };
  const outer = (name: string) => {
    const s = new Graph(name, b.g);
    const attrs = { then_branch: inner(s, `${name}a`), else_branch: inner(s, `${name}b`) };
    s.addOutput(s.append({ op: "If", inputs: [yes], outputs: ["r"], attrs }).outputs[0]!);
    return { kind: "graph", value: s } as const;
  };
  const p = await lawful(runtime, b.output(b.node("If", [yes], { then_branch: outer("t"), else_branch: outer("e") }, "y")), 1e-6);
  expect(p.model.graph.nodes.map((n) => n.op)).toEqual(["Conv"]);
});

describe("older opsets", () => {
  const softmax = (shape: readonly (number | string)[], axis: number) => {
    const b = new Builder(11, 6);
    return b.output(b.node("Softmax", [b.node("Neg", [b.input("x", shape)], {}, "n")], { axis }, "y"));
  };
  test("a Softmax over the last axis stays one node; over several it needs a matrix", async () => {
    expect(printModel((await lawful(runtime, softmax(["N", 3, 4], 2), 0)).model)).toMatchInlineSnapshot(`
      "opset 13, ir 7
      main(x: float32[N,3,4]) -> (y: ?)
        n = Neg(x)
        y = Softmax(n) axis=-1"
    `);
    expect(printModel((await lawful(runtime, softmax([2, 5], 1), 0)).model)).toMatchInlineSnapshot(`
      "opset 13, ir 7
      main(x: float32[2,5]) -> (y: ?)
        n = Neg(x)
        y = Softmax(n) axis=-1"
    `);
    const matrix = (await lawful(runtime, softmax([2, 3, 4], 1), 0)).model.graph.nodes;
    expect(matrix.map((n) => n.op)).toEqual(["Neg", "Flatten", "Softmax", "Reshape"]);
  });
});

describe("fold-pad", () => {
  const padded = (
    pads: readonly number[],
    value: number,
    consumer: (b: Builder, x: import("../../src/graph/ir.ts").Value) => void,
    mode?: string,
  ) => {
    const b = new Builder();
    const x = b.input("x", ["N", 2, 5, 5]);
    const inputs = mode ? [x, b.ints("pads", pads)] : [x, b.ints("pads", pads), b.floats("value", [value], [])];
    consumer(b, b.node("Pad", inputs, mode ? { mode } : {}, "padded"));
    return b.model;
  };
  const conv =
    (attrs: Record<string, number[]> = {}) =>
    (b: Builder, x: import("../../src/graph/ir.ts").Value) =>
      void b.output(b.node("Conv", [x, b.weight("w", [3, 2, 3, 3])], attrs, "y"));
  const pool =
    (attrs: Record<string, number | number[]>, op = "AveragePool") =>
    (b: Builder, x: import("../../src/graph/ir.ts").Value) =>
      void b.output(b.node(op, [x], { kernel_shape: [2, 2], ...attrs }, "y"));

  test("into a Conv, added to its own pads; into an AveragePool that then counts them", async () => {
    const p = await lawful(runtime, padded([0, 0, 1, 2, 0, 0, 0, 3], 0, conv({ pads: [1, 1, 1, 1] })), 0);
    expect(printModel(p.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,2,5,5]) -> (y: ?)
        y = Conv(x, w=float32[3,2,3,3] {-0.522438, 0.826987, 0.224983, … #31796582}) pads=[2,3,1,4]  # fold-pad"
    `);
    const q = await lawful(runtime, padded([0, 0, 1, 0, 0, 0, 0, 1], 0, pool({})), 1e-6);
    expect(printModel(q.model)).toMatchInlineSnapshot(`
      "opset 17, ir 8
      main(x: float32[N,2,5,5]) -> (y: ?)
        y = AveragePool(x) count_include_pad=1 kernel_shape=[2,2] pads=[1,0,0,1]  # fold-pad"
    `);
  });

  test("refuses, with the reason", async () => {
    const reasons: string[] = [];
    const attempt = async (m: import("../../src/graph/ir.ts").Model) => {
      const p = await lawful(runtime, m, 0);
      expect(p.model.graph.nodes.map((n) => n.op)).toContain("Pad");
      reasons.push(...refusals(p));
    };
    await attempt(padded([0, 0, 1, 1, 0, 0, 1, 1], 2, conv()));
    await attempt(padded([0, 0, 1, 1, 0, 0, 1, 1], 0, conv(), "reflect"));
    await attempt(padded([0, 1, 0, 0, 0, 1, 0, 0], 0, (b, x) => b.output(b.node("Conv", [x, b.weight("w", [3, 4, 3, 3])], {}, "y"))));
    await attempt(padded([0, 0, -1, 0, 0, 0, 0, 0], 0, conv()));
    await attempt(padded([0, 0, 1, 1, 0, 0, 1, 1], 0, pool({}, "MaxPool")));
    await attempt(padded([0, 0, 1, 1, 0, 0, 1, 1], 0, pool({ pads: [1, 1, 1, 1] })));
    await attempt(padded([0, 0, 1, 1, 0, 0, 1, 1], 0, pool({ ceil_mode: 1, strides: [2, 2] })));
    await attempt(padded([0, 0, 2, 1, 0, 0, 1, 1], 0, pool({})));
    expect(reasons).toMatchInlineSnapshot(`
      [
        "fold-pad at padded: it pads with another number than 0",
        "fold-pad at padded: its mode is reflect",
        "fold-pad at padded: it pads the batch or the channels",
        "fold-pad at padded: it crops",
        "fold-pad at padded: a max pool pads with −∞, not with 0",
        "fold-pad at padded: it does not count its own padding (at "y")",
        "fold-pad at padded: its ceil_mode adds a window at the border (at "y")",
        "fold-pad at padded: the padding would be as large as its kernel (at "y")",
      ]
    `);
  });
});
