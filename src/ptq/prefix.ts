import type { Node, Value } from "../graph/ir.ts";
import type { Feeds, Runtime, Session, Tensor } from "../runtime/types.ts";
import { scaleKey } from "./segment.ts";
import type { Codes, Segment, Stored, Streams, Want } from "./streams.ts";
import { halves } from "./unfold.ts";

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

/** A tensor of a frontier: as it is, or float16 with a scale, or codes. */
export interface Given {
  readonly tensor: Tensor;
  /** For float16: the value is half · scale. */
  readonly scale: number | undefined;
  /** The value is (code − zero) · scale. */
  readonly codes: Codes | undefined;
}

/** Runs in flight: the next sample is prepared while the engine works. */
const AHEAD = 2;
/** A value whose largest element is more than this times the mean one stays float32: float16 holds 2^-24 … 1 and 11 bits from 2^-14 on. */
const MOST_SPREAD = 200;

/** Where a walk stops. */
interface Place {
  readonly cut: number;
  readonly relevant: ReadonlySet<Node>;
  readonly done: ReadonlySet<Node>;
}

/** One cut's session, and what its outputs are. */
interface Pass {
  readonly session: Session | undefined;
  readonly segment: Segment;
  /** Position of each key among the segment's outputs. */
  readonly at: ReadonlyMap<string, number>;
  readonly carried: readonly string[];
  readonly fresh: readonly string[];
  /** How the next frontier is stored. */
  readonly given: ReadonlyMap<string, Stored>;
  readonly keep: boolean;
}

/**
 * Walks both streams through the graph once, from cut to cut, keeping for every sample what later nodes need (the frontier). Each node runs
 * once per sample in all, however deep the network; where a frontier would not fit the memory given, it is not kept, and the next segments
 * start at the one before. Kept activations are float16 with a scale each: they serve statistics (their error is 70 dB down).
 */
export class Prefix {
  readonly #o: PrefixOptions;
  /** Where the kept frontier is; 0: the graph inputs, loaded again when `#kept` is undefined. */
  #cut = 0;
  #kept: Kept[] | undefined;
  #given: ReadonlyMap<string, Stored>;
  /** Values that float16 cannot hold. */
  readonly #wide = new Set<string>();

  constructor(o: PrefixOptions) {
    this.#o = o;
    const given = new Map<string, Stored>();
    for (const v of o.streams.model.graph.inputs) {
      const elem = v.type?.kind === "tensor" ? v.type.elem : undefined;
      if (elem && !v.data) given.set(o.streams.key("float", v), elem);
    }
    this.#given = given;
  }

  /**
   * Runs every sample up to node `cut` and calls `each` with what `wants` gave, in sample order. `relevant`: nodes that matter from there
   * on; `done`: those of them whose outputs in the float stream are wanted, so that it is past them.
   */
  async advance(
    cut: number,
    wants: readonly Want[],
    relevant: ReadonlySet<Node>,
    done: ReadonlySet<Node>,
    each: (index: number, tensors: readonly Given[]) => Promise<void> | void,
  ): Promise<void> {
    const { indices, load, memoryBytes, signal } = this.#o;
    const feedsOf = async (n: number): Promise<Kept> => this.#kept?.[n] ?? this.#inputs(await load(indices[n]!));
    const run = (pass: Pass, all: Kept): Promise<Record<string, Tensor>> => {
      const feeds: Kept = {};
      for (const name of pass.segment.inputs) feeds[name] = all[name]!;
      return pass.session?.run(feeds) ?? Promise.resolve({});
    };
    const first = await feedsOf(0);
    let pass = await this.#open({ cut, relevant, done }, wants, cut > this.#cut);
    try {
      // The first sample tells what float16 cannot hold, and whether all samples would fit.
      let out = await run(pass, first);
      for (;;) {
        const wide = pass.fresh.filter((key) => this.#spread(pass, key, out) > MOST_SPREAD);
        let bytes = 0;
        if (pass.keep) for (const t of Object.values(this.#next(pass, first, out))) bytes += bytesOf(t);
        const fits = bytes * indices.length <= memoryBytes;
        if (wide.length === 0 && fits) break;
        for (const key of wide) this.#wide.add(key);
        await pass.session?.release();
        pass = await this.#open({ cut, relevant, done }, wants, pass.keep && fits);
        out = await run(pass, first);
      }
      const flight = [{ n: 0, feeds: first, result: Promise.resolve(out) }];
      const next: Kept[] = [];
      const settle = async () => {
        const f = flight.shift()!;
        const got = await f.result;
        if (pass.keep) {
          next.push(this.#next(pass, f.feeds, got));
          if (this.#kept) this.#kept[f.n] = {}; // the old frontier goes as the new one comes
        }
        await each(
          f.n,
          wants.map((w, i) => this.#read(pass, this.#keyOf(w, i), f.feeds, got)),
        );
      };
      for (let n = 1; n < indices.length; n++) {
        signal?.throwIfAborted();
        const feeds = await feedsOf(n);
        flight.push({ n, feeds, result: run(pass, feeds) });
        if (flight.length > AHEAD) await settle();
      }
      while (flight.length > 0) await settle();
      if (pass.keep) {
        this.#kept = next;
        this.#cut = cut;
        this.#given = pass.given;
      }
    } finally {
      await pass.session?.release();
    }
  }

  #keyOf(w: Want, i: number): string {
    return w.at ? `at/${i}` : this.#o.streams.key(w.stream, w.value);
  }

  /** What is wanted as it is, and kept too, leaves the engine once; what was kept before does not leave it at all. */
  async #open({ cut, relevant, done }: Place, wants: readonly Want[], keep: boolean): Promise<Pass> {
    const { streams, runtime } = this.#o;
    const asked = new Map<string, Want>();
    wants.forEach((w, i) => {
      const key = this.#keyOf(w, i);
      if (!this.#given.has(key)) asked.set(key, w);
    });
    const frontier = keep ? streams.frontier(cut, relevant, done).map((w) => [streams.key(w.stream, w.value), w] as const) : [];
    const carried = frontier.filter(([key]) => this.#given.has(key)).map(([key]) => key);
    const fresh = frontier.filter(([key]) => !this.#given.has(key));
    for (const [key, w] of fresh) if (!asked.has(key)) asked.set(key, w);
    const packed = new Map<Want, "packed" | Codes>();
    for (const [key, w] of fresh) {
      if (!streams.isFloat32(w.value)) continue;
      const how = w.stream === "quant" ? streams.codesOf(w.value, cut, relevant) : undefined;
      if (how) packed.set(asked.get(key)!, how);
      else if (!this.#wide.has(key)) packed.set(asked.get(key)!, "packed");
    }
    const segment = streams.segment([...asked.values()], this.#given, packed);
    const session = asked.size > 0 ? await runtime.open(segment.bytes, { label: "segment" }) : undefined;
    const at = new Map([...asked.keys()].map((key, i) => [key, i]));
    const dtypes = new Map((session?.outputs ?? []).map((x) => [x.name, x.dtype]));
    const given = new Map<string, Stored>();
    for (const key of carried) given.set(key, this.#given.get(key)!);
    for (const [key] of fresh) {
      const o = segment.outputs[at.get(key)!]!;
      given.set(key, packed.get(asked.get(key)!) ?? dtypes.get(o.name)!);
    }
    return { session, segment, at, carried, fresh: fresh.map(([key]) => key), given, keep };
  }

  /** Of a packed value: its largest magnitude over the mean one. */
  #spread(pass: Pass, key: string, out: Kept): number {
    const o = pass.segment.outputs[pass.at.get(key)!]!;
    if (!o.scale) return 0;
    const half = out[o.name]!.data as Uint16Array;
    const table = halves();
    let sum = 0;
    for (let i = 0; i < half.length; i++) sum += Math.abs(table[half[i]!]!);
    return sum > 0 ? half.length / sum : 0;
  }

  /** The frontier of one sample. */
  #next(pass: Pass, feeds: Kept, out: Kept): Kept {
    const kept: Kept = {};
    const take = (key: string) => {
      if (feeds[key]) kept[key] = feeds[key];
    };
    for (const key of pass.carried) {
      take(key);
      take(scaleKey(key));
    }
    for (const key of pass.fresh) {
      const o = pass.segment.outputs[pass.at.get(key)!]!;
      kept[key] = out[o.name]!;
      if (o.scale) kept[scaleKey(key)] = out[o.scale]!;
    }
    return kept;
  }

  #read(pass: Pass, key: string, feeds: Kept, out: Kept): Given {
    const at = pass.at.get(key);
    const o = at === undefined ? undefined : pass.segment.outputs[at]!;
    const tensor = o ? out[o.name]! : feeds[key]!;
    const scale = o ? o.scale && out[o.scale] : feeds[scaleKey(key)];
    const how = (o ? pass.given : this.#given).get(key);
    return { tensor, scale: scale ? Number(scale.data[0]) : undefined, codes: typeof how === "object" ? how : undefined };
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
