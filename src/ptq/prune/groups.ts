import { intAttr } from "../../graph/attr.ts";
import { constantOf } from "../../graph/constant.ts";
import type { Model, Node, Value } from "../../graph/ir.ts";
import { opFacts } from "../../graph/ops/index.ts";
import { asIntegers } from "../../graph/tensor.ts";
import type { ValueType } from "../../graph/types.ts";
import type { Layer } from "../layers.ts";

/** Elements of a constant that go with a channel. */
export interface Slice {
  readonly value: Value;
  readonly axis: number;
  readonly index: number;
}

/** Channels of several values that can only go together (Liu et al. 2021, arXiv:2108.00708; Fang et al. 2023, arXiv:2301.12900). */
export interface Channel {
  readonly id: number;
  /** Rows of the layers that make it. */
  readonly rows: readonly { readonly layer: Layer; readonly row: number }[];
  /** Inputs of the layers that read it and sum over it. */
  readonly reads: readonly { readonly layer: Layer; readonly inputs: readonly number[] }[];
  /** Depthwise kernels that it passes. */
  readonly through: readonly { readonly layer: Layer; readonly group: number }[];
  readonly slices: readonly Slice[];
  /** Channels made by the same layers, which kernels compute together. */
  readonly family: string;
}

/** Each channel of the output depends on that channel of the first input alone, and the other inputs are constants without channels. */
const BY_CHANNEL = new Set(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool", "Dropout"]);
/** Constants [C], one element a channel. */
const PER_CHANNEL: Readonly<Record<string, readonly number[]>> = { BatchNormalization: [1, 2, 3, 4], InstanceNormalization: [1, 2] };

/**
 * The channels (axis 1) of all values, joined where operators make them depend on each other: a sum joins those of its operands, a Concat
 * appends, a depthwise convolution and everything elementwise passes them on, a product over channels (Conv, Gemm) ends them and begins new
 * ones. Where an operator mixes channels in another way, or a graph output shows them, they stay. `layers`: products whose input
 * statistics can be taken.
 */
export function channelsOf(model: Model, types: ReadonlyMap<string, ValueType>, layers: readonly Layer[]): Channel[] {
  return new Finder(model, types, layers).find();
}

class Finder {
  readonly #model: Model;
  readonly #types: ReadonlyMap<string, ValueType>;
  readonly #byNode: ReadonlyMap<Node, Layer>;
  readonly #base = new Map<Value, number>();
  readonly #parent: number[] = [];
  readonly #stays: boolean[] = [];
  readonly #rows: { readonly at: number; readonly layer: Layer; readonly row: number }[] = [];
  readonly #reads: { readonly at: number; readonly layer: Layer; readonly inputs: readonly number[] }[] = [];
  readonly #through: { readonly at: number; readonly layer: Layer; readonly group: number }[] = [];
  readonly #slices: (Slice & { readonly at: number })[] = [];

  constructor(model: Model, types: ReadonlyMap<string, ValueType>, layers: readonly Layer[]) {
    this.#model = model;
    this.#types = types;
    this.#byNode = new Map(layers.map((l) => [l.node, l]));
  }

  find(): Channel[] {
    const { graph } = this.#model;
    for (const v of [...graph.inputs, ...graph.outputs]) this.#stay(v);
    for (const n of graph.nodes) if (!this.#visit(n)) for (const v of [...n.inputs, ...n.outputs]) if (v) this.#stay(v);
    // Values that subgraphs read.
    for (const n of graph.nodes)
      for (const s of n.subgraphs) for (const inner of s.nodes) for (const v of inner.inputs) if (v?.graph === graph) this.#stay(v);

    const byRoot = new Map<number, { -readonly [K in "rows" | "reads" | "through" | "slices"]: Channel[K][number][] }>();
    const of = (at: number) => {
      const root = this.#root(at);
      let c = byRoot.get(root);
      if (!c) {
        c = { rows: [], reads: [], through: [], slices: [] };
        byRoot.set(root, c);
      }
      return c;
    };
    for (const { at, layer, row } of this.#rows) of(at).rows.push({ layer, row });
    for (const { at, layer, inputs } of this.#reads) of(at).reads.push({ layer, inputs });
    for (const { at, layer, group } of this.#through) of(at).through.push({ layer, group });
    for (const { at, ...s } of this.#slices) of(at).slices.push(s);
    const stays = new Set<number>();
    for (let i = 0; i < this.#stays.length; i++) if (this.#stays[i]) stays.add(this.#root(i));
    return [...byRoot]
      .filter(([root, c]) => !stays.has(root) && c.rows.length > 0 && c.reads.length > 0)
      .sort(([a], [b]) => a - b)
      .map(([, c], id) => ({ id, ...c, family: [...new Set(c.rows.map((r) => r.layer.key))].sort().join("\n") }));
  }

  /** Joins what a node's channels depend on; false: they have to stay. */
  #visit(n: Node): boolean {
    const layer = this.#byNode.get(n);
    const facts = opFacts(n);
    if (!facts || n.subgraphs.length > 0) return false;
    if (layer) return this.#product(n, layer);
    if (facts.trait === "compute") return false;
    const [x, y] = [n.inputs[0], n.outputs[0]];
    if (!x || !y || n.outputs.slice(1).some((o) => o && o.uses.length > 0)) return false;
    if (facts.elementwise) return this.#elementwise(n, y);
    if (n.op === "Concat") return this.#concat(n, y);
    const constants = PER_CHANNEL[n.op];
    if (constants) {
      const count = this.#channels(x);
      if (count === undefined || !this.#join(x, y)) return false;
      for (const i of constants) if (!this.#slice(n.inputs[i], 0, x, count)) return false;
      return true;
    }
    if (BY_CHANNEL.has(n.op)) return this.#join(x, y);
    if (n.op === "Flatten" || n.op === "Reshape" || n.op === "Squeeze") return this.#flatten(n, x, y);
    return false;
  }

  #product(n: Node, layer: Layer): boolean {
    const y = n.outputs[0]!;
    const rows = this.#channels(y);
    const inputs = this.#channels(layer.input);
    const { weight, groups } = layer;
    // What the file stores is cut: an operand that is computed from a constant stays whole.
    if (rows === undefined || inputs === undefined || weight.value.data === undefined || layer.columns) return false;
    if (rows !== groups * layer.rows) return false;
    if (!layer.window && (this.#shape(y)?.length !== 2 || this.#shape(layer.input)?.length !== 2)) return false;
    const biases = n.inputs.filter((v, i) => v !== undefined && i !== layer.inputIndex && i !== weight.input) as Value[];
    if (biases.some((b) => !b.isConstant)) return false;
    if (groups > 1) {
      // Depthwise: one input and one output each.
      if (groups !== rows || groups !== inputs || !this.#join(layer.input, y)) return false;
      for (let c = 0; c < rows; c++) {
        this.#through.push({ at: this.#base.get(y)! + c, layer, group: c });
        this.#slices.push({ at: this.#base.get(y)! + c, value: weight.value, axis: 0, index: c });
      }
      return biases.every((b) => this.#slice(b, (b.data?.shape.length ?? 1) - 1, y, rows));
    }
    const per = layer.k / inputs;
    if (!Number.isInteger(per) || weight.channel === undefined) return false;
    // [M, C, k…]: axis 1 is C. [K, N] or [N, K]: the axis of the sum.
    const axis = layer.window ? 1 : weight.reduce[0]!;
    if (!layer.window && per !== 1) return false;
    for (let m = 0; m < rows; m++) {
      this.#rows.push({ at: this.#at(y) + m, layer, row: m });
      this.#slices.push({ at: this.#at(y) + m, value: weight.value, axis: weight.channel, index: m });
    }
    for (let c = 0; c < inputs; c++) {
      this.#reads.push({ at: this.#at(layer.input) + c, layer, inputs: Array.from({ length: per }, (_, i) => c * per + i) });
      this.#slices.push({ at: this.#at(layer.input) + c, value: weight.value, axis, index: c });
    }
    return biases.every((b) => this.#slice(b, (b.data?.shape.length ?? 1) - 1, y, rows));
  }

  #elementwise(n: Node, y: Value): boolean {
    const count = this.#channels(y);
    const rank = this.#shape(y)?.length;
    if (count === undefined || rank === undefined) return false;
    for (const v of n.inputs) {
      if (!v) continue;
      if (!v.isConstant) {
        if (this.#shape(v)?.length !== rank || !this.#join(v, y)) return false;
        continue;
      }
      const shape = v.data!.shape;
      const axis = shape.length - rank + 1;
      if (axis < 0 || shape[axis] === 1) continue;
      if (!this.#slice(v, axis, y, count)) return false;
    }
    return true;
  }

  #concat(n: Node, y: Value): boolean {
    const rank = this.#shape(y)?.length ?? 0;
    const axis = intAttr(n, "axis", 0);
    if ((axis < 0 ? axis + rank : axis) !== 1) return n.inputs.every((v) => v !== undefined && !v.isConstant && this.#join(v, y));
    const out = this.#channels(y);
    const counts = n.inputs.map((v) => (v && !v.isConstant ? this.#channels(v) : undefined));
    if (out === undefined || counts.some((c) => c === undefined) || counts.reduce<number>((a, c) => a + c!, 0) !== out) return false;
    let from = this.#at(y);
    for (const [i, v] of n.inputs.entries()) for (let c = 0; c < counts[i]!; c++) this.#union(this.#at(v!) + c, from++);
    return true;
  }

  /** [N, C, 1, 1] to [N, C]: channels stay what they are. A Reshape's constant says how many. */
  #flatten(n: Node, x: Value, y: Value): boolean {
    const [from, to] = [this.#shape(x), this.#shape(y)];
    if (!from || !to || to.length !== 2 || from[0] !== to[0] || from[1] !== to[1]) return false;
    const target = n.inputs[1];
    if (n.op === "Reshape") {
      const said = target?.isConstant && target.data ? asIntegers(target.data) : undefined;
      // -1 and 0 follow the input; a number would have to be rewritten.
      if (said?.length !== 2 || !(said[1] === -1 || said[1] === 0)) return false;
    }
    return this.#join(x, y);
  }

  #slice(v: Value | undefined, axis: number, like: Value, count: number): boolean {
    if (!v?.isConstant || v.data?.shape[axis] !== count) return false;
    const base = this.#at(like);
    // Read by others too, it would be cut for them as well.
    if (v.uses.length > 1) return false;
    for (let index = 0; index < count; index++) this.#slices.push({ at: base + index, value: v, axis, index });
    return true;
  }

  #shape(v: Value): readonly (number | undefined)[] | undefined {
    if (v.data) return v.data.shape;
    const t = this.#types.get(v.name) ?? v.type;
    return t?.kind === "tensor" ? t.shape?.map((d) => (typeof d === "number" ? d : undefined)) : undefined;
  }
  #channels(v: Value): number | undefined {
    return v.graph === this.#model.graph && !v.isConstant && constantOf(v) === undefined ? this.#shape(v)?.[1] : undefined;
  }

  /** Number of the value's first channel. */
  #at(v: Value): number {
    let base = this.#base.get(v);
    if (base === undefined) {
      base = this.#parent.length;
      const count = this.#channels(v) ?? 0;
      for (let i = 0; i < count; i++) {
        this.#parent.push(base + i);
        this.#stays.push(false);
      }
      this.#base.set(v, base);
    }
    return base;
  }
  #stay(v: Value): void {
    const base = this.#at(v);
    for (let i = 0; i < (this.#channels(v) ?? 0); i++) this.#stays[base + i] = true;
  }
  #join(a: Value, b: Value): boolean {
    const [m, n] = [this.#channels(a), this.#channels(b)];
    if (m === undefined || m !== n) return false;
    const [x, y] = [this.#at(a), this.#at(b)];
    for (let i = 0; i < m; i++) this.#union(x + i, y + i);
    return true;
  }
  #union(a: number, b: number): void {
    const [x, y] = [this.#root(a), this.#root(b)];
    if (x !== y) this.#parent[Math.max(x, y)] = Math.min(x, y);
  }
  #root(i: number): number {
    let r = i;
    while (this.#parent[r] !== r) r = this.#parent[r]!;
    while (this.#parent[i] !== r) [i, this.#parent[i]] = [this.#parent[i]!, r];
    return r;
  }
}
