import type { DataSet } from "../data/types.ts";
import type { Model, Node, Value } from "../graph/ir.ts";
import { opFacts } from "../graph/ops/index.ts";
import { floats, type TensorData } from "../graph/tensor.ts";
import type { ValueType } from "../graph/types.ts";
import { holderOf, nodesByPath, valuesByPath } from "../graph/walk.ts";
import type { PlanBundle } from "../plan/types.ts";
import { judgedValues } from "../ptq/judge.ts";
import { layersOf } from "../ptq/layers.ts";
import { LAMBDA, type Solved, solveLayer, solveSequentially } from "../ptq/sequential.ts";
import { weightTensor } from "../ptq/sites.ts";
import { SOLVE_DEFAULT } from "../ptq/solve/rows.ts";
import { Streams } from "../ptq/streams.ts";
import { POSITIONS, roundLayer } from "../ptq/weightonly/round.ts";
import type { Feeds, Runtime, Tensor } from "../runtime/types.ts";
import type { Builder, Choice, Unit, UnitOption } from "./build.ts";
import { type LossName, LossSum } from "./loss.ts";

export interface LabOptions {
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly builder: Builder;
  readonly data: DataSet;
  readonly runtime: Runtime;
  /** Samples that codes are solved from, and samples that losses are measured on. */
  readonly calibrate: readonly number[];
  readonly judge: readonly number[];
  readonly loss: LossName;
  readonly seed: number;
  readonly memoryBytes: number;
  /** Activations stay float: weights are rounded as `roundWeights` does, behind the rounded prefix alone. */
  readonly weightsOnly?: boolean;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** The loss of the network with one unit changed. */
export interface Sensitivity {
  readonly unit: string;
  readonly op: string;
  readonly scheme: string;
  readonly bytes: number;
  readonly weights: number;
  /** The loss, and how much of it this one change makes; below 0 where the scheme is better than the start's. */
  readonly loss: number;
  readonly added: number;
}

/** A weight as the quantized network reads it, and the bias that goes with it. */
interface Content {
  readonly value: Value;
  readonly data: TensorData;
  readonly bias: { readonly value: Value; readonly data: TensorData } | undefined;
}

/**
 * The quantized network with any unit in any scheme of the ladder, codes solved: at each layer the statistics of one walk (behind a prefix
 * in each unit's best quantized scheme, itself solved) serve all of its schemes. Losses of round-to-nearest codes rank layers wrongly: solving
 * takes a factor of ten off some and nothing off others.
 */
export class Lab {
  readonly #o: LabOptions;
  readonly #base: PlanBundle;
  /** Best quantized scheme of each unit. */
  readonly start: Choice;
  /** Unit key → scheme name → contents. */
  readonly #contents = new Map<string, Map<string, readonly Content[]>>();
  readonly #outs: readonly Value[];
  #feeds: readonly Feeds[] = [];
  #float: readonly (readonly Tensor[])[] = [];
  /** Runs of (parts of) the network on one sample, in whole networks. */
  passes = 0;

  private constructor(o: LabOptions) {
    this.#o = o;
    this.start = o.builder.choiceOf(bestQuantized);
    this.#base = o.builder.plan(this.start);
    this.#outs = judgedValues(o.model);
  }

  static async open(o: LabOptions): Promise<Lab> {
    const lab = new Lab(o);
    await lab.#solve();
    const feeds: Feeds[] = [];
    for (const i of o.judge) feeds.push((await o.data.sample(i)).feeds);
    lab.#feeds = feeds;
    lab.#float = await lab.#run(
      lab.#streams(lab.start),
      "float",
      0,
      feeds.map((f) => lab.#inputs(f)),
    );
    return lab;
  }

  get samples(): number {
    return this.#feeds.length;
  }

  async #solve(): Promise<void> {
    const { model, builder, runtime, data, types, calibrate } = this.#o;
    const values = valuesByPath(model);
    const schemes = [...new Set(builder.units.flatMap((u) => u.options.filter((x) => x.scheme.weight).map((x) => x.scheme.name)))];
    const unitOf = new Map(builder.units.flatMap((u) => u.options.flatMap((x) => x.values.map((v) => [v, u] as const))));
    const variants = schemes.map((name) => {
      const plan = builder.plan(builder.choiceOf((u) => u.options.find((x) => x.scheme.name === name) ?? bestQuantized(u)));
      return { name, plan, layers: new Map(layersOf(model, plan).map((l) => [l.site.value, l])) };
    });
    const options = { lambda: LAMBDA, asymmetric: true, correctBias: true, effort: SOLVE_DEFAULT };
    const solved = new Map<string, Map<string, Solved>>(schemes.map((s) => [s, new Map()]));
    const layers = layersOf(model, this.#base);
    const { weightsOnly = false } = this.#o;
    await solveSequentially({
      streams: new Streams(model, this.#base, types, weightsOnly),
      ...(weightsOnly && { positions: () => POSITIONS }),
      runtime,
      layers,
      indices: calibrate,
      load: async (i) => (await data.sample(i)).feeds,
      memoryBytes: this.#o.memoryBytes,
      seed: this.#o.seed,
      solve: async (layer, grams, halves) => {
        const { value } = layer.site;
        const own = this.start.get(unitOf.get(value)?.key ?? "")?.name;
        let result: Solved | undefined;
        for (const v of variants) {
          const l = v.layers.get(value);
          const legal = unitOf.get(value)?.options.some((x) => x.scheme.name === v.name);
          if (!l || !legal) continue;
          const s = weightsOnly ? roundLayer(l, grams) : await solveLayer(l, grams, halves, options);
          solved.get(v.name)!.set(value, s);
          if (v.name === own) result = s;
        }
        return result ?? (weightsOnly ? roundLayer(layer, grams) : await solveLayer(layer, grams, halves, options));
      },
      ...(this.#o.progress && { progress: this.#o.progress }),
      ...(this.#o.signal && { signal: this.#o.signal }),
    });
    for (const u of builder.units) {
      const of = new Map<string, readonly Content[]>();
      this.#contents.set(u.key, of);
      for (const x of u.options) {
        if (!x.scheme.weight) continue;
        const { plan } = variants.find((v) => v.name === x.scheme.name)!;
        of.set(
          x.scheme.name,
          x.values.map((path): Content => {
            const value = values.get(path)!;
            const s = solved.get(x.scheme.name)!.get(path);
            const site = plan.plan.sites.find((p) => p.kind === "weight" && p.value === path);
            const bias =
              s?.bias && s.layer.bias ? { value: s.layer.bias.value, data: floats(s.bias, s.layer.bias.value.data!.shape) } : undefined;
            if (s) return { value, data: floats(s.weight, s.layer.weight.constant.shape), bias };
            if (site?.kind !== "weight") throw new Error(`internal: no weight site at ${path}`);
            return { value, data: weightTensor(site, value, plan), bias: undefined };
          }),
        );
      }
    }
  }

  /** The streams of a choice. */
  #streams(choice: Choice): Streams {
    const { builder, model, types } = this.#o;
    const streams = new Streams(model, this.#base, types);
    const nodes = nodesByPath(model);
    for (const u of builder.units) {
      const scheme = choice.get(u.key)!;
      const contents = this.#contents.get(u.key)!.get(scheme.name);
      if (contents) {
        for (const c of contents) {
          streams.setWeight(c.value, c.data);
          if (c.bias) streams.setConstant(c.bias.value, c.bias.data);
        }
        // 16 bits are as good as float where 8 are the rule.
        if (scheme.activationBits === 16) this.#leaveInputs(streams, u, nodes);
        continue;
      }
      for (const path of u.nodes) {
        const node = nodes.get(path)!;
        for (const i of opFacts(node)?.data ?? []) streams.leaveFloat(node, i);
        for (const w of opFacts(node)?.weights ?? []) streams.leaveFloat(node, w.input);
      }
    }
    return streams;
  }

  #leaveInputs(streams: Streams, u: Unit, nodes: ReadonlyMap<string, Node>): void {
    for (const path of u.nodes) {
      const node = nodes.get(path)!;
      for (const i of opFacts(node)?.data ?? []) streams.leaveFloat(node, i);
    }
  }

  /** The loss of a choice, the whole network run. */
  async evaluate(choice: Choice): Promise<number> {
    return this.#lossOf(
      await this.#run(
        this.#streams(choice),
        "quant",
        0,
        this.#feeds.map((f) => this.#inputs(f)),
      ),
    );
  }

  /** Every unit in every scheme, alone: only what lies behind the unit is run, from activations kept in front of it. */
  async sensitivities(
    report?: (done: number, total: number) => void,
  ): Promise<{ readonly start: number; readonly rows: readonly Sensitivity[] }> {
    const { signal } = this.#o;
    const start = await this.evaluate(this.start);
    const { position, units } = this.#inOrder();
    const rows: Sensitivity[] = [];
    const base = this.#streams(this.start);
    const relevant = base.ancestors(this.#outs);
    let kept: readonly Kept[] = this.#feeds.map((f) => this.#inputs(f));
    for (const [k, u] of units.entries()) {
      signal?.throwIfAborted();
      const cut = position.get(u.key)!;
      kept = await this.#advance(base, kept, cut, relevant);
      for (const x of u.options) {
        const own = this.start.get(u.key)!.name === x.scheme.name;
        const loss = own
          ? start
          : this.#lossOf(await this.#run(this.#streams(new Map([...this.start, [u.key, x.scheme]])), "quant", cut, kept));
        rows.push({ unit: u.key, op: u.op, scheme: x.scheme.name, bytes: x.bytes, weights: u.weights, loss, added: loss - start });
      }
      report?.(k + 1, units.length);
    }
    return { start, rows };
  }

  #inOrder(): { readonly position: ReadonlyMap<string, number>; readonly units: readonly Unit[] } {
    const { builder, model } = this.#o;
    const nodes = nodesByPath(model);
    const order = new Map<Node, number>(model.graph.nodes.map((n, i) => [n, i]));
    const position = new Map(builder.units.map((u) => [u.key, Math.min(...u.nodes.map((n) => topLevel(nodes.get(n)!, order)))]));
    return { position, units: [...builder.units].sort((a, b) => position.get(a.key)! - position.get(b.key)!) };
  }

  /** Outputs of the float network on the first samples, and what they were fed. */
  get floatRuns(): readonly { readonly feeds: Feeds; readonly outputs: readonly Tensor[] }[] {
    return this.#feeds.map((feeds, i) => ({ feeds, outputs: this.#float[i]! }));
  }

  /**
   * By how much each unit's own output changes in each other quantized scheme, for the first `n` samples: the unit alone is run, on its input
   * in the starting network. Units with several nodes, and nodes inside subgraphs, are left out.
   */
  async eachChange(n: number, visit: (unit: Unit, scheme: string, value: Value, deltas: readonly Float32Array[]) => void): Promise<void> {
    const { position, units } = this.#inOrder();
    const base = this.#streams(this.start);
    const relevant = base.ancestors(this.#outs);
    const nodes = nodesByPath(this.#o.model);
    let kept: readonly Kept[] = this.#feeds.slice(0, n).map((f) => this.#inputs(f));
    for (const u of units) {
      const value = u.nodes.length === 1 ? nodes.get(u.nodes[0]!)!.outputs[0] : undefined;
      if (!value || value.graph !== this.#o.model.graph) continue;
      kept = await this.#advance(base, kept, position.get(u.key)!, relevant);
      const before = await this.#valueOf(base, value, kept);
      for (const x of u.options) {
        if (!x.scheme.weight || x.scheme.name === this.start.get(u.key)!.name) continue;
        const after = await this.#valueOf(this.#streams(new Map([...this.start, [u.key, x.scheme]])), value, kept);
        visit(
          u,
          x.scheme.name,
          value,
          after.map((a, i) => a.map((y, j) => y - before[i]![j]!)),
        );
      }
    }
  }

  async #valueOf(streams: Streams, value: Value, kept: readonly Kept[]): Promise<Float32Array[]> {
    const given = new Map(Object.entries(kept[0] ?? {}).map(([key, t]) => [key, t.dtype]));
    const segment = streams.segment([{ stream: "quant", value }], given);
    const session = await this.#o.runtime.open(segment.bytes, { label: "sensitivity" });
    try {
      const out = await Promise.all(kept.map((all) => session.run(pick(all, segment.inputs))));
      return out.map((got) => got[segment.outputs[0]!.name]!.data as Float32Array);
    } finally {
      await session.release();
    }
  }

  #lossOf(quant: readonly (readonly Tensor[])[]): number {
    const sum = new LossSum(this.#o.loss, this.#outs.length);
    for (const [i, q] of quant.entries()) sum.add(this.#float[i]!, q);
    return sum.value;
  }

  /** Graph inputs are equal in both networks. */
  #inputs(feeds: Feeds): Kept {
    return Object.fromEntries(Object.entries(feeds).map(([name, t]) => [`f/${name}`, t]));
  }

  /** From kept activations to the outputs. */
  async #run(streams: Streams, stream: "float" | "quant", cut: number, kept: readonly Kept[]): Promise<(readonly Tensor[])[]> {
    const segment = streams.segment(
      this.#outs.map((value) => ({ stream, value })),
      new Map(Object.entries(kept[0] ?? {}).map(([key, t]) => [key, t.dtype])),
    );
    const session = await this.#o.runtime.open(segment.bytes, { label: "sensitivity" });
    try {
      const out = await Promise.all(kept.map((all) => session.run(pick(all, segment.inputs))));
      this.passes += kept.length * (1 - cut / Math.max(1, streams.model.graph.nodes.length));
      return out.map((got) => segment.outputs.map((x) => got[x.name]!));
    } finally {
      await session.release();
    }
  }

  /** What nodes from `cut` on read of the quantized network. */
  async #advance(streams: Streams, kept: readonly Kept[], cut: number, relevant: ReadonlySet<Node>): Promise<readonly Kept[]> {
    // Values that are equal in both networks are there once, as the float network's.
    const wants = streams.frontier(cut, relevant).filter((w) => streams.key(w.stream, w.value) === streams.key("quant", w.value));
    const keys = wants.map((w) => streams.key("quant", w.value));
    const fresh = wants.filter((_, i) => !(keys[i]! in (kept[0] ?? {})));
    if (fresh.length === 0) return kept.map((all) => pick(all, keys));
    const segment = streams.segment(fresh, new Map(Object.entries(kept[0] ?? {}).map(([key, t]) => [key, t.dtype])));
    const session = await this.#o.runtime.open(segment.bytes, { label: "sensitivity" });
    try {
      return await Promise.all(
        kept.map(async (all) => {
          const got = await session.run(pick(all, segment.inputs));
          const next = { ...all };
          fresh.forEach((w, i) => {
            next[streams.key("quant", w.value)] = got[segment.outputs[i]!.name]!;
          });
          return pick(next, keys);
        }),
      );
    } finally {
      await session.release();
    }
  }
}

type Kept = Record<string, Tensor>;
const pick = (from: Kept, keys: readonly string[]): Kept => Object.fromEntries(keys.map((k) => [k, from[k]!]));

/** The best scheme that is not float; float where there is no other. */
export function bestQuantized(u: Unit): UnitOption {
  return u.options.findLast((x) => x.scheme.weight) ?? u.options[0]!;
}

/** Position of a node of the main graph, or of the one that holds it. */
function topLevel(n: Node, order: ReadonlyMap<Node, number>): number {
  let at: Node | undefined = n;
  while (at && !order.has(at)) at = holderOf(at.graph)?.node;
  return at ? order.get(at)! : 0;
}
