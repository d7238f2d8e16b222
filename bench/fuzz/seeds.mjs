// Writes the files that are mutated: some of every kind that qc reads, made by qc itself, small enough for thousands of mutants a minute.
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import sharp from "sharp";
import { encodeTable } from "../../dist/calibrate/tables.js";
import { Graph, newModel } from "../../dist/graph/ir.js";
import { saveModel, writeModel, writeTensorProto } from "../../dist/graph/onnx/index.js";
import { floats, int64s } from "../../dist/graph/tensor.js";
import { writeNpy } from "../../dist/io/npy.js";
import { writeNpz } from "../../dist/io/npz.js";
import { generator } from "./mutate.mjs";

const CLI = resolve(import.meta.dirname, "../../dist/cli/main.js");
const f32 = (shape) => ({ kind: "tensor", elem: "float32", shape });

function network(seed) {
  const r = generator(seed);
  const weight = (...shape) =>
    floats(
      Array.from({ length: shape.reduce((a, b) => a * b) }, () => r() - 0.5),
      shape,
    );
  const m = newModel(17, 8);
  const g = m.graph;
  let x = g.addInput("x", f32(["N", 3, 8, 8]));
  let steps = 0;
  const step = (op, inputs, attrs = {}) => g.append({ op, inputs, attrs, name: `${op}${steps++}` }).outputs[0];
  for (const [i, [a, b]] of [
    [3, 8],
    [8, 8],
  ].entries()) {
    x = step("Conv", [x, g.constant(weight(b, a, 3, 3), `w${i}`), g.constant(weight(b), `b${i}`)], {
      pads: [1, 1, 1, 1],
      kernel_shape: [3, 3],
    });
    x = step("Relu", [x]);
  }
  x = step("Flatten", [step("GlobalAveragePool", [x])]);
  g.addOutput(g.append({ op: "Gemm", inputs: [x, g.constant(weight(8, 4), "fc")], outputs: ["y"], name: "fc" }).outputs[0]);
  g.outputs[0].type = f32(["N", 4]);
  return m;
}

/** Subgraphs, functions, sparse and string tensors, every width of element, sequences, metadata. */
function everything() {
  const m = newModel(21, 13);
  const g = m.graph;
  const x = g.addInput("x", f32([2, 3]));
  g.addInput("s", { kind: "sequence", elem: { kind: "optional", elem: f32(undefined) } });
  const c = g.addInput("c", { kind: "tensor", elem: "bool", shape: [] });
  for (const [dtype, bytes] of [
    ["int4", 2],
    ["uint2", 1],
    ["float16", 6],
    ["float64", 24],
    ["bool", 3],
    ["float8e4m3fn", 3],
    ["int64", 24],
  ])
    g.constant({ dtype, shape: [3], byteLength: bytes, bytes: () => new Uint8Array(bytes).fill(1) }, `k_${dtype}`);
  g.constant(
    { dtype: "string", shape: [2], byteLength: 0, bytes: () => undefined, strings: () => [Uint8Array.of(97), Uint8Array.of(98, 99)] },
    "words",
  );
  const s = g.constant(floats(new Float32Array(6), [2, 3]), "sparse");
  s.sparse = { values: floats([5]), indices: int64s([4]), shape: [2, 3] };
  const branch = (op) => {
    const b = new Graph(op, g);
    const inner = new Graph("inner", b);
    inner.addOutput(inner.append({ op, inputs: [x], outputs: [`${op}_i`] }).outputs[0]);
    const n = b.append({
      op: "If",
      inputs: [c],
      outputs: [`${op}_o`],
      attrs: { then_branch: { kind: "graph", value: inner }, else_branch: { kind: "graph", value: inner } },
    });
    b.addOutput(n.outputs[0]);
    return b;
  };
  const y = g.append({
    op: "If",
    inputs: [c],
    outputs: ["y"],
    attrs: { then_branch: { kind: "graph", value: branch("Abs") }, else_branch: { kind: "graph", value: branch("Neg") } },
  });
  y.metadata.push(["key", "value"]);
  g.addOutput(y.outputs[0]);
  const body = new Graph("F");
  body.addOutput(
    body.append({ op: "Relu", inputs: [body.addInput("a")], attrs: { alpha: { kind: "ref", value: "alpha", of: 1 } }, outputs: ["b"] })
      .outputs[0],
  );
  m.functions.push({
    name: "F",
    domain: "local",
    overload: "",
    body,
    attributes: ["alpha"],
    attributeDefaults: new Map(),
    opsets: new Map([["", 21]]),
    metadata: [],
    unknown: [],
  });
  m.opsets.set("local", 1);
  g.addOutput(g.append({ op: "F", domain: "local", inputs: [x], outputs: ["z"] }).outputs[0]);
  m.metadata.push(["a", "b"]);
  m.unknown = [Uint8Array.of(0xa2, 0x01, 0x02, 0x0a, 0x00)];
  return m;
}

export async function makeSeeds(folder) {
  mkdirSync(folder, { recursive: true });
  const at = (name) => join(folder, name);
  const write = (name, bytes) => writeFileSync(at(name), bytes);
  write("net.onnx", writeModel(network(1)));
  write("net2.onnx", writeModel(network(2)));
  write("all.onnx", writeModel(everything()));
  mkdirSync(at("external"), { recursive: true });
  saveModel(network(3), at("external/ext.onnx"), { externalData: "always" });
  write("t.pb", writeTensorProto(floats([1, 2, 3], [3]), "t"));
  write("t64.pb", writeTensorProto(int64s([1, -2]), "t"));
  const r = generator(4);
  const data = (dtype, make, shape) => ({ dtype, shape, data: make.from({ length: shape.reduce((a, b) => a * b, 1) }, () => r() * 100) });
  write("a.npy", writeNpy(data("float32", Float32Array, [3, 4])));
  write("b.npy", writeNpy(data("uint8", Uint8Array, [2, 2, 2])));
  const samples = data("float32", Float32Array, [12, 3, 8, 8]);
  const concat = (parts) => Buffer.concat(parts.map((p) => Buffer.from(p)));
  const npz = (deflate) =>
    concat([
      ...writeNpz(
        [
          ["x", samples],
          ["labels", data("int32", Int32Array, [12])],
        ],
        { deflate },
      ),
    ]);
  write("stored.npz", npz(false));
  write("deflated.npz", npz(true));
  const inputs = "inputs:\n  x:\n    from: x\n    steps:\n      - multiply: 0.5\n";
  write("set.yaml", `name: seed\nsource: stored.npz\n${inputs}labels: labels\nsplit: { calibrate: 4, select: 4, heldOut: 4, seed: 1 }\n`);
  write(
    "set2.yaml",
    "name: two\nsource: &s [stored.npz]\nclasses: &c [a, b]\ninputs: { x: { from: x, steps: [{ normalize: { mean: [0, 0, 0], std: [1, 1, 1] } }] } }\n",
  );
  await sampleFiles(at("data"));
  for (const format of ["tensorrt", "ort-json", "ort-cache", "ort-flatbuffers"])
    write(
      `calibration${{ tensorrt: ".cache", "ort-json": ".table.json", "ort-cache": ".txt", "ort-flatbuffers": ".flatbuffers" }[format]}`,
      encodeTable(
        new Map([
          ["x", { min: -1, max: 2 }],
          ["conv/out", { min: 0, max: 6 }],
        ]),
        format,
      ),
    );
  write("gate.yaml", "accuracy: { most: 3%, severity: P1 }\nsize: { most: 10% }\nlatency: { most: 5% }\n");
  write("qc.yaml", "models:\n  net: { file: net.onnx, data: stored.npz }\ntargets: [portable, tensorrt]\nrecipes: [w8a8, w4a8]\n");
  write("split.json", JSON.stringify({ calibrate: [0, 1, 2], heldOut: [3, 4, 5, 6] }));
  const qc = (...args) => execFileSync(process.execPath, [CLI, ...args], { stdio: ["ignore", "ignore", "inherit"] });
  qc("quantize", at("net.onnx"), "-d", at("stored.npz"), "--effort", "fast", "--calibrator", "minmax", "-o", at("q.onnx"), "-q");
  qc("calibrate", at("net.onnx"), "-d", at("stored.npz"), "-o", at("net.stats"), "-q");
}

/** One of each kind of sample file that is no array, and the set that reads it. */
async function sampleFiles(folder) {
  mkdirSync(folder, { recursive: true });
  const write = (name, content) => writeFileSync(join(folder, name), content);
  const rows = Array.from({ length: 6 }, (_, i) => ({ x: [i, i + 0.5, -i], text: `row ${i}`, label: i % 3 }));
  write("rows.jsonl", rows.map((r) => JSON.stringify(r)).join("\n"));
  write("rows.csv", `a,b,label\n${rows.map((r) => `${r.x[0]},"${r.text}",${r.label}`).join("\n")}\n`);
  write("wave.wav", wave(Int16Array.from({ length: 400 }, (_, i) => 8000 * Math.sin(i / 5))));
  write("text.txt", "one two three\ntwo three one one\nthree two\n");
  const vocabulary = Object.fromEntries(["<unk>", "one", "two", "three"].map((w, i) => [w, i]));
  write(
    "words.tokenizer.json",
    JSON.stringify({
      version: "1.0",
      added_tokens: [{ id: 0, content: "<unk>", special: true, single_word: false, lstrip: false, rstrip: false, normalized: false }],
      normalizer: { type: "Lowercase" },
      pre_tokenizer: { type: "Whitespace" },
      post_processor: null,
      decoder: null,
      model: { type: "WordLevel", vocab: vocabulary, unk_token: "<unk>" },
    }),
  );
  for (const kind of ["png", "jpeg", "webp", "tiff"])
    await sharp({ create: { width: 9, height: 7, channels: 3, background: "#123456" } }).toFile(join(folder, `picture.${kind}`));
}

/** A RIFF file of one channel of 16 bits at 8 kHz. */
function wave(samples) {
  const b = Buffer.alloc(44 + samples.byteLength);
  b.write("RIFF", 0);
  b.writeUInt32LE(b.length - 8, 4);
  b.write("WAVEfmt ", 8);
  b.writeUInt32LE(16, 16);
  b.writeUInt16LE(1, 20);
  b.writeUInt16LE(1, 22);
  b.writeUInt32LE(8000, 24);
  b.writeUInt32LE(16000, 28);
  b.writeUInt16LE(2, 32);
  b.writeUInt16LE(16, 34);
  b.write("data", 36);
  b.writeUInt32LE(samples.byteLength, 40);
  for (const [i, x] of samples.entries()) b.writeInt16LE(x, 44 + 2 * i);
  return b;
}
