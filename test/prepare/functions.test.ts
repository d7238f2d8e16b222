import { afterAll, beforeAll, expect, test } from "vitest";
import { type Attr, float } from "../../src/graph/attr.ts";
import { type FunctionDef, Graph } from "../../src/graph/ir.ts";
import { printModel } from "../../src/graph/print.ts";
import { floats } from "../../src/graph/tensor.ts";
import { inlineFunctions } from "../../src/prepare/rules/inline-functions.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Runtime } from "../../src/runtime/types.ts";
import { Builder, lawful, refusals } from "./build.ts";

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

function define(
  name: string,
  opset: number,
  fill: (g: Graph) => void,
  defaults: Record<string, Attr> = {},
  attributes: string[] = [],
): FunctionDef {
  const body = new Graph(name);
  fill(body);
  const opsets = new Map([
    ["", opset],
    ["local", 1],
  ]);
  return {
    name,
    domain: "local",
    overload: "",
    body,
    attributes,
    attributeDefaults: new Map(Object.entries(defaults)),
    opsets,
    metadata: [],
    unknown: [],
  };
}
const ref = (name: string, of: number): Attr => ({ kind: "ref", value: name, of });

test("calls become bodies: attributes, defaults, nested calls, subgraphs, inputs handed on", async () => {
  const b = new Builder();
  b.model.opsets.set("local", 1);
  const leaky = define(
    "Leaky",
    17,
    (g) => {
      const x = g.addInput("x");
      const y = g.append({ op: "LeakyRelu", inputs: [x], outputs: ["y"], attrs: { alpha: ref("slope", 1) } }).outputs[0]!;
      g.addOutput(y);
      g.addOutput(g.append({ op: "Identity", inputs: [x], outputs: ["same"] }).outputs[0]!);
    },
    { slope: float(0.25) },
  );
  const choose = define(
    "Choose",
    17,
    (g) => {
      const x = g.addInput("x");
      const c = g.addInput("c");
      const inner = g.append({ op: "Leaky", domain: "local", inputs: [x], outputs: ["a", "b"] }).outputs[0]!;
      const branch = (op: string) => {
        const s = new Graph(op, g);
        s.addOutput(
          s.append({ op, inputs: [inner], outputs: [`${op}_out`], attrs: op === "Elu" ? { alpha: ref("height", 1) } : {} }).outputs[0]!,
        );
        return { kind: "graph", value: s } as const;
      };
      g.addOutput(
        g.append({ op: "If", inputs: [c], outputs: ["z"], attrs: { then_branch: branch("Elu"), else_branch: branch("Neg") } }).outputs[0]!,
      );
    },
    {},
    ["height"],
  );
  b.model.functions.push(leaky, choose);
  const x = b.input("x", ["N", 3]);
  const cond = b.g.addInput("cond", { kind: "tensor", elem: "bool", shape: [] });
  const first = b.g.append({
    op: "Leaky",
    domain: "local",
    inputs: [x],
    outputs: ["first", "same"],
    attrs: { slope: float(0.5) },
    name: "one",
  });
  const second = b.g.append({
    op: "Choose",
    domain: "local",
    inputs: [first.outputs[0], cond],
    outputs: ["y"],
    attrs: { height: float(2) },
    name: "two",
  });
  b.g.addOutput(b.node("Add", [first.outputs[1], b.floats("c", [1, 2, 3])], {}, "sum"));
  b.output(second.outputs[0]!);
  const p = await lawful(runtime, b.model, 0);
  expect(printModel(p.model)).toMatchInlineSnapshot(`
    "opset 17, local 1, ir 8
    main(x: float32[N,3], cond: bool[]) -> (sum: ?, y: ?)
      one/y = LeakyRelu(x) alpha=0.5f  # inline-functions
      two/a/y = LeakyRelu(one/y) alpha=0.25f  # inline-functions
      y = If(cond)  # inline-functions
        else_branch:
          Neg() -> (Neg_out: ?)
            Neg_out = Neg(two/a/y)
        then_branch:
          Elu() -> (Elu_out: ?)
            Elu_out = Elu(two/a/y) alpha=2f
      sum = Add(x, c=float32[3] {1, 2, 3})"
  `);
  expect(p.applied).toContainEqual({ rule: "inline-functions", count: 3 });
});

test("a function of another opset stays", async () => {
  const b = new Builder(17);
  b.model.opsets.set("local", 1);
  b.model.functions.push(
    define("Twice", 18, (g) => {
      const x = g.addInput("x");
      g.addOutput(g.append({ op: "Add", inputs: [x, x], outputs: ["y"] }).outputs[0]!);
    }),
  );
  const x = b.input("x", ["N", 3]);
  const y = b.g.append({ op: "Twice", domain: "local", inputs: [x], outputs: ["y"], name: "call" }).outputs[0]!;
  const p = await lawful(runtime, b.output(y), 0);
  expect(refusals(p)).toEqual(["inline-functions at call: its function is of opset 18, the model of 17"]);
});

test("functions that call others twice stop growing at a limit", () => {
  const b = new Builder(17);
  b.model.opsets.set("local", 1);
  for (let i = 0; i < 40; i++) {
    b.model.functions.push(
      define(`F${i}`, 17, (g) => {
        let v = g.addInput("x");
        for (let k = 0; k < 2; k++) {
          v = g.append(i === 0 ? { op: "Neg", inputs: [v] } : { op: `F${i - 1}`, domain: "local", inputs: [v] }).outputs[0]!;
        }
        g.constant(floats([0]), "unused");
        g.addOutput(v);
      }),
    );
  }
  const y = b.g.append({ op: "F39", domain: "local", inputs: [b.input("x", ["N", 3])], outputs: ["y"], name: "call" }).outputs[0]!;
  const why: string[] = [];
  expect(inlineFunctions(b.output(y), (_, w) => why.push(w))).toBe(0);
  expect(why).toEqual(["the calls of this model would become more than 20000 nodes"]);
});
