import { expect, test } from "vitest";
import type { Value } from "../../src/graph/ir.ts";
import { findRegions } from "../../src/prepare/regions.ts";
import { Builder } from "./build.ts";

/** The regions of a small graph: kind, operators, inputs and outputs. */
function regions(build: (b: Builder, x: Value) => Value): string[] {
  const b = new Builder();
  const x = b.input("x", ["N", 4, 8]);
  b.output(build(b, x));
  return findRegions(b.model).map(
    (r) =>
      `${r.kind}: ${r.nodes.map((n) => n.op).join(" ")} | ${r.inputs.map((v) => v.name).join(" ")} -> ${r.outputs.map((v) => v.name).join(" ")}`,
  );
}
const one = (b: Builder, x: number) => b.floats("c", [x], []);

test("layer normalization with gain and shift, its difference computed once or twice", () => {
  const make = (twice: boolean) => (b: Builder, x: Value) => {
    const mean = b.node("ReduceMean", [x], { axes: [-1] });
    const d = b.node("Sub", [x, mean]);
    const e = twice ? b.node("Sub", [x, mean]) : d;
    const std = b.node("Sqrt", [b.node("Add", [b.node("ReduceMean", [b.node("Pow", [e, one(b, 2)])], { axes: [-1] }), one(b, 1e-5)])]);
    return b.node("Add", [b.node("Mul", [b.node("Div", [d, std]), b.weight("g", [8])]), b.weight("h", [8])], {}, "y");
  };
  expect(regions(make(false))).toEqual(["layer-norm: ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add | x -> y"]);
  expect(regions(make(true))).toEqual(["layer-norm: ReduceMean Sub Sub Pow ReduceMean Add Sqrt Div Mul Add | x -> y"]);
});

test("RMS normalization by quotient, reciprocal, or power, through casts", () => {
  const square = (b: Builder, x: Value) => b.node("Add", [b.node("ReduceMean", [b.node("Mul", [x, x])], { axes: [-1] }), one(b, 1e-6)]);
  const gain = (b: Builder, v: Value) => b.node("Mul", [b.weight("g", [8]), v], {}, "y");
  expect(regions((b, x) => gain(b, b.node("Div", [x, b.node("Sqrt", [square(b, x)])])))).toEqual([
    "rms-norm: Mul ReduceMean Add Sqrt Div Mul | x -> y",
  ]);
  expect(regions((b, x) => gain(b, b.node("Mul", [x, b.node("Reciprocal", [b.node("Sqrt", [square(b, x)])])])))).toHaveLength(1);
  expect(regions((b, x) => gain(b, b.node("Mul", [x, b.node("Pow", [square(b, x), one(b, -0.5)])])))).toHaveLength(1);
  expect(
    regions((b, x) => {
      const wide = b.node("Cast", [x], { to: 11 });
      const narrow = b.node("Cast", [b.node("Div", [wide, b.node("Sqrt", [square(b, wide)])])], { to: 1 });
      return gain(b, narrow);
    }),
  ).toEqual(["rms-norm: Mul ReduceMean Add Sqrt Div Cast Mul | cast -> y"]);
});

test("not a normalization: a constant that is no epsilon, a variance of something else", () => {
  const over = (b: Builder, x: Value, of: Value, eps: number) =>
    b.node(
      "Div",
      [x, b.node("Sqrt", [b.node("Add", [b.node("ReduceMean", [b.node("Mul", [of, of])], { axes: [-1] }), one(b, eps)])])],
      {},
      "y",
    );
  expect(regions((b, x) => over(b, x, x, 0.5))).toEqual([]);
  expect(regions((b, x) => over(b, x, b.node("Neg", [x]), 1e-5))).toEqual([]);
});

test("GELU: erf and tanh forms, any association", () => {
  const erf = (b: Builder, x: Value) => b.node("Add", [b.node("Erf", [b.node("Div", [x, one(b, Math.SQRT2)])]), one(b, 1)]);
  expect(regions((b, x) => b.node("Mul", [b.node("Mul", [x, erf(b, x)]), one(b, 0.5)], {}, "y"))).toEqual([
    "gelu: Div Erf Add Mul Mul | x -> y",
  ]);
  expect(regions((b, x) => b.node("Mul", [b.node("Mul", [x, one(b, 0.5)]), erf(b, x)], {}, "y"))).toEqual([
    "gelu: Mul Div Erf Add Mul | x -> y",
  ]);
  expect(
    regions((b, x) => {
      const cube = b.node("Pow", [x, one(b, 3)]);
      const inner = b.node("Mul", [b.node("Add", [x, b.node("Mul", [cube, one(b, 0.044715)])]), one(b, 0.7978846)]);
      const gate = b.node("Add", [one(b, 1), b.node("Tanh", [inner])]);
      return b.node("Mul", [x, b.node("Mul", [one(b, 0.5), gate])], {}, "y");
    }),
  ).toEqual(["gelu: Pow Mul Add Mul Tanh Add Mul Mul | x -> y"]);
});

test("SiLU, hard swish, Mish; a gate over another value is none", () => {
  expect(regions((b, x) => b.node("Mul", [b.node("Sigmoid", [x]), x], {}, "y"))).toEqual(["silu: Sigmoid Mul | x -> y"]);
  expect(regions((b, x) => b.node("Mul", [x, b.node("HardSigmoid", [x])], {}, "y"))).toEqual(["hard-swish: HardSigmoid Mul | x -> y"]);
  expect(
    regions((b, x) => {
      const clip = b.node("Clip", [b.node("Add", [x, one(b, 3)]), one(b, 0), one(b, 6)]);
      return b.node("Div", [b.node("Mul", [x, clip]), one(b, 6)], {}, "y");
    }),
  ).toEqual(["hard-swish: Add Clip Mul Div | x -> y"]);
  expect(regions((b, x) => b.node("Mul", [x, b.node("Tanh", [b.node("Softplus", [x])])], {}, "y"))).toEqual([
    "mish: Softplus Tanh Mul | x -> y",
  ]);
  expect(regions((b, x) => b.node("Mul", [b.node("Neg", [x]), b.node("Sigmoid", [b.node("Abs", [x])])], {}, "y"))).toEqual([]);
});

test("decomposed softmax, l2 normalization", () => {
  expect(
    regions((b, x) => {
      const e = b.node("Exp", [b.node("Sub", [x, b.node("ReduceMax", [x], { axes: [-1] })])]);
      return b.node("Div", [e, b.node("ReduceSum", [e, b.ints("a", [-1])])], {}, "y");
    }),
  ).toEqual(["softmax: ReduceMax Sub Exp ReduceSum Div | x -> y"]);
  expect(regions((b, x) => b.node("Div", [x, b.node("Clip", [b.node("ReduceL2", [x], { axes: [-1] }), one(b, 1e-12)])], {}, "y"))).toEqual([
    "l2-norm: ReduceL2 Clip Div | x -> y",
  ]);
});

test("rotary positions: halves and neighbours", () => {
  expect(
    regions((b, x) => {
      const [cos, sin] = [b.input("cos", ["N", 4, 8]), b.input("sin", ["N", 4, 8])];
      const half = (from: number, to: number) => b.node("Slice", [x, b.ints("s", [from]), b.ints("e", [to]), b.ints("a", [-1])]);
      const turned = b.node("Concat", [b.node("Neg", [half(4, 8)]), half(0, 4)], { axis: -1 });
      return b.node("Add", [b.node("Mul", [x, cos]), b.node("Mul", [turned, sin])], {}, "y");
    }),
  ).toEqual(["rope: Slice Neg Concat Mul Mul Add | x slice_1 cos sin -> y"]);
  expect(
    regions((b, x) => {
      const [o, c, s] = ["o", "c", "s"].map((n) => b.input(n, ["N", 4, 8])) as [Value, Value, Value];
      const re = b.node("Sub", [b.node("Mul", [x, c]), b.node("Mul", [o, s])]);
      const im = b.node("Add", [b.node("Mul", [x, s]), b.node("Mul", [c, o])]);
      return b.node("Concat", [re, im], { axis: -1 }, "y");
    }),
  ).toEqual(["rope: Mul Mul Sub Mul Mul Add | x c o s -> sub add"]);
});

test("normalization and softmax written with sums, differences of squares, and views", () => {
  expect(
    regions((b, x) => {
      const axes = b.ints("axes", [-1]);
      const mean = (v: Value) => b.node("Mul", [b.node("ReduceSum", [v, axes], { keepdims: 0 }), one(b, 1 / 8)]);
      const wide = (v: Value) => b.node("Unsqueeze", [v, axes]);
      const m = mean(x);
      const variance = b.node("Max", [b.node("Sub", [mean(b.node("Mul", [x, x])), b.node("Mul", [m, m])]), one(b, 0)]);
      const inverse = b.node("Reciprocal", [b.node("Sqrt", [b.node("Add", [wide(variance), one(b, 1e-6)])])]);
      const scaled = b.node("Mul", [inverse, b.weight("g", [8])]);
      return b.node("Add", [b.node("Mul", [b.node("Sub", [x, wide(m)]), scaled]), b.weight("h", [8])], {}, "y");
    }),
  ).toEqual(["layer-norm: ReduceSum Mul Mul ReduceSum Mul Mul Sub Max Unsqueeze Add Sqrt Reciprocal Mul Unsqueeze Sub Mul Add | x -> y"]);
  expect(
    regions((b, x) => {
      const axes = b.ints("axes", [-1]);
      const most = b.node("Max", [b.node("ReduceMax", [x], { axes: [-1], keepdims: 0 }), one(b, -1e30)]);
      const e = b.node("Exp", [b.node("Sub", [x, b.node("Unsqueeze", [most, axes])])]);
      return b.node("Div", [e, b.node("Unsqueeze", [b.node("ReduceSum", [e, axes], { keepdims: 0 }), axes])], {}, "y");
    }),
  ).toEqual(["softmax: ReduceMax Max Unsqueeze Sub Exp ReduceSum Unsqueeze Div | x -> y"]);
});

test("masked scores: from the product to the softmax, and the source of the mask; a bias without softmax is none", () => {
  expect(
    regions((b, x) => {
      const keep = b.input("keep", ["N", 1, 8]);
      const mask = b.node("Mul", [b.node("Sub", [one(b, 1), keep]), one(b, -1e9)]);
      const scores = b.node("Div", [b.node("MatMul", [x, b.input("k", ["N", 8, 8])], {}, "qk"), one(b, 8)]);
      return b.node("Softmax", [b.node("Add", [mask, scores])], {}, "y");
    }),
  ).toEqual(["attention-mask: Sub Mul Div Add Softmax | keep qk -> y"]);
  expect(
    regions((b, x) => {
      const product = b.node("MatMul", [x, b.weight("w", [8, 8])]);
      return b.node("Relu", [b.node("Add", [product, b.weight("bias", [8])])], {}, "y");
    }),
  ).toEqual([]);
  const head = (low: number) => (b: Builder, x: Value) => {
    const sum = b.node("Add", [b.node("MatMul", [x, b.weight("w", [8, 8])], {}, "mm"), b.floats("row", [0, 0, 0, 0, 0, 0, 0, low])]);
    return b.node("Softmax", [sum], {}, "y");
  };
  expect(regions(head(-8))).toEqual([]);
  expect(regions(head(-10000))).toEqual(["attention-mask: Add Softmax | mm -> y"]);
});
