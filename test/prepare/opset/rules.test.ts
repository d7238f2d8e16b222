import { afterAll, describe, expect, test } from "vitest";
import type { Attr } from "../../../src/graph/attr.ts";
import { checkModel } from "../../../src/graph/check.ts";
import { cloneModel } from "../../../src/graph/clone.ts";
import { Graph, type Model, newModel, type Value } from "../../../src/graph/ir.ts";
import { writeModel } from "../../../src/graph/onnx/index.ts";
import { ONNX_OPS } from "../../../src/graph/ops/names.ts";
import { floats, int64s } from "../../../src/graph/tensor.ts";
import type { Dim } from "../../../src/graph/types.ts";
import { convertOpset } from "../../../src/prepare/opset/index.ts";
import { STEPS } from "../../../src/prepare/opset/table.ts";
import type { DType } from "../../../src/quant/dtype.ts";
import { createRuntime } from "../../../src/runtime/index.ts";
import type { Feeds, Tensor } from "../../../src/runtime/types.ts";
import { numbers } from "../build.ts";

const runtime = createRuntime();
afterAll(() => runtime.close());

const ints = (...value: number[]): Attr => ({ kind: "ints", value });
const int = (value: number): Attr => ({ kind: "int", value });
const f = (value: number): Attr => ({ kind: "float", value });
const s = (x: string): Attr => ({ kind: "string", value: new TextEncoder().encode(x) });

interface Case {
  readonly name: string;
  readonly op: string;
  readonly from: number;
  readonly shape: readonly Dim[];
  /** Of the sample, where `shape` is symbolic. */
  readonly sample?: readonly number[];
  readonly elem?: DType;
  readonly attrs?: Readonly<Record<string, Attr>>;
  readonly more?: (g: Graph) => (Value | undefined)[];
  readonly outputs?: number;
  readonly rules: readonly string[];
}

const weight = (g: Graph, name: string, ...shape: number[]) => {
  const next = numbers(name.length);
  const n = shape.reduce((a, b) => a * b, 1);
  return g.constant(
    floats(
      Array.from({ length: n }, () => next() + 1.5),
      shape,
    ),
    name,
  );
};

const reduces = [
  "ReduceL1",
  "ReduceL2",
  "ReduceLogSum",
  "ReduceLogSumExp",
  "ReduceMax",
  "ReduceMean",
  "ReduceMin",
  "ReduceProd",
  "ReduceSum",
  "ReduceSumSquare",
];
const CASES: readonly Case[] = [
  ...reduces.flatMap((op): Case[] => [
    { name: `${op} along axes`, op, from: 11, shape: [2, 3, 4], attrs: { axes: ints(1, -1), keepdims: int(0) }, rules: ["axes-to-input"] },
    { name: `${op} of everything`, op, from: 7, shape: [2, 3], rules: [] },
  ]),
  { name: "Squeeze along axes", op: "Squeeze", from: 7, shape: [1, 3, 1], attrs: { axes: ints(2) }, rules: ["axes-to-input"] },
  { name: "Squeeze of all ones", op: "Squeeze", from: 11, shape: [1, 3, 1], rules: [] },
  { name: "Unsqueeze", op: "Unsqueeze", from: 11, shape: [3], attrs: { axes: ints(0, -1) }, rules: ["axes-to-input"] },
  {
    name: "Split by sizes",
    op: "Split",
    from: 7,
    shape: [5, 2],
    attrs: { split: ints(2, 3), axis: int(0) },
    outputs: 2,
    rules: ["split-to-input"],
  },
  { name: "Split in equal parts", op: "Split", from: 11, shape: [2, 6], attrs: { axis: int(-1) }, outputs: 3, rules: ["split-count"] },
  {
    name: "Slice",
    op: "Slice",
    from: 9,
    shape: [4, 5],
    attrs: { starts: ints(1, -3), ends: ints(2 ** 52, -1), axes: ints(0, 1) },
    rules: ["slice-inputs"],
  },
  {
    name: "Slice of the first dimensions",
    op: "Slice",
    from: 7,
    shape: [4, 5],
    attrs: { starts: ints(1), ends: ints(3) },
    rules: ["slice-inputs"],
  },
  { name: "TopK", op: "TopK", from: 9, shape: [3, 7], attrs: { k: int(2), axis: int(1) }, outputs: 2, rules: ["topk-input"] },
  { name: "Clip", op: "Clip", from: 7, shape: [9], attrs: { min: f(-0.25), max: f(0.5) }, rules: ["clip-inputs"] },
  { name: "Clip with one bound", op: "Clip", from: 10, shape: [9], attrs: { min: f(0) }, rules: ["clip-inputs"] },
  { name: "Clip without bounds", op: "Clip", from: 10, shape: [9], rules: [] },
  { name: "Pad with a value", op: "Pad", from: 7, shape: [2, 3], attrs: { pads: ints(1, 0, 2, 1), value: f(1.5) }, rules: ["pad-inputs"] },
  { name: "Pad with zeros", op: "Pad", from: 9, shape: [2, 3], attrs: { pads: ints(0, 1, 0, -1) }, rules: ["pad-inputs"] },
  {
    name: "Pad by reflection",
    op: "Pad",
    from: 10,
    shape: [3, 3],
    attrs: { pads: ints(1, 2, 2, 1), mode: s("reflect"), value: f(7) },
    rules: ["pad-inputs"],
  },
  { name: "Dropout", op: "Dropout", from: 7, shape: [4], attrs: { ratio: f(0.3) }, rules: ["dropout-ratio"] },
  ...["Softmax", "LogSoftmax", "Hardmax"].flatMap((op): Case[] => [
    { name: `${op} over what is flattened`, op, from: 7, shape: [2, 3, 4], rules: ["flatten-axis"] },
    { name: `${op} from the first dimension`, op, from: 11, shape: [2, 3, 4], attrs: { axis: int(0) }, rules: ["flatten-axis"] },
    { name: `${op} at a negative axis`, op, from: 11, shape: [2, 3, 4], attrs: { axis: int(-2) }, rules: ["flatten-axis"] },
    { name: `${op} along the last axis`, op, from: 9, shape: [2, 3], rules: [] },
    { name: `${op} before ones only`, op, from: 9, shape: [2, 3, 1, 1], rules: [] },
    { name: `${op} of unknown sizes`, op, from: 9, shape: ["N", "C", "H"], sample: [2, 3, 2], rules: ["flatten-axis"] },
  ]),
  {
    name: "Upsample 7",
    op: "Upsample",
    from: 7,
    shape: [1, 2, 3, 3],
    attrs: { scales: { kind: "floats", value: [1, 1, 2, 3] } },
    rules: ["upsample-scales", "upsample-to-resize", "resize-modes"],
  },
  {
    name: "Upsample 7, fractional",
    op: "Upsample",
    from: 7,
    shape: [1, 1, 5, 5],
    attrs: { scales: { kind: "floats", value: [1, 1, 1.5, 2.5] } },
    rules: ["upsample-scales", "upsample-to-resize", "resize-modes"],
  },
  {
    name: "Upsample 9, linear",
    op: "Upsample",
    from: 9,
    shape: [1, 2, 3, 3],
    attrs: { mode: s("linear") },
    more: (g) => [g.constant(floats([1, 1, 2, 2]), "scales")],
    rules: ["upsample-to-resize", "resize-modes"],
  },
  {
    name: "Resize 10, larger",
    op: "Resize",
    from: 10,
    shape: [1, 1, 3, 5],
    attrs: { mode: s("nearest") },
    more: (g) => [g.constant(floats([1, 1, 2.5, 1.5]), "scales")],
    rules: ["resize-modes"],
  },
  {
    name: "Resize 10, smaller",
    op: "Resize",
    from: 10,
    shape: [1, 1, 8, 9],
    attrs: { mode: s("nearest") },
    more: (g) => [g.constant(floats([1, 1, 0.6, 0.3]), "scales")],
    rules: ["resize-modes"],
  },
  {
    name: "Resize 10, linear, both ways",
    op: "Resize",
    from: 10,
    shape: [1, 1, 4, 4],
    attrs: { mode: s("linear") },
    more: (g) => [g.constant(floats([1, 1, 0.5, 2]), "scales")],
    rules: ["resize-modes"],
  },
  {
    name: "BatchNormalization",
    op: "BatchNormalization",
    from: 7,
    shape: [2, 3, 4, 4],
    attrs: { spatial: int(1) },
    more: (g) => ["a", "bb", "ccc", "dddd"].map((n) => weight(g, n, 3)),
    rules: [],
  },
  {
    name: "GridSample",
    op: "GridSample",
    from: 16,
    shape: [1, 1, 4, 4],
    attrs: { mode: s("bicubic") },
    more: (g) => [
      g.constant(
        floats(
          Array.from({ length: 18 }, (_, i) => i / 9 - 1),
          [1, 3, 3, 2],
        ),
        "grid",
      ),
    ],
    rules: ["grid-sample-mode"],
  },
  {
    name: "GridSample by default",
    op: "GridSample",
    from: 16,
    shape: [1, 1, 4, 4],
    more: (g) => [
      g.constant(
        floats(
          Array.from({ length: 18 }, (_, i) => i / 9 - 1),
          [1, 3, 3, 2],
        ),
        "grid",
      ),
    ],
    rules: [],
  },
  { name: "DFT by default", op: "DFT", from: 17, shape: [2, 5, 4, 1], rules: ["dft-axis"] },
  { name: "DFT along an axis", op: "DFT", from: 18, shape: [2, 5, 4, 1], attrs: { axis: int(2) }, rules: ["dft-axis"] },
  {
    name: "RoiAlign",
    op: "RoiAlign",
    from: 11,
    shape: [1, 1, 6, 6],
    attrs: { output_height: int(2), output_width: int(2) },
    more: (g) => [g.constant(floats([0.3, 0.6, 4.2, 5.1], [1, 4]), "rois"), g.constant(int64s([0]), "batch")],
    rules: ["roi-align-mode"],
  },
  {
    name: "Scatter",
    op: "Scatter",
    from: 9,
    shape: [3, 3],
    more: (g) => [g.constant(int64s([1, 0, 2], [1, 3]), "at"), weight(g, "w", 1, 3)],
    rules: ["scatter-elements"],
  },
  {
    name: "GroupNormalization",
    op: "GroupNormalization",
    from: 18,
    shape: [2, 6, 4],
    attrs: { num_groups: int(3) },
    more: (g) => [weight(g, "scale", 3), weight(g, "bias", 3)],
    rules: ["group-norm-channels"],
  },
];

function modelOf(c: Case): Model {
  const m = newModel(c.from, 8);
  const x = m.graph.addInput("x", { kind: "tensor", elem: c.elem ?? "float32", shape: c.shape });
  const outputs = Array.from({ length: c.outputs ?? 1 }, (_, i) => `y${i}`);
  const n = m.graph.append({ op: c.op, inputs: [x, ...(c.more?.(m.graph) ?? [])], outputs, attrs: c.attrs ?? {}, name: "n" });
  for (const o of n.outputs) m.graph.addOutput(o!);
  return m;
}

const feedsOf = (c: Case): Feeds => {
  const dims = c.sample ?? (c.shape as number[]);
  const next = numbers(3);
  return { x: { dtype: "float32", dims, data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, next) } };
};

async function run(m: Model, feeds: Feeds): Promise<Record<string, Tensor>> {
  const session = await runtime.open(writeModel(m));
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

describe("each rule keeps the outputs, bit for bit", () => {
  test.each(CASES.map((c) => [c.name, c] as const))("%s", async (_, c) => {
    const before = modelOf(c);
    const after = cloneModel(before);
    const { changes, refused } = convertOpset(after, 21);
    expect(refused).toEqual([]);
    expect(changes.map((x) => x.rule)).toEqual(c.rules);
    expect(after.opsets.get("")).toBe(21);
    expect(checkModel(after)).toEqual([]);
    const feeds = feedsOf(c);
    const [a, b] = [await run(before, feeds), await run(after, feeds)];
    expect(Object.keys(b)).toEqual(Object.keys(a));
    for (const k of Object.keys(a)) expect(b[k], k).toEqual(a[k]);
  });

  test("BatchNormalization with statistics of each element equals its formula", async () => {
    // onnxruntime has no kernel for spatial = 0 any more.
    const c: Case = {
      name: "",
      op: "BatchNormalization",
      from: 7,
      shape: [2, 2, 3],
      attrs: { spatial: int(0), epsilon: f(0.5) },
      more: (g) => ["a", "bb", "ccc", "dddd"].map((n) => weight(g, n, 2, 3)),
      rules: [],
    };
    const m = modelOf(c);
    const [, scale, bias, mean, variance] = m.graph.nodes[0]!.inputs.map((v) => v?.data && new Float32Array(v.data.bytes().slice().buffer));
    expect(convertOpset(m, 21).changes).toEqual([{ rule: "batch-norm-spatial", count: 1 }]);
    const feeds = feedsOf(c);
    const y = (await run(m, feeds))["y0"]!.data as Float32Array;
    const x = feeds["x"]!.data as Float32Array;
    x.forEach((v, i) => {
      const k = i % 6;
      // float32 arithmetic in five steps: a few units in the last place.
      expect(y[i]).toBeCloseTo(((v - mean![k]!) / Math.sqrt(variance![k]! + 0.5)) * scale![k]! + bias![k]!, 5);
    });
  });

  test("bounds of a float16 Clip are float16, rounded to even", () => {
    const m = modelOf({
      name: "",
      op: "Clip",
      from: 7,
      shape: [4],
      elem: "float16",
      attrs: { min: f(-1.0009765625), max: f(65504) },
      rules: [],
    });
    expect(convertOpset(m, 21).refused).toEqual([]);
    const [, lo, hi] = m.graph.nodes[0]!.inputs.map(
      (v) => v?.data && [v.data.dtype, Buffer.from(v.data.bytes()).readUInt16LE().toString(16)],
    );
    expect(lo).toEqual(["float16", "bc01"]);
    expect(hi).toEqual(["float16", "7bff"]);
  });
});

test("a mask of Dropout that is used stays of the data's type; its content is open in inference", async () => {
  const c: Case = { name: "", op: "Dropout", from: 9, shape: [4], outputs: 2, rules: [] };
  const m = modelOf(c);
  expect(convertOpset(m, 21)).toEqual({ changes: [{ rule: "dropout-mask", count: 1 }], refused: [] });
  const out = await run(m, feedsOf(c));
  expect(out["y0"]!.data).toEqual(feedsOf(c)["x"]!.data);
  expect(out["y1"]!.dtype).toBe("float32");
});

describe("what cannot be said is refused, and the model stays as it was", () => {
  const refusals: readonly [string, () => Model, RegExp][] = [
    ["Scan 8", () => modelOf({ name: "", op: "Scan", from: 8, shape: [1], rules: [] }), /batch dimension/],
    [
      "an operator that ONNX dropped",
      () => modelOf({ name: "", op: "ImageScaler", from: 7, shape: [1], rules: [] }),
      /no operator of ai.onnx/,
    ],
    [
      "tf_half_pixel_for_nn",
      () =>
        modelOf({
          name: "",
          op: "Resize",
          from: 11,
          shape: [1, 1, 2, 2],
          attrs: { coordinate_transformation_mode: s("tf_half_pixel_for_nn") },
          rules: [],
        }),
      /removed from ONNX/,
    ],
    [
      "a Clip of unknown type",
      () => {
        const m = newModel(9);
        const x = m.graph.addInput("x");
        m.graph.addOutput(m.graph.append({ op: "Clip", inputs: [x], attrs: { min: f(0) } }).outputs[0]!);
        return m;
      },
      /element type of its input is not known/,
    ],
    [
      "statistics of a training BatchNormalization",
      () =>
        modelOf({
          name: "",
          op: "BatchNormalization",
          from: 9,
          shape: [2, 3],
          more: (g) => ["a", "bb", "ccc", "dddd"].map((n) => weight(g, n, 3)),
          outputs: 3,
          rules: [],
        }),
      /training mode/,
    ],
    [
      "Resize 10 larger and smaller at once",
      () =>
        modelOf({
          name: "",
          op: "Resize",
          from: 10,
          shape: [1, 1, 4, 4],
          more: (g) => [g.constant(floats([1, 1, 0.5, 2]), "scales")],
          rules: [],
        }),
      /enlarges one side and shrinks another/,
    ],
    [
      "Resize 10 by a scale that is computed",
      () => modelOf({ name: "", op: "Resize", from: 10, shape: [1, 1, 4, 4], more: (g) => [g.addInput("scales")], rules: [] }),
      /its scales are no constants/,
    ],
    ["an old model", () => newModel(6), /older than 7/],
    ["a newer model", () => newModel(23), /no way down/],
  ];
  test.each(refusals)("%s", (_, make, why) => {
    const m = make();
    const { graph } = m;
    const before = writeModel(m);
    const { changes, refused } = convertOpset(m, 21);
    expect(refused).toHaveLength(1);
    expect(refused[0]!.why).toMatch(why);
    expect(changes).toEqual([]);
    expect(m.graph).toBe(graph);
    expect(Buffer.compare(writeModel(m), before)).toBe(0);
  });

  test("a target that is not known", () => expect(convertOpset(newModel(13), 99).refused[0]!.why).toContain("outside 7 to 26"));
});

test("subgraphs and functions are converted too", async () => {
  const m = newModel(11, 8);
  const g = m.graph;
  const x = g.addInput("x", { kind: "tensor", elem: "float32", shape: [1, 3] });
  const cond = g.addInput("c", { kind: "tensor", elem: "bool", shape: [] });
  const branch = (op: string) => {
    const b = new Graph(op, g);
    b.addOutput(b.append({ op, inputs: [x], attrs: { axes: ints(0) }, outputs: [`${op}_out`] }).outputs[0]!);
    return b;
  };
  const y = g.append({
    op: "If",
    inputs: [cond],
    outputs: ["y"],
    attrs: { then_branch: { kind: "graph", value: branch("ReduceMean") }, else_branch: { kind: "graph", value: branch("ReduceMax") } },
  });
  g.addOutput(y.outputs[0]!);
  const body = new Graph("Own");
  const bx = body.addInput("bx");
  body.addOutput(body.append({ op: "Unsqueeze", inputs: [bx], attrs: { axes: ints(0) }, outputs: ["by"] }).outputs[0]!);
  m.functions.push({
    name: "Own",
    domain: "local",
    overload: "",
    body,
    attributes: [],
    attributeDefaults: new Map(),
    opsets: new Map([["", 11]]),
    metadata: [],
    unknown: [],
  });
  m.opsets.set("local", 1);
  g.addOutput(g.append({ op: "Own", domain: "local", inputs: [x], outputs: ["z"] }).outputs[0]!);
  const after = cloneModel(m);
  expect(convertOpset(after, 21)).toEqual({ changes: [{ rule: "axes-to-input", count: 3 }], refused: [] });
  // A function has no initializers: its constants are nodes.
  expect(after.functions[0]!.body.nodes.map((n) => n.op)).toEqual(["Constant", "Unsqueeze"]);
  expect(after.functions[0]!.opsets.get("")).toBe(21);
  expect(checkModel(after)).toEqual([]);
  for (const c of [0, 1]) {
    const feeds: Feeds = {
      x: { dtype: "float32", dims: [1, 3], data: Float32Array.of(1, 2, 4) },
      c: { dtype: "bool", dims: [], data: Uint8Array.of(c) },
    };
    expect(await run(after, feeds)).toEqual(await run(m, feeds));
  }
});

test("an attribute that a function takes from its caller cannot become an input", () => {
  const m = newModel(11);
  const body = new Graph("Own");
  const n = body.append({ op: "Unsqueeze", inputs: [body.addInput("bx")], attrs: { axes: { kind: "ref", value: "axes", of: 7 } } });
  body.addOutput(n.outputs[0]!);
  m.functions.push({
    name: "Own",
    domain: "local",
    overload: "",
    body,
    attributes: ["axes"],
    attributeDefaults: new Map(),
    opsets: new Map([["", 11]]),
    metadata: [],
    unknown: [],
  });
  expect(convertOpset(m, 21).refused[0]!.why).toContain('attribute "axes" is a parameter of the function');
});

test("the conversion in steps equals the conversion at once", () => {
  for (const c of CASES) {
    const [once, steps] = [modelOf(c), modelOf(c)];
    convertOpset(once, 21);
    for (let v = c.from; v <= 21; v++) convertOpset(steps, v);
    expect(Buffer.compare(writeModel(steps), writeModel(once)), c.name).toBe(0);
  }
});

test("rows are of operators that ONNX has or had", () => {
  const known = new Set<string>([...ONNX_OPS, "Upsample", "Scatter"]);
  expect(Object.keys(STEPS).filter((op) => !known.has(op))).toEqual([]);
});
