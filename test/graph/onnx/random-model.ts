import type { Attr } from "../../../src/graph/attr.ts";
import { Graph, type Model, newModel, type Value } from "../../../src/graph/ir.ts";
import type { TensorData } from "../../../src/graph/tensor.ts";
import type { ValueType } from "../../../src/graph/types.ts";
import { byteCount, DTYPES, type DType } from "../../../src/quant/dtype.ts";

/** mulberry32. */
function generator(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const ALL = Object.keys(DTYPES) as DType[];
const utf8 = new TextEncoder();

/** A model with something of everything that the IR can say; the same for the same seed. */
export function randomModel(seed: number): Model {
  const r = generator(seed);
  const int = (n: number) => Math.floor(r() * n);
  const pick = <T>(xs: readonly T[]): T => xs[int(xs.length)]!;
  const maybe = (p = 0.3) => r() < p;
  const word = () => pick(["x", "weight", "é", "__proto__", "a/b.c", "名", "", "constructor", "very_long_name_".repeat(12)]) + int(1000);
  const bytes = (n: number) => Uint8Array.from({ length: n }, () => int(256));
  const many = <T>(n: number, f: () => T): T[] => Array.from({ length: int(n + 1) }, f);
  const entries = () => many(2, (): [string, string] => [word(), word()]);
  /** A well-formed field with a number that ONNX does not use. */
  const unknown = () => (maybe(0.15) ? [Uint8Array.of(0xfa, 0x3e, 2, int(256), int(256))] : []);

  const tensor = (named: boolean): TensorData => {
    const dtype = pick(ALL);
    const shape = many(3, () => int(4));
    const count = shape.reduce((a, b) => a * b, 1);
    const extras = {
      ...(named && maybe() && { name: word() }),
      ...(maybe(0.1) && { doc: word() }),
      ...(maybe(0.1) && { metadata: [[word(), word()] as const] }),
      ...(maybe(0.1) && { unknown: [Uint8Array.of(0xf8, 0x3e, 1)] }),
    };
    const rest = Object.keys(extras).length > 0 ? { extras } : {};
    if (dtype === "string") {
      const list = Array.from({ length: count }, () => bytes(int(5)));
      return {
        dtype,
        shape,
        byteLength: 0,
        bytes: () => {
          throw new Error("string");
        },
        strings: () => list,
        ...rest,
      };
    }
    const b = bytes(byteCount(dtype, count));
    return { dtype, shape, byteLength: b.length, bytes: () => b, ...rest };
  };

  const type = (depth: number): ValueType => {
    const denotation = maybe(0.2) ? { denotation: word() } : {};
    const kind = depth > 2 ? "tensor" : pick(["tensor", "tensor", "sparse", "sequence", "optional", "map"] as const);
    const elem = maybe(0.1) ? undefined : pick(ALL);
    if (kind === "tensor" || kind === "sparse") {
      const shape = maybe(0.2) ? undefined : many(3, () => pick([3, 0, 2 ** 40, "N", undefined]));
      const words =
        shape && shape.length > 0 && maybe(0.1) ? { dimDenotations: shape.map((_, i) => (i === 0 ? "DATA_BATCH" : undefined)) } : {};
      return { kind, elem, shape, ...denotation, ...words };
    }
    if (kind === "map") return { kind, key: pick(["int64", "string"] as const), elem: type(depth + 1), ...denotation };
    return { kind, elem: maybe(0.1) ? undefined : type(depth + 1), ...denotation };
  };

  const sparse = () => {
    const values = { dtype: "float32" as const, shape: [2], byteLength: 8, bytes: () => new Uint8Array(8) };
    const indices = { dtype: "int64" as const, shape: [2], byteLength: 16, bytes: () => new Uint8Array(16) };
    return { values, indices, shape: [3, 2] };
  };

  const attr = (depth: number, g: Graph): Attr => {
    const extras = { ...(maybe(0.1) && { doc: word() }), ...(maybe(0.1) && { unknown: [Uint8Array.of(0xf8, 0x3e, 7)] }) };
    const big = () => pick<number | bigint>([0, 1, -1, 2 ** 40, -(2 ** 52), 2n ** 62n, -(2n ** 63n)]);
    const options: (() => Attr)[] = [
      () => ({ kind: "int", value: big() }),
      () => ({ kind: "float", value: Math.fround(r() * 100 - 50) }),
      () => ({ kind: "string", value: maybe() ? bytes(int(2000)) : utf8.encode(word()) }),
      () => ({ kind: "tensor", value: tensor(true) }),
      () => ({ kind: "ints", value: many(4, big) }),
      () => ({ kind: "floats", value: many(4, () => Math.fround(r())) }),
      () => ({ kind: "strings", value: many(3, () => bytes(int(9))) }),
      () => ({ kind: "tensors", value: many(2, () => tensor(true)) }),
      () => ({ kind: "type", value: type(0) }),
      () => ({ kind: "types", value: many(2, () => type(0)) }),
      () => ({ kind: "sparse", value: sparse() }),
      () => ({ kind: "sparses", value: many(2, sparse) }),
      () => ({ kind: "ref", value: word(), of: 1 + int(14) }),
    ];
    if (depth < 3) {
      options.push(() => ({ kind: "graph", value: graph(depth + 1, g) }));
      options.push(() => ({ kind: "graphs", value: many(2, () => graph(depth + 1, g)) }));
    }
    return { ...pick(options)(), ...extras };
  };

  const describe = (v: Value) => {
    if (maybe(0.2)) v.doc = word();
    if (maybe(0.2)) v.metadata = entries();
    v.unknown = unknown();
  };

  const graph = (depth: number, parent?: Graph): Graph => {
    const g = new Graph(word(), parent);
    fill(g, depth);
    return g;
  };

  const fill = (g: Graph, depth: number): void => {
    if (maybe()) g.doc = word();
    g.metadata = entries();
    g.unknown = unknown();
    for (let i = int(3); i > 0; i--) {
      const v = g.addInput(g.freshName(word()), maybe(0.2) ? undefined : type(0));
      describe(v);
      if (maybe(0.2)) v.data = tensor(false);
    }
    for (let i = int(3); i > 0; i--) describe(g.constant(tensor(false), word()));
    const visible = () => {
      const all: Value[] = [];
      for (let p: Graph | undefined = g; p; p = p.parent) all.push(...p.values.values());
      return all;
    };
    for (let i = int(4); i > 0; i--) {
      const inputs = many(3, () => (maybe(0.2) ? undefined : pick(visible())));
      // Before the node: its subgraphs must not use its outputs.
      const attrs = many(3, (): [string, Attr] => [word(), attr(depth, g)]);
      const n = g.append({
        op: pick(["Relu", "Conv", "Custom", "__proto__"]),
        domain: pick(["", "", "com.example"]),
        name: maybe(0.7) ? word() : "",
        inputs,
        outputs: many(3, () => (maybe(0.2) ? "" : undefined)),
      });
      for (const [k, a] of attrs) n.attrs.set(k, a);
      if (maybe(0.2)) n.doc = word();
      if (maybe(0.2)) n.overload = word();
      n.metadata = entries();
      n.unknown = unknown();
      for (const o of n.outputs)
        if (o) {
          if (maybe()) o.type = type(0);
          describe(o);
        }
    }
    const own = [...g.values.values()].filter((v) => v.producer);
    for (const v of own) if (maybe()) g.addOutput(v);
  };

  const m = newModel(21 + int(6), 13);
  m.producerName = maybe() ? word() : "";
  m.domain = maybe() ? word() : "";
  m.modelVersion = pick<number | bigint>([0, 3, -1, 2n ** 60n]);
  if (maybe()) m.doc = word();
  if (maybe()) m.opsets.set("com.example", 1);
  m.metadata = entries();
  m.unknown = unknown();
  fill(m.graph, 0);
  for (let i = int(3); i > 0; i--) {
    const body = graph(2);
    for (const v of body.inputs) {
      v.data = undefined;
      v.sparse = undefined;
    }
    // A function body has no initializers and its inputs no types of their own unless value_info says so.
    for (const v of [...body.values.values()])
      if (v.isConstant) {
        for (const u of [...v.uses]) body.replaceUse(u.node, u.input, undefined);
        body.removeValue(v);
      }
    body.name = word();
    body.doc = undefined;
    body.metadata = [];
    body.unknown = [];
    m.functions.push({
      name: body.name,
      domain: "local",
      overload: maybe(0.2) ? word() : "",
      body,
      attributes: many(2, word),
      attributeDefaults: new Map(many(2, (): [string, Attr] => [word(), { kind: "int", value: int(9) }])),
      opsets: new Map([["", 21]]),
      ...(maybe() && { doc: word() }),
      metadata: entries(),
      unknown: unknown(),
    });
  }
  return m;
}
