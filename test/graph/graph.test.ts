import { describe, expect, test } from "vitest";
import { checkModel } from "../../src/graph/check.ts";
import { cloneModel } from "../../src/graph/clone.ts";
import { Graph, type Model, type Node, newModel, type Value } from "../../src/graph/ir.ts";
import { printModel } from "../../src/graph/print.ts";
import { sortGraph } from "../../src/graph/sort.ts";
import { floats } from "../../src/graph/tensor.ts";
import { type Dim, tensorType } from "../../src/graph/types.ts";
import { capturedBy, nodeAt, nodesByPath, pathOf, pathOfNode, valueAt, valuesByPath } from "../../src/graph/walk.ts";

const f32 = (...shape: Dim[]) => tensorType("float32", shape);

/** An If in an If; the inner branch uses the graph input, a constant of the main graph, and a value of the outer branch. */
function nested(): { model: Model; x: Value; deep: Value; outerIf: Node } {
  const model = newModel(17);
  const g = model.graph;
  const x = g.addInput("x", f32("N", 2));
  const cond = g.addInput("cond", tensorType("bool", []));
  const w = g.constant(floats([1, 2]), "w");
  const inner = (parent: Graph, name: string, from: Value) => {
    const s = new Graph(name, parent);
    s.addOutput(s.append({ op: "Add", inputs: [from, w], outputs: ["sum"], name: "add" }).outputs[0]!);
    return s;
  };
  const branch = (name: string) => {
    const s = new Graph(name, g);
    const half = s.append({ op: "Neg", inputs: [x], outputs: [`${name}_neg`], name: "neg" }).outputs[0]!;
    const attrs = {
      then_branch: { kind: "graph" as const, value: inner(s, "a", half) },
      else_branch: { kind: "graph" as const, value: inner(s, "b", x) },
    };
    s.addOutput(s.append({ op: "If", inputs: [cond], outputs: ["if_out"], name: "inner/if", attrs }).outputs[0]!);
    return s;
  };
  const then = branch("then");
  const y = g.append({
    op: "If",
    inputs: [cond],
    outputs: ["y"],
    name: "if",
    attrs: { then_branch: { kind: "graph", value: then }, else_branch: { kind: "graph", value: branch("else") } },
  });
  g.addOutput(y.outputs[0]!);
  const deep = then.nodes[1]!.subgraphs[0]!.values.get("sum")!;
  return { model, x, deep, outerIf: y };
}

describe("clone", () => {
  test("is equal, shares constants, and shares nothing else", () => {
    const { model } = nested();
    const before = printModel(model);
    const copy = cloneModel(model);
    expect(printModel(copy)).toBe(before);
    expect(checkModel(copy)).toEqual([]);
    const w = (m: Model) => m.graph.values.get("w")!;
    expect(w(copy)).not.toBe(w(model));
    expect(w(copy).data).toBe(w(model).data);
    // Captured values are those of the copy.
    expect(w(copy).uses.every((u) => !w(model).uses.includes(u))).toBe(true);
    copy.graph.rename(copy.graph.values.get("x")!, "renamed");
    copy.graph.insertBefore(copy.graph.nodes[0]!, { op: "Relu", inputs: [copy.graph.inputs[0]] });
    expect(printModel(model)).toBe(before);
    expect(checkModel(model)).toEqual([]);
  });
});

describe("print", () => {
  test("one line a node, subgraphs indented, constants in place", () => {
    expect(printModel(nested().model)).toMatchInlineSnapshot(`
      "opset 17, ir 10
      main(x: float32[N,2], cond: bool[]) -> (y: ?)
        y = If(cond)
          else_branch:
            else() -> (if_out: ?)
              else_neg = Neg(x)
              if_out = If(cond)
                else_branch:
                  b() -> (sum: ?)
                    sum = Add(x, w=float32[2] {1, 2})
                then_branch:
                  a() -> (sum: ?)
                    sum = Add(else_neg, w=float32[2] {1, 2})
          then_branch:
            then() -> (if_out: ?)
              then_neg = Neg(x)
              if_out = If(cond)
                else_branch:
                  b() -> (sum: ?)
                    sum = Add(x, w=float32[2] {1, 2})
                then_branch:
                  a() -> (sum: ?)
                    sum = Add(then_neg, w=float32[2] {1, 2})"
    `);
  });
});

describe("paths", () => {
  test("name every value and node, through subgraphs and slashes in names", () => {
    const { model, deep } = nested();
    expect(pathOf(deep)).toBe("if/then_branch/inner/if/then_branch/sum");
    expect(valueAt(model, pathOf(deep))).toBe(deep);
    expect(nodeAt(model, pathOfNode(deep.producer!))).toBe(deep.producer);
    for (const [path, v] of valuesByPath(model)) expect([pathOf(v), valueAt(model, path)]).toEqual([path, v]);
    for (const [path, n] of nodesByPath(model)) expect([pathOfNode(n), nodeAt(model, path)]).toEqual([path, n]);
    expect(valueAt(model, "if/then_branch/nothing")).toBeUndefined();
  });

  test("captured values are found at any depth, each once", () => {
    const { model, outerIf } = nested();
    expect(capturedBy(outerIf).map((v) => v.name)).toEqual(["x", "cond", "w"]);
    expect(capturedBy(model.graph.nodes[0]!)).toHaveLength(3);
  });
});

describe("sort", () => {
  test("moves only what must move, and counts captured values as inputs", () => {
    const { model } = nested();
    const g = model.graph;
    const relu = g.append({ op: "Relu", inputs: [g.inputs[0]], outputs: ["late"] });
    const free = g.append({ op: "Abs", inputs: [g.inputs[0]], outputs: ["free"] });
    const inner = g.nodes[0]!.subgraphs[0]!;
    g.replaceUse(inner.nodes[0]!, 0, relu.outputs[0]);
    expect(checkModel(model).map((d) => d.code === "graph/invalid" && d.constraint)).toEqual(["G2"]);
    sortGraph(g);
    expect(g.nodes.map((n) => n.op)).toEqual(["Relu", "If", "Abs"]);
    expect(g.nodes[2]).toBe(free);
    expect(checkModel(model)).toEqual([]);
  });

  test("a cycle is an error and changes nothing; a chain of 20 000 nodes is none", () => {
    const m = newModel();
    const g = m.graph;
    const x = g.addInput("x", f32(1));
    const a = g.append({ op: "Add", inputs: [x, x], outputs: ["a"], name: "first" });
    const b = g.append({ op: "Relu", inputs: [a.outputs[0]], outputs: ["b"], name: "second" });
    g.replaceUse(a, 1, b.outputs[0]);
    expect(() => sortGraph(g)).toThrow(/Invalid graph at "(first|second)".*needs its own output \(G2\)/);
    expect(g.nodes).toEqual([a, b]);
    const long = newModel().graph;
    let v = long.addInput("x", f32(1));
    for (let i = 0; i < 20000; i++) v = long.append({ op: "Relu", inputs: [v], outputs: [`v${i}`] }).outputs[0]!;
    long.nodes.reverse();
    sortGraph(long);
    expect([long.nodes[0]!.outputs[0]!.name, long.nodes[19999]!.outputs[0]!.name]).toEqual(["v0", "v19999"]);
  });
});

describe("check names the constraint that is broken", () => {
  const base = () => {
    const m = newModel();
    const g = m.graph;
    const x = g.addInput("x", f32(2));
    const w = g.constant(floats([1, 2]), "w");
    const a = g.append({ op: "Add", inputs: [x, w], outputs: ["a"], name: "add" });
    const r = g.append({ op: "Relu", inputs: [a.outputs[0]], outputs: ["y"], name: "relu" });
    g.addOutput(r.outputs[0]!);
    return { m, g, x, w, a, r };
  };
  const broken = (f: (b: ReturnType<typeof base>) => void): string[] => {
    const b = base();
    f(b);
    return [...new Set(checkModel(b.m).map((d) => (d.code === "graph/invalid" ? d.constraint : d.code)))];
  };
  test("nothing broken", () => expect(broken(() => {})).toEqual([]));
  test("G1 out of scope", () => {
    const foreign = newModel().graph.addInput("f", f32(2));
    const use = ({ r }: ReturnType<typeof base>) => {
      r.inputs[0] = foreign;
      foreign.uses.push({ node: r, input: 0 });
    };
    expect(broken(use)).toContain("G1");
  });
  test("G2 used before it is made", () => expect(broken(({ g }) => g.nodes.reverse())).toEqual(["G2"]));
  test("G3 made twice", () => expect(broken(({ a, r }) => void (r.outputs[0] = a.outputs[0]))).toContain("G3"));
  test("G4 a use that is not listed", () => expect(broken(({ x }) => void (x.uses.length = 0))).toContain("G4"));
  test("G5 filed under another name", () => expect(broken(({ w }) => void (w.name = "other"))).toContain("G5"));
  test("G6 made by nothing", () => expect(broken(({ w }) => void (w.data = undefined))).toEqual(["G6"]));
  test("G7 no opset for a domain", () => expect(broken(({ r }) => void (r.domain = "com.example"))).toEqual(["G7"]));
  test("G8 too few bytes", () => expect(broken(({ w }) => void (w.data = { ...w.data!, shape: [3] }))).toEqual(["G8"]));
  test("G9, G10 subgraphs", () => {
    const { model } = nested();
    const s = model.graph.nodes[0]!.subgraphs[0]!;
    s.value("w").data = floats([0]); // hides the outer w from the branch below
    expect(checkModel(model).map((d) => d.code === "graph/invalid" && d.constraint)).toContain("G10");
    s.parent = undefined;
    expect(checkModel(model).map((d) => d.code === "graph/invalid" && d.constraint)).toContain("G9");
  });
  test("G11 an output of another graph", () => {
    const { model, x } = nested();
    model.graph.nodes[0]!.subgraphs[0]!.addOutput(x);
    expect(checkModel(model).map((d) => d.code === "graph/invalid" && d.constraint)).toContain("G11");
  });
});
