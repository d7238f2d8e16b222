import type { Value } from "../graph/ir.ts";
import { opFacts } from "../graph/ops/index.ts";
import type { Site } from "../plan/types.ts";
import { INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import { type Gram, GramCollector, type GramEngine } from "./gram.ts";
import type { Layer } from "./layers.ts";
import type { Given } from "./prefix.ts";
import type { Streams, Want } from "./streams.ts";
import { choosePositions, type Placed, pickRows, placeWindow, type Raw, type Rounding, settleRows, unfold } from "./unfold.ts";

export interface ReaderOptions {
  readonly streams: Streams;
  readonly engine: GramEngine;
  /** Samples that will come. */
  readonly samples: number;
  /** Positions that the statistics of a layer with k inputs take, over all samples. */
  readonly positions: (k: number) => number;
  readonly seed: number;
}

/** One reader for each distinct way that the layers of a wave read an input. */
export function readersOf(wave: readonly Layer[], o: ReaderOptions): Reader[] {
  const byKey = new Map<string, Layer[]>();
  for (const layer of wave) {
    const key = readKey(layer, o.streams);
    byKey.set(key, [...(byKey.get(key) ?? []), layer]);
  }
  return [...byKey.values()].map((layers) => new Reader(layers, o));
}

/** What a layer's output in the float stream is, as an output of its node. */
interface Output {
  readonly value: Value;
  /** Per row of all groups, to be taken off. */
  readonly bias: Float32Array | undefined;
}

/**
 * The float layer's own output in place of its input, where that is less to gather (see `Gram`). Not for a bias that cannot be told from the
 * product, and not for layers that share an input: they share its statistics.
 */
function outputOf(layer: Layer, streams: Streams): Output | undefined {
  const value = layer.node.outputs[0];
  if (streams.alone || layer.rows > layer.k || !value || !streams.isFloat32(value)) return undefined;
  const at = opFacts(layer.node)?.bias;
  const bias = at === undefined ? undefined : layer.node.inputs[at];
  if (!bias) return { value, bias: undefined };
  return layer.bias?.value === bias ? { value, bias: layer.bias.data } : undefined;
}

/** Takes a layer's input of both streams, or its output of the float one, sample by sample, into a `GramCollector`. */
export class Reader {
  readonly layers: readonly Layer[];
  readonly wants: readonly Want[];
  readonly #layer: Layer;
  readonly #alone: boolean;
  readonly #output: Output | undefined;
  /** Samples in turn, where there are so few positions that one half has to check the other; else one. */
  #collectors: GramCollector[] = [];
  readonly #engine: GramEngine;
  readonly #samples: number;
  readonly #perSample: number;
  readonly #rounding: Rounding | undefined;
  readonly #seed: number;
  #positions = new Int32Array(0);
  #placed: Placed | undefined;
  #placedOutput: Placed | undefined;
  #dims = "";
  /** What is taken off the float stream's rows: the collector's shift, and the bias. */
  #offA: readonly Float32Array[] = [];
  #primed = false;

  constructor(layers: readonly Layer[], o: ReaderOptions) {
    const { streams } = o;
    const layer = layers[0]!;
    this.layers = layers;
    this.#layer = layer;
    this.#alone = streams.alone;
    const site = streams.siteAt(layer.input, layer.node, layer.inputIndex);
    const plain = streams.insertionAt(layer.input, layer.node, layer.inputIndex) === undefined;
    // A static Q/DQ is done here, on the gathered elements alone: the whole tensor crosses the threads once, as part of the frontier.
    this.#rounding = plain && site?.kind === "static" ? roundingOf(site, streams) : undefined;
    this.#output = layers.length === 1 ? outputOf(layer, streams) : undefined;
    const at = { node: layer.node, input: layer.inputIndex };
    this.wants = [
      { stream: streams.alone ? "quant" : "float", value: this.#output?.value ?? layer.input },
      { stream: "quant", value: layer.input, ...((site || !plain) && !this.#rounding && { at }) },
    ];
    this.#engine = o.engine;
    this.#samples = o.samples;
    this.#perSample = Math.max(1, Math.ceil(o.positions(layer.k) / o.samples));
    this.#seed = o.seed;
  }

  /** Nodes whose output in the float stream is read, and not their input. */
  get done(): readonly Layer["node"][] {
    return this.#output ? [this.#layer.node] : [];
  }

  /** `x`: of the float stream; `xHat`: the input in the quantized one. */
  async add(sample: number, x: Given, xHat: Given): Promise<void> {
    const { window, groups, rows, k } = this.#layer;
    if (window && this.#dims !== xHat.tensor.dims.join()) {
      this.#placed = placeWindow(window, xHat.tensor.dims, groups);
      if (this.#output) this.#placedOutput = eachOutput(this.#placed, rows);
      this.#dims = xHat.tensor.dims.join();
    }
    const total = window ? this.#placed!.positions : (xHat.tensor.data as Float32Array).length / k;
    if (this.#positions.length < total) this.#positions = new Int32Array(total);
    const count = choosePositions(total, this.#perSample, this.#seed, sample, this.#positions);
    if (this.#collectors.length === 0) this.#collect(count);
    const c = this.#collectors[sample % this.#collectors.length]!;
    if (!this.#primed) this.#prime(c, x, xHat, Math.min(count, c.capacity));
    for (let from = 0; from < count; ) {
      const n = Math.min(count - from, c.capacity - c.filled);
      this.#write(c, x, xHat, from, n);
      c.filled += n;
      from += n;
      if (c.filled === c.capacity) await c.flush();
    }
  }

  #collect(count: number): void {
    const { groups, rows, k } = this.#layer;
    const few = count * this.#samples < SPLIT_BELOW * k && this.#samples > 1;
    const parts = few && !this.#alone ? 2 : 1;
    const outputs = this.#output ? rows : undefined;
    this.#collectors = Array.from({ length: parts }, () => new GramCollector(groups, k, this.#engine, !this.#alone, outputs));
  }

  /** The shifts: means of the first rows. Inputs of both streams share that of the quantized one. */
  #prime(c: GramCollector, x: Given, xHat: Given, n: number): void {
    const { groups, rows, k } = this.#layer;
    const bias = this.#output?.bias;
    this.#offA = bias ? Array.from({ length: groups }, (_, g) => bias.slice(g * rows, (g + 1) * rows)) : c.shiftA;
    this.#write(c, x, xHat, 0, n);
    const mean = (from: readonly Float32Array[], width: number, to: readonly Float32Array[]) => {
      from.forEach((b, g) => {
        const m = to[g]!;
        for (let r = 0; r < n; r++) for (let i = 0; i < width; i++) m[i]! += b[r * width + i]! / n;
      });
    };
    mean(c.b, k, c.shift);
    if (this.#output) {
      mean(c.a, rows, c.shiftA);
      this.#offA = c.shiftA.map((m, g) => m.map((v, r) => v + (bias ? bias[g * rows + r]! : 0)));
    }
    for (const other of this.#collectors.slice(1)) {
      for (const [g, m] of other.shift.entries()) m.set(c.shift[g]!);
      for (const [g, m] of other.shiftA.entries()) m.set(c.shiftA[g]!);
    }
    this.#primed = true;
  }

  /** Positions [from, from + n) behind the rows that the collector has. */
  #write(c: GramCollector, x: Given, xHat: Given, from: number, n: number): void {
    const { k, rows, columns } = this.#layer;
    const p = from === 0 ? this.#positions : this.#positions.subarray(from);
    this.#put(xHat, c.b, this.#placed, k, p, n, c.filled, c.shift, this.#rounding, columns);
    if (c.a.length === 0) return;
    if (this.#output) this.#put(x, c.a, this.#placedOutput, rows, p, n, c.filled, this.#offA, undefined);
    else this.#put(x, c.a, this.#placed, k, p, n, c.filled, c.shift, undefined, columns);
  }

  #put(
    given: Given,
    into: readonly Float32Array[],
    placed: Placed | undefined,
    width: number,
    positions: Int32Array,
    n: number,
    filled: number,
    shift: readonly Float32Array[],
    rounding: Rounding | undefined,
    columns = false,
  ): void {
    const data = given.tensor.data as Raw;
    if (placed) unfold(data, placed, positions, n, into, filled, given.codes?.zero ?? 0);
    else pickRows(data, width, columns, positions, n, into[0]!, filled);
    const how = { half: given.scale, codes: given.codes };
    for (const [g, to] of into.entries()) settleRows(to, filled, filled + n, width, how, rounding, shift[g]!);
  }

  /** Of all positions, and of the two halves where they were kept apart. */
  async grams(centred: boolean): Promise<{ readonly grams: readonly Gram[]; readonly halves: Halves | undefined }> {
    const [c, d] = this.#collectors;
    if (!c) throw new Error("internal: no sample reached a layer");
    await c.flush();
    if (!d || this.#halves) {
      // Layers with the same input (query, key and value) share the matrices themselves.
      const known = this.#finished;
      const grams = known?.centred === centred ? known.grams : c.finish(centred);
      this.#finished = { centred, grams };
      return { grams, halves: this.#halves };
    }
    await d.flush();
    this.#halves = [c.finish(centred), d.finish(centred)];
    c.merge(d);
    return { grams: c.finish(centred), halves: this.#halves };
  }
  #halves: Halves | undefined;
  #finished: { readonly centred: boolean; readonly grams: readonly Gram[] } | undefined;
}

/** Statistics of every other sample, and of the rest. */
export type Halves = readonly [readonly Gram[], readonly Gram[]];

/** With fewer positions than this times k the damping is chosen by trial. */
const SPLIT_BELOW = 12;

/** A window of one element on the output [N, groups · rows, …] of a placed one: the same positions. */
function eachOutput(p: Placed, rows: number): Placed {
  return { ...p, channels: rows, size: p.out, kernel: [1, 1], stride: [1, 1], dilation: [1, 1], before: [0, 0] };
}

function roundingOf(site: Extract<Site, { kind: "static" }>, streams: Streams): Rounding | undefined {
  const { dtype, granularity } = site.scheme;
  if (!isIntDType(dtype) || granularity.kind !== "tensor") return undefined;
  // Q saturates at the bounds of the storage type.
  const { min, max } = INT_DTYPES[dtype];
  const zero = streams.numbers(site.zeroPoint)[0]!;
  return { scale: Math.fround(streams.numbers(site.scale)[0]!), lo: min - zero, hi: max - zero };
}

function readKey(l: Layer, streams: Streams): string {
  const site = streams.siteAt(l.input, l.node, l.inputIndex);
  return JSON.stringify([
    l.input.name,
    l.groups,
    l.k,
    l.window ?? null,
    l.columns,
    site?.kind === "static" ? [site.scale, site.zeroPoint] : site?.kind,
  ]);
}
