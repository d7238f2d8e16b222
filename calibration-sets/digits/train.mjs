// Trains the network of this folder from random weights with the project's own trainer (gradients as an ONNX graph that onnxruntime runs).
//
//   npm run build && node calibration-sets/digits/train.mjs [--steps 500] [--out calibration-sets/digits/model.onnx]
//
// Training draws digits from seeds other than the set's own; the printed accuracy is on the set itself, none of which was trained on.
// BatchNormalization is left in the file: folding it is the compiler's work.

import { fileURLToPath } from "node:url";
import { Random } from "../../dist/data/random.js";
import { newModel } from "../../dist/graph/ir.js";
import { saveModel, writeModel } from "../../dist/graph/onnx/index.js";
import { floats } from "../../dist/graph/tensor.js";
import { tensorType } from "../../dist/graph/types.js";
import { OPTIMIZERS, trainFloat } from "../../dist/qat/index.js";
import { createRuntime } from "../../dist/runtime/index.js";
import { COUNT, digit, SEED, SIZE } from "./digits.mjs";

const option = (name, otherwise) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : process.argv[at + 1];
};
const STEPS = Number(option("steps", "500"));
const BATCH = 64;
const TRAIN_SEED = 1;
const OUT = option("out", fileURLToPath(new URL("model.onnx", import.meta.url)));

/** Three blocks of convolution, normalization, Relu and pooling; a fully connected layer. About 24 000 parameters. */
function network(seed) {
  const model = newModel(13, 8);
  const g = model.graph;
  g.name = "digits";
  const random = new Random(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random.float())) * Math.cos(2 * Math.PI * random.float());
  const constant = (name, shape, value) =>
    g.constant(
      floats(
        Array.from({ length: shape.reduce((a, b) => a * b, 1) }, value),
        shape,
      ),
      name,
    );
  const op = (name, kind, inputs, attrs = {}) =>
    g.append({ op: kind, name, inputs, attrs, outputs: [name] }).outputs[0];
  let x = g.addInput("input", tensorType("float32", ["N", 1, SIZE, SIZE]));
  let channels = 1;
  for (const [i, width] of [16, 32, 64].entries()) {
    const block = `block${i + 1}`;
    // He initialization: variance 2 / fan-in.
    const deviation = Math.sqrt(2 / (channels * 9));
    x = op(`${block}/conv`, "Conv", [x, constant(`${block}.conv.weight`, [width, channels, 3, 3], () => normal() * deviation)], {
      kernel_shape: [3, 3],
      pads: [1, 1, 1, 1],
    });
    const norm = ["weight", "bias", "running_mean", "running_var"].map((name, k) =>
      constant(`${block}.norm.${name}`, [width], () => (k === 0 || k === 3 ? 1 : 0)),
    );
    x = op(`${block}/norm`, "BatchNormalization", [x, ...norm]);
    x = op(`${block}/relu`, "Relu", [x]);
    if (i < 2) x = op(`${block}/pool`, "MaxPool", [x], { kernel_shape: [2, 2], strides: [2, 2] });
    channels = width;
  }
  x = op("pool", "GlobalAveragePool", [x]);
  x = op("flatten", "Flatten", [x], { axis: 1 });
  const weight = constant("classifier.weight", [10, channels], () => normal() * Math.sqrt(1 / channels));
  const bias = constant("classifier.bias", [10], () => 0);
  const logits = g.append({ op: "Gemm", name: "classifier", inputs: [x, weight, bias], attrs: { transB: 1 }, outputs: ["logits"] });
  logits.outputs[0].type = tensorType("float32", ["N", 10]);
  g.addOutput(logits.outputs[0]);
  return model;
}

function batchOf(seed, first, count) {
  const data = new Float32Array(count * SIZE * SIZE);
  const labels = new BigInt64Array(count);
  for (let i = 0; i < count; i++) {
    const { pixels, label } = digit(seed, first + i);
    for (let k = 0; k < SIZE * SIZE; k++) data[i * SIZE * SIZE + k] = pixels[k] / 255;
    labels[i] = BigInt(label);
  }
  return {
    input: { dtype: "float32", dims: [count, 1, SIZE, SIZE], data },
    label: { dtype: "int64", dims: [count], data: labels },
  };
}

async function accuracy(runtime, model) {
  const session = await runtime.open(writeModel(model));
  let right = 0;
  for (let at = 0; at < COUNT; at += 100) {
    const { input, label } = batchOf(SEED, at, 100);
    const { logits } = await session.run({ input });
    for (let i = 0; i < 100; i++) {
      const row = logits.data.subarray(i * 10, i * 10 + 10);
      if (row.indexOf(Math.max(...row)) === Number(label.data[i])) right++;
    }
  }
  await session.release();
  return right / COUNT;
}

const runtime = createRuntime();
try {
  const { model } = await trainFloat({
    model: network(TRAIN_SEED),
    runtime,
    loss: { kind: "classes", output: "logits", labels: "label" },
    batch: async (step) => batchOf(TRAIN_SEED, step * BATCH, BATCH),
    steps: STEPS,
    optimizer: OPTIMIZERS.adamw,
    rate: 0.004,
    warmup: 20,
    progress: (p) => {
      const left = (p.seconds / p.step) * (p.steps - p.step);
      console.error(`step ${p.step}/${p.steps}  loss ${p.loss.toFixed(3)}  ${p.seconds.toFixed(0)} s, ${left.toFixed(0)} s left`);
    },
  });
  model.metadata = [["licence", "CC0-1.0"]];
  console.log(`top-1 ${(100 * (await accuracy(runtime, model))).toFixed(2)} % of ${COUNT}`);
  saveModel(model, OUT);
  console.log(`wrote ${OUT}`);
} finally {
  await runtime.close();
}
