import type { Attr } from "../graph/attr.ts";
import { cloneGraph } from "../graph/clone.ts";
import { type Graph, type Model, type Node, newModel, type Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { floats, type TensorData, tensorFromBytes } from "../graph/tensor.ts";
import { tensorType, type ValueType } from "../graph/types.ts";
import { capturedBy, nodeKey } from "../graph/walk.ts";
import { tokenQuotient } from "../plan/tokens.ts";
import type { Insertion, PlanBundle, Site } from "../plan/types.ts";
import { DTYPES, type DType, isIntDType } from "../quant/dtype.ts";
import { packCodes } from "../quant/pack.ts";
import { numbersOf, type SiteIndex, siteIndex, weightTensor } from "./sites.ts";

/** The float network, or the fake-quantized one. */
export type Stream = "float" | "quant";

/** Something to read from a segment: a value of a stream, or what one input of a node gets (behind Q/DQ). */
export interface Want {
  readonly stream: Stream;
  readonly value: Value;
  /** Read behind the Q/DQ that this consumer sees. */
  readonly at?: { readonly node: Node; readonly input: number };
}

/** A part of both networks as one model, and what it takes and gives. */
export interface Segment {
  readonly bytes: Uint8Array;
  /** Names of graph inputs: keys of `Streams.key`, and `scaleKey` of packed ones. */
  readonly inputs: readonly string[];
  /** Output names of each want. */
  readonly outputs: readonly SegmentOutput[];
}

export interface SegmentOutput {
  readonly name: string;
  /** Of a packed value: a float32 scalar, the value is half · scale. */
  readonly scale?: string;
  /** Largest magnitude over the mean one: how much of the half's range the value needs. */
  readonly spread?: string;
}

/** How a value that a segment takes is stored: "packed" is float16 of value / scale, with a float32 scalar beside it. */
export type Stored = DType | "packed";
export const scaleKey = (key: string): string => `${key}|scale`;

/**
 * The float network and its fake-quantized twin side by side, cut into segments that run on their own. The plan's Q/DQ pairs, stored
 * weights, replaced constants and inserted factors are applied to the twin; weights and biases can be changed as layers are solved.
 * Values before the first quantized one are equal in both and are computed once.
 */
export class Streams {
  readonly model: Model;
  /** The quantized stream alone is walked: statistics of x̂, none of x. */
  readonly alone: boolean;
  readonly #index: SiteIndex;
  readonly #bundle: PlanBundle;
  readonly #position = new Map<Node, number>();
  /** Values that differ between the streams. */
  readonly #differs = new Set<Value>();
  readonly #weights = new Map<Value, TensorData>();
  readonly #constants = new Map<Value, TensorData>();
  readonly #tensors = new Map<string, TensorData>();

  readonly #float = new Map<Node, readonly number[]>();
  readonly #types: ReadonlyMap<string, ValueType> | undefined;

  /** `types`: of the prepared graph's values by path; without them values of unknown type are kept as they are. */
  constructor(model: Model, bundle: PlanBundle, types?: ReadonlyMap<string, ValueType>, alone = false) {
    this.model = model;
    this.alone = alone;
    this.#types = types;
    this.#bundle = bundle;
    this.#index = siteIndex(model, bundle.plan);
    for (const r of bundle.plan.replacements) {
      const v = model.graph.values.get(r.value);
      const data = bundle.tensors.get(r.tensor.tensor);
      if (v && data) this.#constants.set(v, data);
    }
    model.graph.nodes.forEach((n, i) => {
      this.#position.set(n, i);
      if (this.#changes(n)) for (const o of n.outputs) if (o) this.#differs.add(o);
    });
  }

  #changes(n: Node): boolean {
    for (let i = 0; i < n.inputs.length; i++) {
      const v = n.inputs[i];
      if (v && (this.#differs.has(v) || this.#constants.has(v) || this.#index.at(v, n, i) || this.#index.insertion(v, n, i))) return true;
    }
    return n.subgraphs.length > 0 && capturedBy(n).some((v) => this.#differs.has(v) || this.#constants.has(v));
  }

  isFloat32(v: Value): boolean {
    const t = this.#types?.get(v.name) ?? v.type;
    return t?.kind === "tensor" && t.elem === "float32";
  }

  /** The dequantized content of a weight site from now on. */
  setWeight(value: Value, data: TensorData): void {
    this.#weights.set(value, data);
  }
  /** The content of a constant in the quantized stream from now on (its value must differ already: a bias of a quantized layer does). */
  setConstant(value: Value, data: TensorData): void {
    this.#constants.set(value, data);
  }

  /** No Q/DQ in front of this input any more. */
  leaveFloat(node: Node, input: number): void {
    this.#float.set(node, [...(this.#float.get(node) ?? []), input]);
  }

  /** The name of a value of a stream in segments and frontiers. */
  key(stream: Stream, v: Value): string {
    return `${stream === "quant" && this.#differs.has(v) ? "q" : "f"}/${v.name}`;
  }

  /** Values made before node `cut` (or fed) that nodes of `relevant` from there on read, in both streams. */
  frontier(cut: number, relevant: ReadonlySet<Node>): Want[] {
    const out = new Map<string, Want>();
    const nodes = this.model.graph.nodes;
    for (let i = cut; i < nodes.length; i++) {
      const n = nodes[i]!;
      if (!relevant.has(n)) continue;
      for (const v of readBy(n)) {
        if (v.isConstant || (v.producer && this.#position.get(v.producer)! >= cut)) continue;
        for (const stream of this.alone ? (["quant"] as const) : (["float", "quant"] as const)) {
          const key = this.key(stream, v);
          if (!out.has(key)) out.set(key, { stream, value: v });
        }
      }
    }
    return [...out.values()];
  }

  /** The nodes that `values` depend on. */
  ancestors(values: Iterable<Value>): Set<Node> {
    const out = new Set<Node>();
    const stack = [...values];
    for (let v = stack.pop(); v; v = stack.pop()) {
      const p = v.producer;
      if (!p || out.has(p)) continue;
      out.add(p);
      stack.push(...readBy(p));
    }
    return out;
  }

  /** The part of both networks between `given` (keys with element types) and `wants`. */
  segment(wants: readonly Want[], given: ReadonlyMap<string, Stored>, packed: ReadonlySet<Want> = new Set()): Segment {
    return new SegmentBuilder(this, given).finish(wants, packed);
  }

  /** @internal Dequantized weight for a consumer, or undefined. */
  weightFor(site: Extract<Site, { kind: "weight" }>, v: Value): TensorData {
    let data = this.#weights.get(v);
    if (!data) {
      data = weightTensor(site, v, this.#bundle);
      this.#weights.set(v, data);
    }
    return data;
  }
  /** @internal */
  siteAt(v: Value, n: Node, input: number): Site | undefined {
    return this.#float.get(n)?.includes(input) ? undefined : this.#index.at(v, n, input);
  }
  /** @internal */
  insertionAt(v: Value, n: Node, input: number): Insertion | undefined {
    return this.#index.insertion(v, n, input);
  }
  /** @internal */
  replaced(v: Value): TensorData | undefined {
    return this.#constants.get(v);
  }
  /** @internal */
  numbers(x: Parameters<typeof numbersOf>[0]): ArrayLike<number> {
    return numbersOf(x, this.#bundle);
  }
  /** @internal */
  tensor(name: string): TensorData {
    const t = this.#bundle.tensors.get(name) ?? this.#tensors.get(name);
    if (!t) throw new Error(`internal: the plan has no tensor "${name}"`);
    return t;
  }
  /** @internal */
  differs(v: Value): boolean {
    return this.#differs.has(v);
  }
  /** @internal */
  positionOf(n: Node): number {
    return this.#position.get(n)!;
  }
}

/** Inputs of a node and values that its subgraphs capture. */
function readBy(n: Node): Value[] {
  const own = n.inputs.filter((v): v is Value => v !== undefined);
  return n.subgraphs.length > 0 ? [...own, ...capturedBy(n)] : own;
}

class SegmentBuilder {
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

  finish(wants: readonly Want[], packed: ReadonlySet<Want>): Segment {
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
      if (packed.has(w)) return this.#pack(v);
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
    const v = this.#graph.addInput(key, tensorType(stored === "packed" ? "float16" : stored));
    this.#inputs.push(key);
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
    const magnitude = one("Abs", [v]);
    const least = this.#constant("f/least magnitude", floats([2 ** -100], []));
    const scale = one("Max", [one("ReduceMax", [magnitude], { keepdims: 0 }), least]);
    const spread = one("Div", [scale, one("Max", [one("ReduceMean", [magnitude], { keepdims: 0 }), least])]);
    const half = one("Cast", [one("Div", [v, scale])], { to: DTYPES.float16.code });
    for (const out of [half, scale, spread]) g.addOutput(out);
    return { name: half.name, scale: scale.name, spread: spread.name };
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
    const shape = granularity.kind === "tensor" ? [] : [scale.length];
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
