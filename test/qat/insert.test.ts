import { afterAll, beforeAll, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { lower } from "../../src/export/lower/index.ts";
import { checkModel } from "../../src/graph/check.ts";
import { cloneModel } from "../../src/graph/clone.ts";
import type { Model } from "../../src/graph/ir.ts";
import { readModel, writeModel } from "../../src/graph/onnx/index.ts";
import { asFloat32, floats } from "../../src/graph/tensor.ts";
import { importQat, insertQat, parseQatList } from "../../src/qat/index.ts";
import { batchOf } from "../../src/qat/shapes.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Runtime } from "../../src/runtime/types.ts";
import { normals, planned, recipe, smallNet, smallSet, W4 } from "./net.ts";

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const data = smallSet();
async function outputs(model: Model) {
  const samples = await Promise.all(data.roles.select.map((i) => data.sample(i)));
  const session = await runtime.open(writeModel(model));
  const out = (await session.run(batchOf(samples)))["logits"]!.data;
  await session.release();
  return out;
}

/** What another trainer would do: reads the file, moves weights by up to two codes, scales by up to a fifth, biases a little. */
function train(file: Uint8Array, names: { readonly weights: string[]; readonly scales: string[]; readonly biases: string[] }): Uint8Array {
  const model = readModel(file);
  const normal = normals(77);
  const change = (name: string, f: (x: number) => number) => {
    const v = model.graph.values.get(name)!;
    v.graph.setData(v, floats(Float32Array.from(asFloat32(v.data!), f), v.data!.shape));
  };
  for (const n of names.weights) change(n, (w) => w + 0.05 * normal());
  for (const n of names.scales) change(n, (s) => s * Math.exp(0.1 * normal()));
  for (const n of names.biases) change(n, (b) => b + 0.01 * normal());
  return writeModel(model);
}

test.each([
  ["qdq", "int4 per channel", recipe(W4)],
  ["arithmetic", "int4 per channel", recipe(W4)],
  ["qdq", "int8 per tensor", recipe({ dtype: "int8", per: "tensor", symmetric: true })],
  ["arithmetic", "int8 per channel", recipe({ dtype: "int8", per: "channel", symmetric: true })],
  ["qdq", "blocks", recipe({ dtype: "uint4", per: "block", blockSize: 16, symmetric: false }, "none")],
  ["arithmetic", "blocks", recipe({ dtype: "uint4", per: "block", blockSize: 16, symmetric: false }, "none")],
] as const)("%s, %s: insert, train elsewhere, import: the plan computes what the trained graph computes", async (form, _, wish) => {
  const s = await planned(runtime, smallNet(), data, wish);
  const { model, list } = insertQat(s.model, s.bundle, form);
  expect(checkModel(model)).toEqual([]);
  expect([...new Set(model.graph.nodes.map((n) => n.domain))]).toEqual([""]);
  if (form === "arithmetic") expect(model.graph.nodes.some((n) => n.op === "QuantizeLinear")).toBe(false);
  // Before training: what the plan is lowered to.
  expect(await outputs(model)).toEqual(await outputs(lower(s.model, s.bundle, s.target)));
  // An import without training changes no code.
  expect(await outputs(lower(s.model, importQat(model, list, s.bundle), s.target))).toEqual(await outputs(model));

  const trained = readModel(
    train(writeModel(model), {
      weights: list.weights.map((w) => w.weight),
      scales: [...list.weights.map((w) => w.scale), ...list.activations.map((a) => a.scale)],
      biases: list.biases.map((b) => b.bias),
    }),
  );
  const after = await outputs(trained);
  expect(after).not.toEqual(await outputs(model));
  const back = importQat(trained, parseQatList(JSON.stringify(list), "list.json"), s.bundle);
  expect(await outputs(lower(s.model, back, s.target))).toEqual(after);
});

test("what cannot be taken back is named, all at once", async () => {
  const s = await planned(runtime, smallNet(), data, recipe(W4));
  const { model, list } = insertQat(s.model, s.bundle);
  const broken = cloneModel(model);
  const set = (name: string, value: number) => {
    const v = broken.graph.values.get(name)!;
    broken.graph.setData(
      v,
      floats(
        asFloat32(v.data!).map(() => value),
        v.data!.shape,
      ),
    );
  };
  set(list.weights[0]!.scale, -1);
  set(list.weights[1]!.weight, Number.NaN);
  broken.graph.rename(broken.graph.values.get(list.activations[0]!.scale)!, "other");
  const error = (() => {
    try {
      importQat(broken, list, s.bundle);
    } catch (e) {
      return e;
    }
  })();
  expect(error).toBeInstanceOf(QcError);
  expect((error as QcError).diagnostics).toEqual([
    {
      code: "qat/import-faults",
      faults: [
        { name: list.weights[0]!.scale, why: "is not above 0" },
        { name: list.weights[1]!.weight, why: "is not finite" },
        { name: list.activations[0]!.scale, why: "is missing" },
      ],
    },
  ]);
  const foreign = { ...list, model: { ...list.model, weights: "other" } };
  expect(() => importQat(model, foreign, s.bundle)).toThrow(/another model/);
  expect(() => parseQatList("{}", "x.json")).toThrow(/no list of qc qat insert/);
});
