import { expect, test } from "vitest";
import { QcError } from "../../../src/diagnostics.ts";
import { readModel, writeModel } from "../../../src/graph/onnx/index.ts";
import { asIntegers } from "../../../src/graph/tensor.ts";
import { unpackCodes } from "../../../src/quant/pack.ts";
import { plain } from "./helpers.ts";
import { type Field, initializer, input, message, modelOf, node, opset, output, varints } from "./wire-helpers.ts";

const dims = (...d: (number | bigint)[]): Field => [1, "bytes", varints(...d)];
const dtype = (code: number): Field => [2, "int", code];
const name = (s: string): Field => [8, "bytes", s];
const floatsOf = (...xs: number[]) => new Uint8Array(Float32Array.from(xs).buffer);

function constant(...fields: Field[]) {
  return readModel(modelOf(initializer(name("w"), ...fields))).graph.values.get("w")!.data!;
}
function failure(f: () => unknown): QcError {
  try {
    f();
  } catch (e) {
    expect(e).toBeInstanceOf(QcError);
    return e as QcError;
  }
  throw new Error("nothing was thrown");
}

test("raw_data is a view of the file, not a copy", () => {
  const file = modelOf(initializer(name("w"), dims(2), dtype(1), [9, "bytes", floatsOf(1, -2)]));
  const b = readModel(file).graph.values.get("w")!.data!.bytes();
  expect(b.buffer).toBe(file.buffer);
  expect([...new Float32Array(b.slice().buffer)]).toEqual([1, -2]);
});

test("elements in typed fields become the raw layout, packed or one by one", () => {
  const one = (field: number, code: number, n: number, xs: (number | bigint)[]) => {
    const packed = constant(dims(n), dtype(code), [field, "bytes", varints(...xs)]).bytes();
    const single = constant(dims(n), dtype(code), ...xs.map((x): Field => [field, "int", x])).bytes();
    const split = constant(
      dims(n),
      dtype(code),
      [field, "bytes", varints(...xs.slice(0, 1))],
      [field, "bytes", varints(...xs.slice(1))],
    ).bytes();
    expect([...single]).toEqual([...packed]);
    expect([...split]).toEqual([...packed]);
    return packed;
  };
  expect([...new Int8Array(one(5, 3, 3, [-128, 127, -1]))]).toEqual([-128, 127, -1]);
  expect([...one(5, 2, 2, [255, 0])]).toEqual([255, 0]);
  expect([...new Int16Array(one(5, 5, 2, [-32768, 5]).slice().buffer)]).toEqual([-32768, 5]);
  expect([...new Uint16Array(one(5, 10, 2, [0x3c00, 0xfbff]).slice().buffer)]).toEqual([0x3c00, 0xfbff]);
  expect([...new Int32Array(one(5, 6, 2, [-2147483648, 7]).slice().buffer)]).toEqual([-2147483648, 7]);
  expect([...new Uint32Array(one(11, 12, 2, [4294967295, 1]).slice().buffer)]).toEqual([4294967295, 1]);
  expect([...new BigInt64Array(one(7, 7, 2, [-(2n ** 63n), 2n ** 60n + 1n]).slice().buffer)]).toEqual([-(2n ** 63n), 2n ** 60n + 1n]);
  expect([...new BigUint64Array(one(11, 13, 2, [2n ** 64n - 1n, 3n]).slice().buffer)]).toEqual([2n ** 64n - 1n, 3n]);
  expect([...one(5, 9, 2, [1, 0])]).toEqual([1, 0]);
  expect([...one(5, 17, 2, [0x7e, 0x80])]).toEqual([0x7e, 0x80]);
});

test("4-bit and 2-bit elements in int32_data are bytes of two and four", () => {
  const int4 = constant(dims(3), dtype(22), [5, "bytes", varints(0x8f, 0x07)]);
  expect([...unpackCodes(int4.bytes(), "int4", 3)]).toEqual([-1, -8, 7]);
  const int2 = constant(dims(5), dtype(26), [5, "bytes", varints(0b10_01_11_00, 0b01)]);
  expect([...unpackCodes(int2.bytes(), "int2", 5)]).toEqual([0, -1, 1, -2, 1]);
});

test("floats packed, one by one and doubles", () => {
  expect([
    ...new Float32Array(
      constant(dims(2), dtype(1), [4, "bytes", floatsOf(0.5, -3)])
        .bytes()
        .slice().buffer,
    ),
  ]).toEqual([0.5, -3]);
  expect([...new Float32Array(constant(dims(2), dtype(1), [4, "float", 0.5], [4, "float", -3]).bytes().slice().buffer)]).toEqual([0.5, -3]);
  expect([...new Float64Array(constant(dims(1), dtype(11), [10, "double", 0.1]).bytes().slice().buffer)]).toEqual([0.1]);
  expect(constant(dims(1), dtype(14), [4, "bytes", floatsOf(1, 2)]).byteLength).toBe(8);
});

test("strings keep their bytes, valid UTF-8 or not", () => {
  const t = constant(dims(2), dtype(8), [6, "bytes", "é"], [6, "bytes", Uint8Array.of(0xff)]);
  expect(t.strings!().map((b) => [...b])).toEqual([[0xc3, 0xa9], [0xff]]);
});

test("nodes in any order are sorted; a cycle is an error that names them", () => {
  const m = readModel(modelOf(node("Relu", ["b"], ["c"]), node("Neg", ["a"], ["b"]), input("a"), output("c")));
  expect(m.graph.nodes.map((n) => n.op)).toEqual(["Neg", "Relu"]);
  const e = failure(() => readModel(modelOf(node("Relu", ["b"], ["c"]), node("Neg", ["c"], ["b"]), output("c"))));
  expect(e.diagnostics[0]).toMatchObject({ code: "graph/cycle", nodes: ["Relu", "Neg"] });
});

const branch = (attr: string, ...graph: Field[]): Field => [
  5,
  "bytes",
  [
    [1, "bytes", attr],
    [6, "bytes", graph],
    [20, "int", 5],
  ],
];

test("a subgraph uses the outer value itself, and the holder is ordered after its producer", () => {
  const then = branch("then_branch", node("Neg", ["x"], ["t"]), output("t"));
  const other = branch("else_branch", node("Abs", ["x"], ["e"]), output("e"));
  const m = readModel(modelOf(node("If", ["c"], ["y"], then, other), node("Relu", ["a"], ["x"]), input("a"), input("c"), output("y")));
  expect(m.graph.nodes.map((n) => n.op)).toEqual(["Relu", "If"]);
  const x = m.graph.values.get("x")!;
  expect(x.uses.map((u) => u.node.op)).toEqual(["Neg", "Abs"]);
  const [inner] = m.graph.nodes[1]!.subgraphs;
  expect(inner!.nodes[0]!.inputs[0]).toBe(x);
  expect(plain(readModel(writeModel(m)))).toEqual(plain(m));
});

test("a subgraph that returns an outer value gets an Identity", () => {
  const both = [branch("then_branch", output("a")), branch("else_branch", output("a"))];
  const m = readModel(modelOf(node("If", ["c"], ["y"], ...both), input("a"), input("c"), output("y")));
  for (const g of m.graph.nodes[0]!.subgraphs) expect(g.nodes.map((n) => n.op)).toEqual(["Identity"]);
  expect(m.graph.values.get("a")!.uses).toHaveLength(2);
});

test("omitted inputs and outputs are undefined, and written as empty names", () => {
  const m = readModel(modelOf(node("Clip", ["a", "", "hi"], ["y", ""]), input("a"), input("hi"), output("y")));
  const n = m.graph.nodes[0]!;
  expect(n.inputs.map((v) => v?.name)).toEqual(["a", undefined, "hi"]);
  expect(n.outputs.map((v) => v?.name)).toEqual(["y", undefined]);
  expect(plain(readModel(writeModel(m)))).toEqual(plain(m));
});

test("an initializer that is an input too is no constant", () => {
  const w = initializer(name("w"), dims(1), dtype(1), [9, "bytes", floatsOf(1)]);
  const m = readModel(modelOf(input("w"), w, initializer(name("k"), dims(0), dtype(1))));
  expect(m.graph.values.get("w")).toMatchObject({ isInput: true, isConstant: false });
  expect(m.graph.values.get("k")!.isConstant).toBe(true);
});

test("names such as __proto__ and constructor are names", () => {
  const names = ["__proto__", "constructor", "toString", "hasOwnProperty"];
  const m = readModel(
    modelOf(
      ...names.map(input),
      ...names.map((n) =>
        node(
          "Relu",
          [n],
          [`${n}.y`],
          [
            5,
            "bytes",
            [
              [1, "bytes", n],
              [3, "int", 1],
              [20, "int", 2],
            ],
          ],
        ),
      ),
      output("__proto__.y"),
    ),
  );
  expect(m.graph.inputs.map((v) => v.name)).toEqual(names);
  expect([...m.graph.nodes[0]!.attrs.keys()]).toEqual(["__proto__"]);
  expect(plain(readModel(writeModel(m)))).toEqual(plain(m));
  expect(({} as { y?: unknown }).y).toBeUndefined();
});

test("unknown fields, annotations, training info and device configurations survive", () => {
  const strange: Field[] = [
    [99, "int", 5],
    [1000, "bytes", "abc"],
  ];
  const graph: Field[] = [
    node(
      "Relu",
      ["a"],
      ["y"],
      ...strange,
      [
        10,
        "bytes",
        [
          [1, "bytes", "cfg"],
          [3, "int", 2],
        ],
      ],
      [5, "bytes", [[1, "bytes", "k"], [3, "int", 1], [20, "int", 2], ...strange]],
    ),
    [11, "bytes", [[1, "bytes", "a"], ...strange]],
    output("y"),
    initializer(name("w"), dims(0), dtype(1), ...strange),
    [14, "bytes", [[1, "bytes", "a"]]],
    ...strange,
  ];
  const training: Field = [20, "bytes", [[1, "bytes", [[2, "bytes", "init"]]]]];
  const file = message([[1, "int", 13], [7, "bytes", graph], opset(26), training, [26, "bytes", [[1, "bytes", "gpu"]]], ...strange]);
  const m = readModel(file);
  expect(m.unknown).toHaveLength(4);
  expect(m.graph.unknown).toHaveLength(3);
  expect(m.graph.nodes[0]!.unknown).toHaveLength(3);
  const again = readModel(writeModel(m));
  expect(plain(again)).toEqual(plain(m));
});

test("integers beyond 2^53 are bigints, exactly", () => {
  const attr = (i: number, v: bigint): Field => [
    5,
    "bytes",
    [
      [1, "bytes", `i${i}`],
      [3, "int", v],
      [20, "int", 2],
    ],
  ];
  const values = [2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n - 1n, 2n ** 53n, -(2n ** 53n) + 1n, -1n, 0n, 2n ** 49n, 2n ** 48n + 3n];
  const m = readModel(modelOf(node("X", [], ["y"], ...values.map((v, i) => attr(i, v))), output("y")));
  const got = [...m.graph.nodes[0]!.attrs.values()].map((a) => (a.kind === "int" ? a.value : undefined));
  expect(got.map((x) => BigInt(x!))).toEqual(values);
  expect(got.map((x) => typeof x)).toEqual(["bigint", "bigint", "number", "bigint", "number", "number", "number", "number", "number"]);
  expect(plain(readModel(writeModel(m)))).toEqual(plain(m));
});

test("a sparse initializer is dense when asked, and written back sparse", () => {
  const sparse = (rank2: boolean): Field => [
    15,
    "bytes",
    [
      [1, "bytes", [dims(2), dtype(1), name("s"), [9, "bytes", floatsOf(5, 7)]]],
      [2, "bytes", rank2 ? [dims(2, 2), dtype(7), [7, "bytes", varints(0, 1, 1, 2)]] : [dims(2), dtype(7), [7, "bytes", varints(1, 5)]]],
      [3, "bytes", varints(2, 3)],
    ],
  ];
  for (const form of [true, false]) {
    const m = readModel(modelOf(sparse(form)));
    const v = m.graph.values.get("s")!;
    expect([...new Float32Array(v.data!.bytes().slice().buffer)]).toEqual([0, 5, 0, 0, 0, 7]);
    const again = readModel(writeModel(m)).graph.values.get("s")!;
    expect(asIntegers(again.sparse!.indices)).toEqual(asIntegers(v.sparse!.indices));
  }
});

test("a type that ONNX does not have here is kept as bytes in a value and refused in a tensor", () => {
  const future: Field = [
    11,
    "bytes",
    [
      [1, "bytes", "a"],
      [2, "bytes", [[1, "bytes", [[1, "int", 77]]]]],
    ],
  ];
  const m = readModel(modelOf(future, node("Relu", ["a"], ["y"]), output("y")));
  expect(m.graph.inputs[0]!.type!.kind).toBe("opaque");
  expect(plain(readModel(writeModel(m)))).toEqual(plain(m));
  expect(failure(() => constant(dims(0), dtype(77))).diagnostics[0]).toMatchObject({
    code: "graph/unsupported-type",
    what: "Element type 77",
  });
});
