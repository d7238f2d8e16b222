import type { Node, Value } from "../graph/ir.ts";
import type { DType } from "../quant/dtype.ts";
import type { Feeds, Runtime, Tensor } from "../runtime/types.ts";
import type { Streams, Want } from "./streams.ts";

export interface PrefixOptions {
  readonly streams: Streams;
  readonly runtime: Runtime;
  /** The calibration samples, in the order in which sums are taken. */
  readonly indices: readonly number[];
  readonly load: (index: number) => Promise<Feeds>;
  /** Bytes that kept activations may take; beyond it segments are run again from further up. */
  readonly memoryBytes: number;
  readonly signal?: AbortSignal;
}

type Kept = Record<string, Tensor>;

/** Runs in flight: the next sample is prepared while the engine works. */
const AHEAD = 2;

/**
 * Walks both streams through the graph once, from cut to cut, keeping for every sample what later nodes need (the frontier). Each node runs
 * once per sample in all, however deep the network; where a frontier would not fit the memory given, it is not kept, and the next segments
 * start at the one before.
 */
export class Prefix {
  readonly #o: PrefixOptions;
  /** Where the kept frontier is; 0: the graph inputs, loaded again when `#kept` is undefined. */
  #cut = 0;
  #kept: Kept[] | undefined;
  #given: Map<string, DType>;

  constructor(o: PrefixOptions) {
    this.#o = o;
    this.#given = new Map();
    for (const v of o.streams.model.graph.inputs) {
      const elem = v.type?.kind === "tensor" ? v.type.elem : undefined;
      if (elem && !v.data) this.#given.set(o.streams.key("float", v), elem);
    }
  }

  get keptBytes(): number {
    let n = 0;
    for (const k of this.#kept ?? []) for (const t of Object.values(k)) n += bytesOf(t);
    return n;
  }

  /**
   * Runs every sample up to node `cut` and calls `each` with what `wants` gave, in sample order. `relevant`: nodes that matter from there on.
   */
  async advance(
    cut: number,
    wants: readonly Want[],
    relevant: ReadonlySet<Node>,
    each: (index: number, tensors: readonly Tensor[]) => Promise<void> | void,
  ): Promise<void> {
    const { streams, runtime, indices, load, memoryBytes, signal } = this.#o;
    const frontier = cut > this.#cut ? streams.frontier(cut, relevant) : [];
    const carried = frontier.filter((w) => this.#given.has(streams.key(w.stream, w.value)));
    const fresh = frontier.filter((w) => !carried.includes(w));
    // What is wanted as it is, and kept too, leaves the engine once; what was kept before does not leave it at all.
    const keyOf = (w: Want) => (w.at ? undefined : streams.key(w.stream, w.value));
    const asked = new Map<string, Want>();
    wants.forEach((w, i) => {
      const key = keyOf(w) ?? `at/${i}`;
      if (!this.#given.has(key)) asked.set(key, w);
    });
    for (const w of fresh) asked.set(keyOf(w)!, asked.get(keyOf(w)!) ?? w);
    const names = [...asked.keys()];
    const segment = streams.segment([...asked.values()], this.#given);
    const session = names.length > 0 ? await runtime.open(segment.bytes, { label: "segment" }) : undefined;
    const dtypes = new Map((session?.outputs ?? []).map((x) => [x.name, x.dtype]));
    const given = new Map(fresh.map((w) => [keyOf(w)!, dtypes.get(segment.outputs[names.indexOf(keyOf(w)!)]!)!] as const));
    for (const w of carried) {
      const key = streams.key(w.stream, w.value);
      given.set(key, this.#given.get(key)!);
    }
    // Kept from the first cut on; a frontier too big for the memory is dropped as soon as that is known, after its first sample.
    let keep = cut > this.#cut;
    const next: Kept[] = [];
    const feedsOf = async (n: number): Promise<Kept> => this.#kept?.[n] ?? this.#inputs(await load(indices[n]!));
    try {
      const flight: { readonly n: number; readonly feeds: Kept; readonly result: Promise<Record<string, Tensor>> }[] = [];
      const settle = async () => {
        const f = flight.shift()!;
        const out = await f.result;
        if (keep) {
          const kept: Kept = {};
          for (const w of carried) {
            const key = streams.key(w.stream, w.value);
            kept[key] = f.feeds[key]!;
          }
          for (const w of fresh) kept[keyOf(w)!] = out[segment.outputs[names.indexOf(keyOf(w)!)]!]!;
          if (f.n === 0) {
            let bytes = 0;
            for (const t of Object.values(kept)) bytes += bytesOf(t);
            keep = bytes * indices.length <= memoryBytes;
          }
          if (keep) {
            next.push(kept);
            if (this.#kept) this.#kept[f.n] = {}; // the old frontier goes as the new one comes
          }
        }
        await each(
          f.n,
          wants.map((w, i) => {
            const at = names.indexOf(keyOf(w) ?? `at/${i}`);
            return at < 0 ? f.feeds[keyOf(w)!]! : out[segment.outputs[at]!]!;
          }),
        );
      };
      for (let n = 0; n < indices.length; n++) {
        signal?.throwIfAborted();
        const all = await feedsOf(n);
        const feeds: Kept = {};
        for (const name of segment.inputs) feeds[name] = all[name]!;
        flight.push({ n, feeds: all, result: session?.run(feeds) ?? Promise.resolve({}) });
        if (flight.length > AHEAD) await settle();
      }
      while (flight.length > 0) await settle();
    } finally {
      await session?.release();
    }
    if (keep) {
      this.#kept = next;
      this.#cut = cut;
      this.#given = given;
    }
  }

  #inputs(feeds: Feeds): Kept {
    const out: Kept = {};
    for (const v of this.#o.streams.model.graph.inputs) {
      const t = feeds[v.name];
      if (t) out[this.#o.streams.key("float", v)] = t;
    }
    return out;
  }
}

function bytesOf(t: Tensor): number {
  return Array.isArray(t.data) ? 0 : t.data.byteLength;
}

/** Nodes that depend on any output of `from`, in the list order of the graph. */
export function dependants(nodes: readonly Node[], from: ReadonlySet<Node>, inputsOf: (n: Node) => readonly Value[]): Set<Node> {
  const touched = new Set<Value>();
  const out = new Set<Node>();
  for (const n of nodes) {
    if (!from.has(n) && !inputsOf(n).some((v) => touched.has(v))) continue;
    out.add(n);
    for (const o of n.outputs) if (o) touched.add(o);
  }
  return out;
}
