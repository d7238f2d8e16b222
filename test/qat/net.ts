import { minmax } from "../../src/calibrate/calibrators.ts";
import { collectStats } from "../../src/calibrate/index.ts";
import { Random } from "../../src/data/random.ts";
import type { DataSet } from "../../src/data/types.ts";
import { type Model, newModel, type Value } from "../../src/graph/ir.ts";
import { floats } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import type { Recipe } from "../../src/plan/recipes/index.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import type { PlanBundle } from "../../src/plan/types.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { proposeSites } from "../../src/ptq/propose.ts";
import { planOf } from "../../src/ptq/ranges.ts";
import type { Runtime } from "../../src/runtime/types.ts";

export const normals = (seed: number) => {
  const r = new Random(seed);
  return () => Math.sqrt(-2 * Math.log(1 - r.float())) * Math.cos(2 * Math.PI * r.float());
};

/** Conv, Relu, Conv with a shortcut, Relu, pool, MatMul + bias: [N, 3, 8, 8] to logits [N, 5]. */
export function smallNet(): Model {
  const model = newModel(17, 8);
  const g = model.graph;
  const normal = normals(5);
  const weight = (name: string, shape: number[], fan: number) =>
    g.constant(
      floats(
        Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => normal() * Math.sqrt(2 / fan)),
        shape,
      ),
      name,
    );
  const op = (kind: string, name: string, inputs: Value[], attrs = {}) =>
    g.append({ op: kind, name, inputs, attrs, outputs: [name] }).outputs[0]!;
  const x = g.addInput("x", tensorType("float32", ["N", 3, 8, 8]));
  const pads = { pads: [1, 1, 1, 1], kernel_shape: [3, 3] };
  const a = op("Relu", "relu1", [op("Conv", "conv1", [x, weight("w1", [8, 3, 3, 3], 27), weight("b1", [8], 8)], pads)]);
  const c = op("Conv", "conv2", [a, weight("w2", [8, 8, 3, 3], 72), weight("b2", [8], 8)], pads);
  const s = op("Relu", "relu2", [op("Add", "sum", [c, a])]);
  const flat = op("Flatten", "flat", [op("AveragePool", "pool", [s], { kernel_shape: [4, 4], strides: [4, 4] })]);
  const y = op("Add", "logits", [op("MatMul", "product", [flat, weight("w3", [32, 5], 32)]), weight("b3", [5], 4)]);
  y.type = tensorType("float32", ["N", 5]);
  g.addOutput(y);
  return model;
}

/** Smooth random images: `calibrate` to learn from, `select` to judge. Labels 0…4 in turn unless given. */
export function smallSet(calibrate = 48, select = 16, label: (i: number) => number | string = (i) => i % 5): DataSet {
  const sample = (i: number) => {
    const normal = normals(1000 + i);
    const data = new Float32Array(192);
    for (let c = 0; c < 3; c++) {
      const [p, q, r] = [normal(), normal(), normal()];
      for (let y = 0; y < 8; y++)
        for (let k = 0; k < 8; k++) data[c * 64 + y * 8 + k] = p * Math.sin(y * 0.7 + q) + r * Math.cos(k * 0.9 - p) + 0.2 * normal();
    }
    return { id: `s${i}`, feeds: { x: { dtype: "float32" as const, dims: [1, 3, 8, 8], data } }, label: label(i) };
  };
  const range = (from: number, n: number) => Array.from({ length: n }, (_, i) => from + i);
  return {
    name: "small",
    size: calibrate + select,
    roles: { calibrate: range(0, calibrate), select: range(calibrate, select), heldOut: [] },
    sha256: "",
    metric: undefined,
    classes: undefined,
    sample: async (i) => sample(i),
  };
}

export const recipe = (weight: Recipe["weight"], activations: Recipe["activations"] = "static"): Recipe => ({
  name: "test",
  activations,
  activationBits: 8,
  floatType: "float32",
  data: true,
  summary: "",
  weight,
});
export const W4: Recipe["weight"] = { dtype: "int4", per: "channel", symmetric: true };

export async function planned(runtime: Runtime, model: Model, data: DataSet, wish: Recipe, target = "portable") {
  const first = await data.sample(0);
  const prepared = await prepareModel(model, runtime, { feeds: first.feeds });
  const proposal = proposeSites({ model: prepared.model, types: prepared.types, target: targetOf(target), recipe: wish });
  const stats =
    proposal.values.length === 0
      ? undefined
      : await collectStats({ model: prepared.model, values: proposal.values, data, indices: data.roles.calibrate, runtime });
  const bundle: PlanBundle = planOf(proposal, stats, stats ? minmax : undefined);
  return { model: prepared.model, bundle, target: targetOf(target) };
}
