import { expect, test } from "vitest";
import type { Diagnostic } from "../src/diagnostics.ts";
import { newModel } from "../src/graph/ir.ts";
import { recipeOf } from "../src/plan/recipes/index.ts";
import { targetOf } from "../src/plan/targets/index.ts";
import { recipeForGraph } from "../src/recurrent.ts";

const model = (op: string) => {
  const m = newModel();
  const x = m.graph.addInput("x");
  m.graph.append({ op, inputs: [x, x, x], outputs: ["y"], name: "layer" });
  return m;
};
const settled = (op: string, recipe: string, target: string, asked = "auto") => {
  const told: Diagnostic[] = [];
  const wish = { options: { recipe: asked }, target: targetOf(target), recipe: recipeOf(recipe) };
  return [recipeForGraph(wish, model(op), (d) => told.push(d)).recipe.name, told.map((d) => d.code)];
};

test("auto leaves the activations of a recurrent network in float, and says so", () => {
  expect(settled("LSTM", "int8", "portable")).toEqual(["int8-weights", ["plan/recurrent"]]);
  expect(settled("GRU", "int8", "ort-cpu")).toEqual(["int8-dynamic", ["plan/recurrent"]]);
});
test("auto gives each token a scale of its own where a normalization tells of tokens", () => {
  expect(settled("LayerNormalization", "int8-dynamic", "ort-cpu")).toEqual(["int8-tokens", []]);
  expect(settled("LayerNormalization", "int8-dynamic", "ort-cpu", "int8-dynamic")).toEqual(["int8-dynamic", []]);
  expect(settled("Gemm", "int8-dynamic", "ort-cpu")).toEqual(["int8-dynamic", []]);
  expect(settled("LayerNormalization", "int8", "ort-cpu")).toEqual(["int8", []]);
});
test("other networks, recipes by name and recipes without ranges are kept", () => {
  expect(settled("Conv", "int8", "portable")).toEqual(["int8", []]);
  expect(settled("LSTM", "int8", "portable", "int8")).toEqual(["int8", []]);
  expect(settled("LSTM", "int8-weights", "portable")).toEqual(["int8-weights", []]);
});
