import { type Attr, type AttrLike, attrOf } from "./attr.ts";
import type { TensorData } from "./tensor.ts";
import type { Dim, ValueType } from "./types.ts";

/** Bytes of a protobuf field that this schema does not know, kept for the way back. */
export type UnknownFields = readonly Uint8Array[];

export interface Use {
  readonly node: Node;
  readonly input: number;
}

/** Why a node exists when it was not in the source: which rule made it, from which nodes. */
export interface Origin {
  readonly rule: string;
  readonly from: readonly string[];
}

/**
 * One value: a graph input, a constant (initializer), or an output of a node. Nodes point to values, never to names.
 * `data` is shared by reference and never written to. A value with data that is a graph input too is a default (IR < 4 style).
 * Values of an outer graph are used by nodes of a subgraph directly: those uses are in `uses` as well.
 */
export class Value {
  name: string;
  type: ValueType | undefined;
  data: TensorData | undefined;
  readonly graph: Graph;
  producer: Node | undefined;
  readonly uses: Use[] = [];
  /** Extra ValueInfoProto/TensorProto matter that must survive a round trip. */
  doc: string | undefined;
  metadata: readonly (readonly [string, string])[] = [];
  unknown: UnknownFields = [];
  /** From a sparse_initializer: written back as such. */
  sparse: import("./attr.ts").SparseTensor | undefined;

  /** Use `Graph.value`, `Graph.constant` or `Graph.append`. */
  constructor(graph: Graph, name: string, type: ValueType | undefined) {
    this.graph = graph;
    this.name = name;
    this.type = type;
  }

  get isInput(): boolean {
    return this.graph.inputs.includes(this);
  }
  get isOutput(): boolean {
    return this.graph.outputs.includes(this);
  }
  /** A constant that no caller can override. */
  get isConstant(): boolean {
    return this.data !== undefined && this.producer === undefined && !this.isInput;
  }
}

export class Node {
  name: string;
  domain: string;
  op: string;
  overload: string;
  readonly graph: Graph;
  /** undefined: an optional input left out. */
  readonly inputs: (Value | undefined)[];
  /** undefined: an optional output left out (empty name). */
  readonly outputs: (Value | undefined)[];
  readonly attrs: Map<string, Attr>;
  doc: string | undefined;
  metadata: (readonly [string, string])[] = [];
  unknown: UnknownFields = [];
  origin: Origin | undefined;

  constructor(graph: Graph, op: string, domain: string, name: string, attrs: Map<string, Attr>) {
    this.graph = graph;
    this.op = op;
    this.domain = domain;
    this.overload = "";
    this.name = name;
    this.attrs = attrs;
    this.inputs = [];
    this.outputs = [];
  }

  /** The subgraphs of this node's attributes (If, Loop, Scan), in attribute order. */
  get subgraphs(): Graph[] {
    const out: Graph[] = [];
    for (const a of this.attrs.values()) {
      if (a.kind === "graph") out.push(a.value);
      else if (a.kind === "graphs") out.push(...a.value);
    }
    return out;
  }
}

export interface NewNode {
  readonly op: string;
  readonly inputs: readonly (Value | undefined)[];
  /** Output names (undefined: make one from the hint; "" is left out). Default: one fresh output. */
  readonly outputs?: readonly (string | undefined)[];
  readonly attrs?: Readonly<Record<string, AttrLike>>;
  readonly domain?: string;
  readonly name?: string;
  readonly origin?: Origin;
}

/**
 * A graph: main graph, subgraph or function body. Nodes are in a valid execution order. All changes go through the verbs below;
 * each checks first and then changes, so a throw leaves the graph as it was.
 */
export class Graph {
  name: string;
  readonly inputs: Value[] = [];
  readonly outputs: Value[] = [];
  readonly nodes: Node[] = [];
  /** Every value of this graph by name, constants included. */
  readonly values = new Map<string, Value>();
  /** The graph whose node holds this one; undefined at the top and in function bodies. */
  parent: Graph | undefined;
  doc: string | undefined;
  metadata: (readonly [string, string])[] = [];
  /** quantization_annotation and unknown fields, kept. */
  unknown: UnknownFields = [];

  constructor(name = "", parent?: Graph) {
    this.name = name;
    this.parent = parent;
  }

  /** Constants and input defaults, in order of creation. */
  get initializers(): Value[] {
    return [...this.values.values()].filter((v) => v.data !== undefined && v.producer === undefined);
  }

  /** A new value without producer. Throws when the name is taken in this graph. */
  value(name: string, type?: ValueType): Value {
    if (name === "") throw new Error("internal: a value needs a name");
    if (this.values.has(name)) throw new Error(`internal: value "${name}" exists already`);
    const v = new Value(this, name, type);
    this.values.set(name, v);
    return v;
  }

  addInput(name: string, type?: ValueType): Value {
    const v = this.value(name, type);
    this.inputs.push(v);
    return v;
  }

  addOutput(v: Value): void {
    this.outputs.push(v);
  }

  /** A name not used here, in an outer graph, or in a subgraph: the hint, or the hint with a number. */
  freshName(hint: string): string {
    const base = hint === "" ? "v" : hint;
    let name = base;
    let n = this.#counters.get(base) ?? 0;
    while (this.#taken(name)) name = `${base}_${++n}`;
    this.#counters.set(base, n);
    return name;
  }
  readonly #counters = new Map<string, number>();

  #taken(name: string): boolean {
    for (let g: Graph | undefined = this; g; g = g.parent) if (g.values.has(name)) return true;
    return this.#inSubgraphs(name);
  }
  #inSubgraphs(name: string): boolean {
    for (const n of this.nodes) for (const s of n.subgraphs) if (s.values.has(name) || s.#inSubgraphs(name)) return true;
    return false;
  }

  /** A constant. The data is shared by reference. */
  constant(data: TensorData, nameHint: string): Value {
    const v = this.value(this.freshName(nameHint), { kind: "tensor", elem: data.dtype, shape: data.shape });
    v.data = data;
    return v;
  }

  /** A new node at the end of the graph. */
  append(spec: NewNode): Node {
    return this.#insert(spec, this.nodes.length);
  }

  /** A new node just before `anchor`, which must belong to this graph. */
  insertBefore(anchor: Node, spec: NewNode): Node {
    return this.#insert(spec, this.indexOf(anchor));
  }

  /** A new node just after `anchor`. */
  insertAfter(anchor: Node, spec: NewNode): Node {
    return this.#insert(spec, this.indexOf(anchor) + 1);
  }

  indexOf(node: Node): number {
    const i = this.nodes.indexOf(node);
    if (i < 0) throw new Error(`internal: node "${node.name}" is not in graph "${this.name}"`);
    return i;
  }

  #insert(spec: NewNode, at: number): Node {
    for (const v of spec.inputs)
      if (v && !this.sees(v)) throw new Error(`internal: value "${v.name}" is out of scope for a new ${spec.op}`);
    const attrs = new Map<string, Attr>();
    for (const [k, a] of Object.entries(spec.attrs ?? {})) attrs.set(k, attrOf(a));
    const hint = spec.name ?? spec.op;
    const names: string[] = [];
    const seen = new Set<string>();
    for (const given of spec.outputs ?? [undefined]) {
      let o = given ?? this.freshName(`${hint}_out`);
      // Two outputs without names must not get the same one.
      for (let k = 1; given === undefined && seen.has(o); k++) o = this.freshName(`${hint}_out${k}`);
      if (o !== "" && (this.values.has(o) || seen.has(o))) throw new Error(`internal: value "${o}" exists already`);
      seen.add(o);
      names.push(o);
    }
    const node = new Node(this, spec.op, spec.domain ?? "", spec.name ?? "", attrs);
    node.origin = spec.origin;
    for (const v of spec.inputs) {
      if (v) v.uses.push({ node, input: node.inputs.length });
      node.inputs.push(v);
    }
    for (const o of names) {
      if (o === "") node.outputs.push(undefined);
      else {
        const v = this.value(o);
        v.producer = node;
        node.outputs.push(v);
      }
    }
    this.nodes.splice(at, 0, node);
    for (const s of node.subgraphs) s.parent = this;
    return node;
  }

  /** True when a node of this graph may use `v`: it belongs here or to an outer graph. */
  sees(v: Value): boolean {
    for (let g: Graph | undefined = this; g; g = g.parent) if (v.graph === g) return true;
    return false;
  }

  /** Points input `input` of `node` at `to` (undefined: leaves the optional input out). */
  replaceUse(node: Node, input: number, to: Value | undefined): void {
    if (to && !node.graph.sees(to)) throw new Error(`internal: value "${to.name}" is out of scope for node "${node.name}"`);
    if (input < 0 || (to === undefined && input >= node.inputs.length))
      throw new Error(`internal: node "${node.name}" has no input ${input}`);
    while (node.inputs.length <= input) node.inputs.push(undefined);
    const old = node.inputs[input];
    if (old === to) return;
    if (old) dropUse(old, node, input);
    node.inputs[input] = to;
    if (to) to.uses.push({ node, input });
    else while (node.inputs.length > 0 && node.inputs[node.inputs.length - 1] === undefined) node.inputs.pop();
  }

  /**
   * Every use of `from` (in subgraphs too) becomes a use of `to`. Graph outputs keep `from`: their names are the model's interface;
   * use `takeOutput` for those.
   */
  replaceAllUses(from: Value, to: Value): void {
    if (from === to) return;
    const uses = [...from.uses];
    for (const u of uses)
      if (!u.node.graph.sees(to)) throw new Error(`internal: value "${to.name}" is out of scope for node "${u.node.name}"`);
    for (const u of uses) this.replaceUse(u.node, u.input, to);
  }

  /**
   * `to` takes the place of the graph output `from`: it gets the output's name and type, `from` is renamed. Afterwards `from` is internal.
   * `to` must be produced in this graph and must not be a graph input or output itself.
   */
  takeOutput(from: Value, to: Value): void {
    if (!this.outputs.includes(from)) throw new Error(`internal: "${from.name}" is not an output`);
    if (to.graph !== this || to.isInput || to.isOutput) throw new Error(`internal: "${to.name}" cannot become output "${from.name}"`);
    const name = from.name;
    this.rename(from, this.freshName(`${name}_inner`));
    this.rename(to, name);
    to.type = from.type ?? to.type;
    for (let i = 0; i < this.outputs.length; i++) if (this.outputs[i] === from) this.outputs[i] = to;
  }

  rename(v: Value, name: string): void {
    if (v.name === name) return;
    if (v.graph !== this || this.values.has(name)) throw new Error(`internal: cannot rename "${v.name}" to "${name}"`);
    this.values.delete(v.name);
    v.name = name;
    this.values.set(name, v);
  }

  setAttr(node: Node, name: string, a: AttrLike | undefined): void {
    if (a === undefined) node.attrs.delete(name);
    else node.attrs.set(name, attrOf(a));
  }

  setType(v: Value, type: ValueType | undefined): void {
    v.type = type;
  }

  /** Replaces a constant's data (dtype and shape may change); `v` must have no producer. */
  setData(v: Value, data: TensorData): void {
    if (v.producer) throw new Error(`internal: "${v.name}" is produced by a node`);
    v.data = data;
    v.sparse = undefined;
    v.type = { kind: "tensor", elem: data.dtype, shape: data.shape as readonly Dim[] };
  }

  /** Removes a node none of whose outputs is used or a graph output. Its outputs leave the graph. */
  remove(node: Node): void {
    const at = this.indexOf(node);
    for (const o of node.outputs) {
      if (o && (o.uses.length > 0 || o.isOutput)) throw new Error(`internal: output "${o.name}" of node "${node.name}" is still used`);
    }
    for (const s of node.subgraphs) detach(s);
    for (let i = 0; i < node.inputs.length; i++) {
      const v = node.inputs[i];
      if (v) dropUse(v, node, i);
    }
    node.inputs.length = 0;
    for (const o of node.outputs) if (o) this.values.delete(o.name);
    this.nodes.splice(at, 1);
  }

  /** Removes a constant or an unused value without producer. */
  removeValue(v: Value): void {
    if (v.producer || v.uses.length > 0 || v.isOutput || v.isInput) throw new Error(`internal: value "${v.name}" is still needed`);
    this.values.delete(v.name);
  }

  /** Every node of this graph and of its subgraphs, outer before inner. */
  *allNodes(): Generator<Node> {
    for (const n of this.nodes) {
      yield n;
      for (const s of n.subgraphs) yield* s.allNodes();
    }
  }
}

function dropUse(v: Value, node: Node, input: number): void {
  const i = v.uses.findIndex((u) => u.node === node && u.input === input);
  if (i < 0) throw new Error(`internal: use list of "${v.name}" is broken`);
  v.uses.splice(i, 1);
}

/** Drops the uses that a removed subgraph has of outer values. */
function detach(g: Graph): void {
  for (const n of g.nodes) {
    for (let i = 0; i < n.inputs.length; i++) {
      const v = n.inputs[i];
      if (v && v.graph !== g) dropUse(v, n, i);
    }
    for (const s of n.subgraphs) detach(s);
  }
}

export interface FunctionDef {
  readonly name: string;
  readonly domain: string;
  readonly overload: string;
  readonly body: Graph;
  readonly attributes: readonly string[];
  readonly attributeDefaults: ReadonlyMap<string, Attr>;
  readonly opsets: ReadonlyMap<string, number>;
  readonly doc?: string;
  readonly metadata: readonly (readonly [string, string])[];
  readonly unknown: UnknownFields;
}

/** A whole model: ONNX ModelProto. */
export interface Model {
  irVersion: number;
  producerName: string;
  producerVersion: string;
  domain: string;
  modelVersion: number | bigint;
  doc: string | undefined;
  /** Domain ("" is ai.onnx) to version. */
  opsets: Map<string, number>;
  graph: Graph;
  functions: FunctionDef[];
  metadata: (readonly [string, string])[];
  /** training_info and unknown fields, as raw bytes. */
  unknown: UnknownFields;
}

export function opsetOf(m: Model, domain = ""): number | undefined {
  return m.opsets.get(domain);
}

/** An empty model, for building graphs in code and tests. */
export function newModel(opset = 21, irVersion = 10): Model {
  return {
    irVersion,
    producerName: "qc",
    producerVersion: "",
    domain: "",
    modelVersion: 0,
    doc: undefined,
    opsets: new Map([["", opset]]),
    graph: new Graph("main"),
    functions: [],
    metadata: [],
    unknown: [],
  };
}
