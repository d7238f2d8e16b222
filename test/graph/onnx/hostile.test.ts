import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { QcError } from "../../../src/diagnostics.ts";
import { readModel, writeModel } from "../../../src/graph/onnx/index.ts";
import { randomModel } from "./random-model.ts";
import { type Field, initializer, input, message, modelOf, node, output, varints } from "./wire-helpers.ts";

const dims = (...d: (number | bigint)[]): Field => [1, "bytes", varints(...d)];

/** Reads and touches all that is lazy; a QcError is fine, anything else is a bug. */
function survives(bytes: Uint8Array): QcError | undefined {
  try {
    writeModel(readModel(bytes));
    return undefined;
  } catch (e) {
    if (!(e instanceof QcError)) throw e;
    return e;
  }
}

describe("each damage is named with its place", () => {
  const cases: readonly [string, Uint8Array, string | RegExp][] = [
    ["empty", new Uint8Array(0), /an empty file/],
    ["no graph", message([[1, "int", 8]]), /no graph/],
    [
      "two graphs",
      message([
        [7, "bytes", []],
        [7, "bytes", []],
      ]),
      /second graph/,
    ],
    ["text", new TextEncoder().encode("hello, this is no model at all"), /damaged/],
    ["length beyond the end", Uint8Array.of(0x3a, 0xff, 0x01), /a length of 255 bytes where 0 are left/],
    ["overlong length", Uint8Array.of(0x3a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01), /more than 5 bytes/],
    ["overlong number", Uint8Array.of(0x08, ...new Array(10).fill(0x80), 1), /more than 10 bytes/],
    ["field 0", Uint8Array.of(0x02, 0x00), /field number 0/],
    ["wire type 7", Uint8Array.of(0x0f), /wire type/],
    ["group without end", Uint8Array.of(0xa3, 0x06), /group without end/],
    ["shape past 2^53", modelOf(initializer(dims(2 ** 30, 2 ** 30), [2, "int", 1], [8, "bytes", "w"])), /tensor "w".*more than 2\^53/s],
    ["shape that would be NaN", modelOf(initializer(dims(...new Array(64).fill(2n ** 52n), 0), [2, "int", 1], [8, "bytes", "w"])), /rank/],
    ["negative dimension", modelOf(initializer(dims(-1), [2, "int", 1], [8, "bytes", "w"])), /dimension -1/],
    ["huge dimension", modelOf(initializer(dims(2n ** 62n), [2, "int", 1], [8, "bytes", "w"])), /dimension 4611686018427387904/],
    ["data too short", modelOf(initializer(dims(3), [2, "int", 1], [8, "bytes", "w"], [9, "bytes", "abcd"])), /has 4 bytes.*needs 12/],
    ["no data", modelOf(initializer(dims(3), [2, "int", 1], [8, "bytes", "w"])), /0 elements.*needs 3/],
    [
      "data in the wrong field",
      modelOf(initializer(dims(1), [2, "int", 1], [8, "bytes", "w"], [7, "bytes", varints(1)])),
      /elements of float32 in field 7/,
    ],
    [
      "unfinished varints",
      modelOf(initializer(dims(1), [2, "int", 7], [8, "bytes", "w"], [7, "bytes", Uint8Array.of(0x80)])),
      /end inside one/,
    ],
    ["unknown input", modelOf(node("Relu", ["nowhere"], ["y"]), output("y")), /"nowhere \(by node 0 \(Relu\)\)"/],
    ["unknown output", modelOf(output("nothing")), /"nothing \(by the graph's outputs\)"/],
    ["two producers", modelOf(node("Relu", ["a"], ["y"]), node("Abs", ["a"], ["y"]), input("a")), /makes values twice: "y"/],
    ["two inputs of one name", modelOf(input("a"), input("a")), /makes values twice: "a"/],
    ["node without operator", modelOf([1, "bytes", [[3, "bytes", "n"]]]), /node "n".*without operator/s],
    [
      "attribute twice",
      modelOf(
        node(
          "X",
          [],
          [],
          ...[0, 1].map(
            (): Field => [
              5,
              "bytes",
              [
                [1, "bytes", "k"],
                [3, "int", 1],
                [20, "int", 2],
              ],
            ],
          ),
        ),
      ),
      /attribute "k" twice/,
    ],
    [
      "attribute of type 99",
      modelOf(
        node(
          "X",
          [],
          [],
          [
            5,
            "bytes",
            [
              [1, "bytes", "k"],
              [20, "int", 99],
            ],
          ],
        ),
      ),
      /node 0 \(X\) > attribute "k".*attribute type 99/s,
    ],
    [
      "graph attribute without graph",
      modelOf(
        node(
          "If",
          [],
          [],
          [
            5,
            "bytes",
            [
              [1, "bytes", "g"],
              [20, "int", 5],
            ],
          ],
        ),
      ),
      /0 values in an attribute/,
    ],
    ["name that is no UTF-8", modelOf([11, "bytes", [[1, "bytes", Uint8Array.of(0xc3, 0x28)]]]), /not valid UTF-8/],
    [
      "external without folder is read only when asked",
      modelOf(
        initializer(
          dims(1),
          [2, "int", 1],
          [8, "bytes", "w"],
          [
            13,
            "bytes",
            [
              [1, "bytes", "location"],
              [2, "bytes", "x"],
            ],
          ],
          [14, "int", 1],
        ),
      ),
      /the model was given as bytes/,
    ],
    [
      "sparse index outside",
      modelOf([
        15,
        "bytes",
        [
          [1, "bytes", [dims(1), [2, "int", 1], [8, "bytes", "s"], [9, "bytes", "abcd"]]],
          [2, "bytes", [dims(2), [2, "int", 7], [7, "bytes", varints(9, 9)]]],
          [3, "int", 4],
        ],
      ]),
      /sparse tensor with values/,
    ],
  ];
  test.each(cases)("%s", (_, bytes, want) => {
    const e = survives(bytes);
    expect(e, "no error").toBeDefined();
    expect(e!.message).toMatch(want);
  });
});

test("other kinds of file are named", () => {
  const enc = new TextEncoder();
  const kinds: [Uint8Array, RegExp][] = [
    [enc.encode("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"), /Git LFS pointer.*\n.*git lfs pull/],
    [enc.encode("PK\u0003\u0004...."), /zip archive/],
    [Uint8Array.of(0x1f, 0x8b, 8, 0), /gzip/],
    [enc.encode("\n<!DOCTYPE html><html></html>"), /web page/],
    [enc.encode('{"a": 1}'), /JSON/],
    [enc.encode("....TFL3...."), /TensorFlow Lite/],
  ];
  for (const [bytes, want] of kinds) expect(survives(bytes)?.message).toMatch(want);
});

test("subgraphs, types and groups stop at their limits, not at the stack's", () => {
  const nested = (depth: number, wrap: (inner: Uint8Array) => Uint8Array, start: Uint8Array) => {
    let b = start;
    for (let i = 0; i < depth; i++) b = wrap(b);
    return b;
  };
  const graph = nested(
    300,
    (g) =>
      message([
        [
          1,
          "bytes",
          [
            [4, "bytes", "If"],
            [
              5,
              "bytes",
              [
                [1, "bytes", "b"],
                [6, "bytes", g],
                [20, "int", 5],
              ],
            ],
          ],
        ],
      ]),
    new Uint8Array(0),
  );
  expect(survives(message([[7, "bytes", graph]]))?.message).toContain('limit "graphDepth"');
  const type = nested(3000, (t) => message([[4, "bytes", [[1, "bytes", t]]]]), new Uint8Array(0));
  expect(
    survives(
      modelOf([
        11,
        "bytes",
        [
          [1, "bytes", "a"],
          [2, "bytes", type],
        ],
      ]),
    )?.message,
  ).toContain('limit "typeDepth"');
  const groups = new Uint8Array(2 * 100_000).map((_, i) => (i % 2 === 0 ? 0xa3 : 0x06));
  expect(survives(message([[7, "bytes", groups]]))?.message).toContain('limit "groupDepth"');
});

/** Two or three bytes of a file that would become an object each: a file of 4 MB must not become a gigabyte. */
test("small things in great numbers stop at their limits", () => {
  const many = (bytes: readonly number[], length = 3_600_000) => {
    const out = new Uint8Array(length - (length % bytes.length));
    for (let i = 0; i < out.length; i++) out[i] = bytes[i % bytes.length]!;
    return out;
  };
  const tag = (field: number) => [...varints(field * 8 + 2), 0];
  const graph = (bytes: Uint8Array) => message([[7, "bytes", bytes]]);
  const inNode = (bytes: Uint8Array) => graph(message([[1, "bytes", concat(message([[4, "bytes", "Abs"]]), bytes)]]));
  const attribute = (type: number, bytes: Uint8Array) =>
    inNode(
      message([
        [
          5,
          "bytes",
          concat(
            message([
              [1, "bytes", "a"],
              [20, "int", type],
            ]),
            bytes,
          ),
        ],
      ]),
    );
  const files: readonly [string, Uint8Array][] = [
    ["pieces", concat(graph(new Uint8Array(0)), many(tag(14)))],
    ["pieces", concat(graph(new Uint8Array(0)), many(tag(8)))],
    ["pieces", concat(graph(new Uint8Array(0)), many([15 * 8, 0]))],
    ["functions", concat(graph(new Uint8Array(0)), many(tag(25)))],
    ...[11, 12, 13, 14, 16].map((f): [string, Uint8Array] => ["pieces", graph(many(tag(f)))]),
    ["nodes", graph(many(tag(1)))],
    ["operands", inNode(many(tag(1), 4_200_000))],
    ["operands", inNode(many(tag(2), 4_200_000))],
    ["attributes", inNode(many(tag(5)))],
    ["pieces", inNode(many(tag(9)))],
    ["numbers", attribute(7, message([[8, "bytes", many([1], 9_000_000)]]))],
    ["strings", attribute(8, many(tag(9)))],
    ["subgraphs", attribute(10, many(tag(11)))],
    ["pieces", attribute(14, many(tag(15)))],
    ["pieces", graph(message([[5, "bytes", many(tag(13))]]))],
  ];
  for (const [limit, bytes] of files) expect(survives(bytes)?.message, limit).toContain(`limit "${limit}"`);
});

function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

test("a shape of 2^40 elements over no data costs nothing", () => {
  const before = process.memoryUsage().arrayBuffers;
  const claims: Field[] = [];
  for (let i = 0; i < 1000; i++) claims.push(initializer(dims(2 ** 40), [2, "int", 1], [8, "bytes", `w${i}`]));
  expect(survives(modelOf(...claims))).toBeDefined();
  const sparse: Field[] = [
    [1, "bytes", [dims(0), [2, "int", 1], [8, "bytes", "s"]]],
    [2, "bytes", [dims(0), [2, "int", 7]]],
    [3, "int", 2 ** 40],
  ];
  const m = readModel(modelOf([15, "bytes", sparse]));
  expect(() => m.graph.values.get("s")!.data!.bytes()).toThrow(/denseBytes/);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(20e6);
});

test("time is linear in the size, nodes listed backwards", () => {
  const secondsOf = (n: number) => {
    const nodes: Field[] = [input("v0"), output(`v${n}`)];
    for (let i = n; i > 0; i--) nodes.push(node("Relu", [`v${i - 1}`], [`v${i}`]));
    const file = message([[7, "bytes", nodes]]);
    const start = process.cpuUsage();
    expect(readModel(file).graph.nodes[0]!.inputs[0]!.name).toBe("v0");
    return process.cpuUsage(start).user / 1e6;
  };
  secondsOf(1000);
  const [small, large] = [secondsOf(10_000), secondsOf(80_000)];
  // 8 times the size; a quadratic reader takes 64 times as long. The rest is garbage collection and noise.
  expect(large / small).toBeLessThan(32);
});

test("truncation and flipped bits at any place give a model or a QcError", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 1 << 20 }),
      fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), { minLength: 1, maxLength: 8 }),
      fc.nat(),
      (seed, flips, cut) => {
        const bytes = writeModel(randomModel(seed)).slice();
        for (const [at, bits] of flips) bytes[at % bytes.length]! ^= bits;
        survives(bytes);
        survives(bytes.subarray(0, cut % bytes.length));
      },
    ),
    { seed: 5, numRuns: 1500 },
  );
});
