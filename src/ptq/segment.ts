import type { Attr } from "../graph/attr.ts";
import { cloneGraph } from "../graph/clone.ts";
import { type Graph, type Model, type Node, newModel, type Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { floats, type TensorData, tensorFromBytes } from "../graph/tensor.ts";
import { tensorType } from "../graph/types.ts";
import { capturedBy, nodeKey } from "../graph/walk.ts";
import { tokenQuotient } from "../plan/tokens.ts";
import type { Site } from "../plan/types.ts";
import { DTYPES, isIntDType } from "../quant/dtype.ts";
import { packCodes } from "../quant/pack.ts";
import type { Codes, Segment, SegmentOutput, Stored, Stream, Streams, Want } from "./streams.ts";

/** The input that has the scale of a packed one. */
export const scaleKey = (key: string): string => `${key}|scale`;

/** Inputs of a node and values that its subgraphs capture. */
export function readBy(n: Node): Value[] {
  const own = n.inputs.filter((v): v is Value => v !== undefined);
  return n.subgraphs.length > 0 ? [...own, ...capturedBy(n)] : own;
}

/** Writes the part of both streams between what is given and what is wanted as a model. */
export class SegmentBuilder {
  readonly #streams: Streams;
  readonly #given: ReadonlyMap<string, Stored>;
  readonly #model: Model;
  readonly #graph: Graph;
  /** Key → value in the new graph. */
  readonly #made = new Map<string, Value>();
  readonly #inputs: string[] = [];

  constructor(streams: Streams, given: ReadonlyMap<string, Stored>) {
    this.#streams = streams;
    this.#given = given;
    this.#model = newModel(undefined, Math.max(8, streams.model.irVersion));
    this.#model.opsets = new Map(streams.model.opsets);
    this.#model.opsets.set("com.microsoft", 1);
    this.#model.functions = streams.model.functions;
    this.#graph = this.#model.graph;
  }

  finish(wants: readonly Want[], packed: ReadonlyMap<Want, "packed" | Codes>): Segment {
    const needed = new Map<string, { readonly stream: Stream; readonly node: Node }>();
    const stack = wants.map((w) => ({ stream: w.stream, value: w.value }));
    for (let w = stack.pop(); w; w = stack.pop()) {
      const { stream, value } = w;
      if (value.isConstant) continue;
      const key = this.#streams.key(stream, value);
      if (this.#given.has(key)) {
        this.#input(key);
        continue;
      }
      const node = value.producer;
      if (!node) throw new Error(`internal: nothing gives "${key}" to a segment`);
      const side: Stream = key.startsWith("q/") ? "quant" : "float";
      const id = `${side}#${this.#streams.positionOf(node)}`;
      if (needed.has(id)) continue;
      needed.set(id, { stream: side, node });
      for (const v of readBy(node)) stack.push({ stream: side, value: v });
    }
    const order = [...needed.values()].sort((a, b) => this.#streams.positionOf(a.node) - this.#streams.positionOf(b.node));
    for (const { stream, node } of order) this.#emit(stream, node);
    const outputs = wants.map((w): SegmentOutput => {
      const v = w.at && w.stream === "quant" ? this.#operand(w.value, w.at.node, w.at.input) : this.#value(w.stream, w.value);
      const how = packed.get(w);
      if (how === "packed") return this.#pack(v);
      if (how) {
        const q = this.#quantized(v, how);
        if (!this.#graph.outputs.includes(q)) this.#graph.addOutput(q);
        return { name: q.name };
      }
      if (v.isInput || v.isConstant || this.#graph.outputs.includes(v)) {
        const copy = this.#graph.append({ op: "Identity", inputs: [v] }).outputs[0]!;
        this.#graph.addOutput(copy);
        return { name: copy.name };
      }
      this.#graph.addOutput(v);
      return { name: v.name };
    });
    return { bytes: writeModel(this.#model), inputs: this.#inputs, outputs };
  }

  #input(key: string): void {
    if (this.#made.has(key)) return;
    const stored = this.#given.get(key)!;
    const coded = typeof stored === "object";
    const v = this.#graph.addInput(key, tensorType(stored === "packed" ? "float16" : coded ? stored.dtype : stored));
    this.#inputs.push(key);
    if (coded) {
      const wide = this.#affine("DequantizeLinear", v, stored);
      // Its readers quantize it as it was: they get it as it is.
      this.#made.set(`dq/${idOf(wide, stored)}`, wide);
      this.#made.set(key, wide);
      return;
    }
    if (stored !== "packed") {
      this.#made.set(key, v);
      return;
    }
    const scale = this.#graph.addInput(scaleKey(key), tensorType("float32", []));
    this.#inputs.push(scale.name);
    const wide = this.#graph.append({ op: "Cast", inputs: [v], attrs: { to: DTYPES.float32.code } }).outputs[0]!;
    this.#made.set(key, this.#graph.append({ op: "Mul", inputs: [wide, scale] }).outputs[0]!);
  }

  /** A value as float16 of value / max|value|: 11 bits of each element, whatever the value's size. */
  #pack(v: Value): SegmentOutput {
    const g = this.#graph;
    const one = (op: string, inputs: Value[], attrs: Record<string, number> = {}) => g.append({ op, inputs, attrs }).outputs[0]!;
    const least = this.#constant("f/least magnitude", floats([2 ** -100], []));
    // Two passes that write nothing, where Abs would write the whole tensor.
    const most = one("ReduceMax", [v], { keepdims: 0 });
    const scale = one("Max", [most, one("Neg", [one("ReduceMin", [v], { keepdims: 0 })]), least]);
    const half = one("Cast", [one("Div", [v, scale])], { to: DTYPES.float16.code });
    for (const out of [half, scale]) g.addOutput(out);
    return { name: half.name, scale: scale.name };
  }

  #quantized(x: Value, c: Codes): Value {
    return this.#once(`codes/${idOf(x, c)}`, () => this.#affine("QuantizeLinear", x, c));
  }

  /** Q or DQ with one scale; that of com.microsoft takes 16-bit codes at any opset. */
  #affine(op: "QuantizeLinear" | "DequantizeLinear", x: Value, c: Codes): Value {
    const s = this.#graph.constant(floats([c.scale], []), "scale");
    const z = this.#graph.constant(tensorFromBytes(c.dtype, [], packCodes([c.zero], c.dtype)), "zero");
    return this.#graph.append({ op, domain: "com.microsoft", inputs: [x, s, z] }).outputs[0]!;
  }

  #value(stream: Stream, v: Value): Value {
    if (v.isConstant) {
      const replaced = stream === "quant" ? this.#streams.replaced(v) : undefined;
      return this.#constant(`${replaced ? "q" : "f"}/${v.name}`, replaced ?? v.data!);
    }
    const made = this.#made.get(this.#streams.key(stream, v));
    if (!made) throw new Error(`internal: "${v.name}" is missing in a segment`);
    return made;
  }

  #constant(key: string, data: TensorData): Value {
    let v = this.#made.get(key);
    if (!v) {
      v = this.#graph.constant(data, key);
      this.#made.set(key, v);
    }
    return v;
  }

  #emit(stream: Stream, n: Node): void {
    const inputs = n.inputs.map((v, i) => v && (stream === "quant" ? this.#operand(v, n, i) : this.#value("float", v)));
    const attrs: Record<string, Attr> = {};
    const outer = new Map<Value, Value>();
    if (n.subgraphs.length > 0) for (const v of capturedBy(n)) outer.set(v, this.#value(stream, v));
    for (const [name, a] of n.attrs) {
      if (a.kind === "graph") attrs[name] = { kind: "graph", value: cloneGraph(a.value, this.#graph, new Map(outer)) };
      else if (a.kind === "graphs") attrs[name] = { kind: "graphs", value: a.value.map((g) => cloneGraph(g, this.#graph, new Map(outer))) };
      else attrs[name] = a;
    }
    const made = this.#graph.append({
      op: n.op,
      domain: n.domain,
      inputs,
      outputs: n.outputs.map((o) => (o ? this.#streams.key(stream, o) : "")),
      attrs,
      name: `${stream}/${nodeKey(n)}`,
    });
    made.overload = n.overload;
    for (const o of made.outputs) if (o) this.#made.set(o.name, o);
  }

  /** What input `i` of a node gets in the quantized stream. */
  #operand(v: Value, n: Node, i: number): Value {
    const site = this.#streams.siteAt(v, n, i);
    if (site?.kind === "weight") return this.#constant(`q/${v.name}`, this.#streams.weightFor(site, v));
    let x = this.#value("quant", v);
    const insertion = this.#streams.insertionAt(v, n, i);
    if (insertion) {
      const key = `mul/${insertion.by.tensor}/${x.name}`;
      const by = this.#constant(`f/${insertion.by.tensor}`, this.#streams.tensor(insertion.by.tensor));
      x = this.#once(key, () => this.#graph.append({ op: insertion.op, inputs: [x, by] }).outputs[0]!);
    }
    if (site?.kind === "static") return this.#fakeQuant(site, x);
    if (site?.kind === "dynamic") return site.per === "token" ? this.#tokens(x) : this.#dynamic(x);
    return x;
  }

  #once(key: string, make: () => Value): Value {
    let v = this.#made.get(key);
    if (!v) {
      v = make();
      this.#made.set(key, v);
    }
    return v;
  }

  #fakeQuant(site: Extract<Site, { kind: "static" }>, x: Value): Value {
    const { dtype, granularity } = site.scheme;
    if (!isIntDType(dtype)) return x;
    const scale = this.#streams.numbers(site.scale);
    const zero = this.#streams.numbers(site.zeroPoint);
    const shape = [scale.length];
    if (granularity.kind === "tensor") {
      const codes = { dtype, scale: Math.fround(scale[0]!), zero: zero[0]! };
      return this.#once(`dq/${idOf(x, codes)}`, () => this.#affine("DequantizeLinear", this.#quantized(x, codes), codes));
    }
    const id = `${x.name}|${dtype}|${Array.from(scale).join()}|${Array.from(zero).join()}`;
    return this.#once(`dq/${id}`, () => {
      const s = this.#graph.constant(floats(scale, shape), "scale");
      const z = this.#graph.constant(tensorFromBytes(dtype, shape, packCodes(zero, dtype)), "zero");
      const attrs: Record<string, number> = granularity.kind === "channel" ? { axis: granularity.axis } : {};
      const domain = "com.microsoft"; // its Q/DQ take 16-bit codes at any opset
      const q = this.#graph.append({ op: "QuantizeLinear", domain, inputs: [x, s, z], attrs }).outputs[0]!;
      return this.#graph.append({ op: "DequantizeLinear", domain, inputs: [q, s, z], attrs }).outputs[0]!;
    });
  }

  #tokens(x: Value): Value {
    return this.#once(`tokens/${x.name}`, () => {
      const { quotient, scale } = tokenQuotient(x, {
        opset: this.#model.opsets.get("") ?? 1,
        node: (op, inputs, _hint, attrs) => this.#graph.append({ op, inputs: [...inputs], attrs: { ...attrs } }).outputs[0]!,
        constant: (data, hint) => this.#graph.constant(data, hint),
      });
      const rounded = this.#graph.append({ op: "Round", inputs: [quotient] }).outputs[0]!;
      return this.#graph.append({ op: "Mul", inputs: [rounded, scale] }).outputs[0]!;
    });
  }

  #dynamic(x: Value): Value {
    return this.#once(`dynamic/${x.name}`, () => {
      const q = this.#graph.append({ op: "DynamicQuantizeLinear", inputs: [x], outputs: [undefined, undefined, undefined] });
      return this.#graph.append({ op: "DequantizeLinear", inputs: [q.outputs[0], q.outputs[1], q.outputs[2]] }).outputs[0]!;
    });
  }
}

/** Of a quantization of a value. */
const idOf = (x: Value, c: Codes): string => `${x.name}|${c.dtype}|${c.scale}|${c.zero}`;
