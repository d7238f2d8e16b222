import type { Gram } from "../gram.ts";
import { type Layer, rowsOf } from "../layers.ts";
import { choleskyUpper, solveRows } from "../solve/linalg.ts";
import type { Channel } from "./groups.ts";

/** What a layer costs: multiplications of one run for each row and input, while `rows` and `inputs` of them are there. */
export interface LayerCost {
  readonly layer: Layer;
  /** Positions that the kernel is placed at. */
  readonly positions: number;
}

export interface SelectInput {
  readonly channels: readonly Channel[];
  readonly costs: readonly LayerCost[];
  /** Statistics of the layers that read channels, by key. */
  readonly grams: ReadonlyMap<string, Gram>;
  /** By layer key and row: what an error of the output costs (`outputWeights`). */
  readonly weights: ReadonlyMap<string, Float64Array>;
  /** Part of the multiplications to take out. */
  readonly fraction: number;
  /** Channels of a family go in such numbers that what is left is a multiple of this: kernels work on so many at once. */
  readonly multiple: number;
  readonly signal?: AbortSignal;
}
export interface Selection {
  readonly removed: ReadonlySet<number>;
  readonly macs: { readonly before: number; readonly after: number };
}

/** Damping of the statistics, as a part of their mean diagonal: enough for a channel that is a sum of others. */
export const DAMPING = 1e-4;

/** One layer while inputs are taken out: P = (H + d I)⁻¹ over what is left, W as repaired so far. */
class Reader {
  readonly layer: Layer;
  readonly k: number;
  readonly #p: Float64Array;
  readonly #w: Float64Array;
  readonly #f: Float64Array;

  constructor(layer: Layer, gram: Gram, f: Float64Array) {
    const { k, rows } = layer;
    this.layer = layer;
    this.k = k;
    let trace = 0;
    for (let i = 0; i < k; i++) trace += gram.h[i * k + i]!;
    const d = (DAMPING * trace) / k;
    const r = gram.h.slice();
    for (let i = 0; i < k; i++) r[i * k + i]! += d > 0 ? d : 1;
    if (!choleskyUpper(r, k)) throw new Error(`internal: the damped statistics of ${layer.key} are not positive definite`);
    this.#p = new Float64Array(k * k);
    for (let i = 0; i < k; i++) this.#p[i * k + i] = 1;
    solveRows(r, k, this.#p, k);
    this.#w = rowsOf(layer, layer.weight.constant.float32())[0]!;
    this.#f = Float64Array.from({ length: rows }, (_, m) => f[m] ?? 0);
  }

  /** Σ_o F_o W_oc (P_cc)⁻¹ W_ocᵀ: what taking the inputs c out costs, once the others have made good for it what they can. */
  loss(inputs: readonly number[]): number {
    const s = inputs.length;
    const r = this.#block(inputs);
    const v = new Float64Array(s);
    let sum = 0;
    for (let m = 0; m < this.layer.rows; m++) {
      const f = this.#f[m]!;
      if (f === 0) continue;
      for (let i = 0; i < s; i++) v[i] = this.#w[m * this.k + inputs[i]!]!;
      solveRows(r, s, v, 1);
      for (let i = 0; i < s; i++) sum += f * v[i]! * this.#w[m * this.k + inputs[i]!]!;
    }
    return sum;
  }

  /** W −= W_c (P_cc)⁻¹ P_c,  P −= P_·c (P_cc)⁻¹ P_c (Frantar, Alistarh 2022, arXiv:2208.11580, with whole channels: Kurtic et al. 2023). */
  remove(inputs: readonly number[]): void {
    const { k } = this;
    const s = inputs.length;
    const r = this.#block(inputs);
    const p = this.#p;
    const own = inputs.map((c) => p.slice(c * k, (c + 1) * k));
    const take = (target: Float64Array, rows: number) => {
      const v = new Float64Array(s);
      for (let m = 0; m < rows; m++) {
        for (let i = 0; i < s; i++) v[i] = target[m * k + inputs[i]!]!;
        if (v.every((x) => x === 0)) continue;
        solveRows(r, s, v, 1);
        for (let i = 0; i < s; i++) {
          const f = v[i]!;
          const row = own[i]!;
          for (let j = 0; j < k; j++) target[m * k + j]! -= f * row[j]!;
        }
        for (let i = 0; i < s; i++) target[m * k + inputs[i]!] = 0;
      }
    };
    take(this.#w, this.layer.rows);
    take(p, k);
    for (const c of inputs) for (let j = 0; j < k; j++) p[c * k + j] = 0;
  }

  /** The row is not computed any more. */
  dropRow(m: number): void {
    this.#f[m] = 0;
  }

  #block(inputs: readonly number[]): Float64Array {
    const s = inputs.length;
    const r = new Float64Array(s * s);
    for (let i = 0; i < s; i++) for (let j = 0; j < s; j++) r[i * s + j] = this.#p[inputs[i]! * this.k + inputs[j]!]!;
    const floor = 1e-12 * Math.max(...inputs.map((c) => this.#p[c * this.k + c]!));
    for (let i = 0; i < s; i++) r[i * s + i]! += floor;
    if (!choleskyUpper(r, s)) throw new Error(`internal: inputs of ${this.layer.key} were taken out twice`);
    return r;
  }
}

/**
 * Channels to take out until the multiplications have fallen by the fraction: again and again those, a family's worth at a time, that cost
 * the network's output least for each multiplication saved, as estimated after the readers' least-squares repair; every statistic is updated
 * after each channel, so that of two equal channels one is free and the second is not.
 */
export function selectChannels(o: SelectInput): Selection {
  const { channels, multiple } = o;
  const readers = new Map<string, Reader>();
  const left = new Map(o.costs.map(({ layer, positions }) => [layer.key, { rows: layer.groups * layer.rows, inputs: layer.k, positions }]));
  const total = () => [...left.values()].reduce((sum, l) => sum + l.rows * l.inputs * l.positions, 0);
  for (const c of channels)
    for (const { layer } of c.reads)
      if (!readers.has(layer.key))
        readers.set(layer.key, new Reader(layer, o.grams.get(layer.key)!, o.weights.get(layer.key) ?? new Float64Array(0)));
  const families = new Map<string, { readonly all: readonly Channel[]; readonly alive: Set<Channel>; readonly batch: number }>();
  for (const c of channels) {
    const f = families.get(c.family);
    if (f) (f.all as Channel[]).push(c);
    else families.set(c.family, { all: [c], alive: new Set(), batch: 0 });
  }
  for (const [key, f] of families) families.set(key, { all: f.all, alive: new Set(f.all), batch: Math.min(multiple, f.all.length) });
  const losses = new Map<Channel, number>();
  const lossOf = (c: Channel): number => {
    let known = losses.get(c);
    if (known === undefined) {
      known = c.reads.reduce((sum, { layer, inputs }) => sum + readers.get(layer.key)!.loss(inputs), 0);
      losses.set(c, known);
    }
    return known;
  };
  const readersOf = new Map<string, Channel[]>();
  for (const c of channels) for (const { layer } of c.reads) readersOf.set(layer.key, [...(readersOf.get(layer.key) ?? []), c]);

  const take = (c: Channel) => {
    families.get(c.family)!.alive.delete(c);
    removed.add(c.id);
    const touched = new Set<string>();
    for (const { layer, inputs } of c.reads) {
      readers.get(layer.key)!.remove(inputs);
      left.get(layer.key)!.inputs -= inputs.length;
      touched.add(layer.key);
    }
    for (const { layer, row } of c.rows) {
      left.get(layer.key)!.rows--;
      readers.get(layer.key)?.dropRow(row);
      touched.add(layer.key);
    }
    for (const { layer } of c.through) left.get(layer.key)!.rows--;
    for (const key of touched) for (const other of readersOf.get(key) ?? []) losses.delete(other);
  };
  const savedBy = (list: readonly Channel[]): number => {
    const change = new Map<string, { rows: number; inputs: number }>();
    const at = (key: string) => {
      let x = change.get(key);
      if (!x) {
        x = { rows: 0, inputs: 0 };
        change.set(key, x);
      }
      return x;
    };
    for (const c of list) {
      for (const { layer, inputs } of c.reads) at(layer.key).inputs += inputs.length;
      for (const { layer } of c.rows) at(layer.key).rows++;
      for (const { layer } of c.through) at(layer.key).rows++;
    }
    let sum = 0;
    for (const [key, x] of change) {
      const l = left.get(key)!;
      sum += (l.rows * l.inputs - (l.rows - x.rows) * (l.inputs - x.inputs)) * l.positions;
    }
    return sum;
  };

  const removed = new Set<number>();
  const before = total();
  const target = before * (1 - o.fraction);
  while (total() > target) {
    o.signal?.throwIfAborted();
    let best: { readonly family: string; readonly count: number; readonly worth: number } | undefined;
    for (const [family, { alive, batch }] of families) {
      // The first batch may be smaller, so that what is left is a multiple; the last multiple stays.
      const count = alive.size % batch || batch;
      if (alive.size - count < batch) continue;
      const cheap = [...alive].sort((a, b) => lossOf(a) - lossOf(b) || a.id - b.id).slice(0, count);
      const worth = cheap.reduce((sum, c) => sum + lossOf(c), 0) / savedBy(cheap);
      if (!best || worth < best.worth) best = { family, count, worth };
    }
    if (!best) break;
    const { alive } = families.get(best.family)!;
    for (let i = 0; i < best.count; i++) {
      let least: Channel | undefined;
      for (const c of alive) if (!least || lossOf(c) < lossOf(least)) least = c;
      take(least!);
    }
  }
  return { removed, macs: { before, after: total() } };
}
