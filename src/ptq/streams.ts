import type { Model, Node, Value } from "../graph/ir.ts";
import type { TensorData } from "../graph/tensor.ts";
import type { ValueType } from "../graph/types.ts";
import { capturedBy } from "../graph/walk.ts";
import type { Insertion, PlanBundle, Site } from "../plan/types.ts";
import { type DType, type IntDType, isIntDType } from "../quant/dtype.ts";
import { readBy, SegmentBuilder } from "./segment.ts";
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
}

/** The codes of a value that all its readers quantize alike: nothing is lost, and a byte an element is enough. */
export interface Codes {
  readonly dtype: IntDType;
  readonly scale: number;
  readonly zero: number;
}

/** How a value that a segment takes is stored: "packed" is float16 of value / scale, with a float32 scalar beside it. */
export type Stored = DType | "packed" | Codes;

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

  /**
   * Values made before node `cut` (or fed) that nodes of `relevant` from there on read, in both streams. `done`: nodes that the float stream
   * is past already, so that their outputs are kept there and not their inputs.
   */
  frontier(cut: number, relevant: ReadonlySet<Node>, done: ReadonlySet<Node> = new Set()): Want[] {
    const out = new Map<string, Want>();
    const nodes = this.model.graph.nodes;
    const made = (v: Value, stream: Stream) =>
      !v.producer || this.#position.get(v.producer)! < cut || (stream === "float" && done.has(v.producer));
    for (let i = cut; i < nodes.length; i++) {
      const n = nodes[i]!;
      if (!relevant.has(n)) continue;
      for (const v of readBy(n)) {
        if (v.isConstant) continue;
        for (const stream of this.alone ? (["quant"] as const) : (["float", "quant"] as const)) {
          if (!made(v, stream) || (stream === "float" && done.has(n))) continue;
          const key = this.key(stream, v);
          if (!out.has(key)) out.set(key, { stream, value: v });
        }
      }
    }
    return [...out.values()];
  }

  /** The codes as which a value of the quantized stream reaches all nodes of `relevant` from `cut` on, or undefined. */
  codesOf(v: Value, cut: number, relevant: ReadonlySet<Node>): Codes | undefined {
    if (!this.#differs.has(v)) return undefined;
    let found: Codes | undefined;
    for (const { node, input } of v.uses) {
      const at = this.#position.get(node);
      if (at === undefined) return undefined;
      if (at < cut || !relevant.has(node)) continue;
      const site = this.siteAt(v, node, input);
      const codes = site?.kind === "static" && !this.insertionAt(v, node, input) ? this.#oneScale(site) : undefined;
      if (!codes || (found && (found.dtype !== codes.dtype || found.scale !== codes.scale || found.zero !== codes.zero))) return undefined;
      found = codes;
    }
    return found;
  }

  #oneScale(site: Extract<Site, { kind: "static" }>): Codes | undefined {
    const { dtype, granularity } = site.scheme;
    if (!isIntDType(dtype) || granularity.kind !== "tensor" || !CODED.has(dtype)) return undefined;
    return { dtype, scale: Math.fround(this.numbers(site.scale)[0]!), zero: this.numbers(site.zeroPoint)[0]! };
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
  segment(wants: readonly Want[], given: ReadonlyMap<string, Stored>, packed: ReadonlyMap<Want, "packed" | Codes> = new Map()): Segment {
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

/** Types whose codes cross the runtime's border as they are. */
const CODED: ReadonlySet<IntDType> = new Set(["uint8", "int8", "uint16", "int16"]);
