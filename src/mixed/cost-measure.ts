import { lower } from "../export/lower/index.ts";
import { shapesFrom } from "../graph/cost.ts";
import type { Model } from "../graph/ir.ts";
import { readModel, writeModel } from "../graph/onnx/index.ts";
import type { ValueType } from "../graph/types.ts";
import { nodesByPath } from "../graph/walk.ts";
import { isCodes, type LayerScheme, parseScheme } from "../plan/schemes.ts";
import type { Target } from "../plan/target.ts";
import { uniformAt } from "../ptq/random.ts";
import { elementCount } from "../quant/dtype.ts";
import type { Feeds, OptLevel, Runtime, Session } from "../runtime/types.ts";
import type { Builder, Choice } from "./build.ts";
import { type Fitted, fitCosts, type Observed, readersOfCodes } from "./cost-fit.ts";
import { attribute, undisturbed } from "./cost-kernels.ts";
import type { CostTable } from "./cost-table.ts";
import { Knapsack } from "./knapsack.ts";
import { bestQuantized } from "./lab.ts";
import { Latency } from "./latency.ts";

export interface MeasureOptions {
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly builder: Builder;
  readonly target: Target;
  /** The float model as it was given. */
  readonly source: string | Uint8Array;
  /** With one worker: all sessions share a thread, so that what disturbs one disturbs all. */
  readonly runtime: Runtime;
  readonly feeds: readonly Feeds[];
  readonly level: OptLevel;
  readonly threads: number;
  /** Runs of every graph that count. */
  readonly runs: number;
  readonly seed: number;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Runs before the first that counts: memory planning and caches. */
const WARM_UP = 3;
/** Runs of one graph before the next has its turn. */
const TURN = 4;
/** Graphs of which some layers are codes and some float: what conversions between them take. Every edge should be met both ways. */
const MIXTURES = 12;

/** Rounds of looking for a faster placement, and graphs of each: the one that is fastest by the table so far, and changes of the best. */
const SEARCH = { rounds: 4, tried: 5 } as const;

interface Case {
  readonly graph: string;
  /** undefined: the prepared float graph. */
  readonly choice: Choice | undefined;
  readonly mixture: boolean;
}

const FLOAT = parseScheme("float")!;

/**
 * Every node in every scheme, measured in whole graphs: float, one for each scheme, and mixtures; all in turn, each with and without recording.
 * Then placements are searched for that are faster as a whole: the table adds up to a few percent, and what lies within these is measured.
 */
export async function measureCosts(o: MeasureOptions): Promise<Fitted & Pick<CostTable, "floatUs" | "fastest">> {
  const cases = casesOf(o);
  const mixed = cases.some((c) => c.mixture);
  const rounds = 1 + (mixed ? SEARCH.rounds : 0);
  const progress = (round: number) => (part: number) => o.progress?.(Math.round(100 * (round + part)), 100 * rounds);
  const first = await observe(o, cases, progress(0));
  const observed = [...first.observed];
  const sizes = sizesOf(o.model, o.types);
  let fitted = fitCosts(o.model, observed, sizes);
  const floatUs = first.sourceUs;
  if (!mixed) return { ...fitted, floatUs };
  const knapsack = await Knapsack.load();
  const most = o.builder.choiceOf(bestQuantized);
  const joins = readersOfCodes(o.model, o.builder.plan(most));
  const head = { schema: "qc.costs/1", tool: "", model: { structure: "", weights: "" }, prepare: "", target: "" } as const;
  const source = { kind: "tensorrt", profiles: [] } as const;
  for (let round = 1; round <= SEARCH.rounds; round++) {
    const table: CostTable = { ...head, source, floatUs, ...fitted };
    const latency = new Latency({ costs: { table, sha256: "", file: "" }, model: o.model, units: o.builder.units, joins });
    const best = fastestOf(observed, o.builder, joins);
    const wanted = [new Set(latency.fastest(knapsack).floats.keys())];
    for (let i = 1; i < SEARCH.tried; i++) wanted.push(changed(best.floats, wanted[0]!, [...joins], o.seed, round * SEARCH.tried + i));
    const fresh = wanted.map(
      (floats, i): Case => ({ graph: `placement ${round}.${i + 1}`, choice: placed(o.builder, most, floats), mixture: true }),
    );
    const found = await observe(o, [{ graph: "float", choice: undefined, mixture: false }, ...fresh], progress(round));
    // The machine may be faster or slower by now.
    const drift = first.observed[0]!.wallUs / found.observed[0]!.wallUs;
    for (const g of found.observed.slice(1)) observed.push({ ...g, wallUs: g.wallUs * drift });
    fitted = fitCosts(o.model, observed, sizes);
  }
  const best = fastestOf(observed, o.builder, joins);
  return { ...fitted, floatUs, fastest: { floats: [...best.floats].sort(), us: Math.round(best.us * 1e3) / 1e3 } };
}

/** The fastest graph so far with units in their best scheme or float, as nodes that could be codes and are float. */
function fastestOf(
  observed: readonly Observed[],
  builder: Builder,
  joins: ReadonlySet<string>,
): { readonly floats: ReadonlySet<string>; readonly us: number } {
  const best = new Map(builder.units.flatMap((u) => u.nodes.map((n) => [n, bestQuantized(u).scheme.name] as const)));
  const plain = observed.filter((g) => [...g.schemes].every(([n, s]) => s === "float" || s === best.get(n)));
  const least = plain.reduce((a, b) => (b.wallUs < a.wallUs ? b : a));
  return { floats: new Set([...joins].filter((n) => !least.codes.has(n))), us: least.wallUs };
}

/** A stretch of nodes taken over from another placement, or all float, or all codes. */
function changed(from: ReadonlySet<string>, other: ReadonlySet<string>, nodes: readonly string[], seed: number, draw: number): Set<string> {
  const at = Math.floor(uniformAt(seed, draw, 1) * nodes.length);
  const length = 1 + Math.floor(uniformAt(seed, draw, 2) ** 2 * nodes.length * 0.5);
  const way = uniformAt(seed, draw, 3);
  const out = new Set(from);
  for (const n of nodes.slice(at, at + length)) {
    if (way < 1 / 3 ? other.has(n) : way < 2 / 3) out.add(n);
    else out.delete(n);
  }
  return out;
}

function placed(builder: Builder, most: Choice, floats: ReadonlySet<string>): Choice {
  const out = new Map<string, LayerScheme>(most);
  const units = new Set(builder.units.flatMap((u) => u.nodes));
  for (const u of builder.units) if (u.nodes.some((n) => floats.has(n)) && u.options.some((x) => !x.scheme.weight)) out.set(u.key, FLOAT);
  for (const n of floats) if (!units.has(n)) out.set(n, FLOAT);
  return out;
}

/** Graphs in turn: their kernels, and how long a run takes without recording. */
async function observe(
  o: MeasureOptions,
  cases: readonly Case[],
  progress: (part: number) => void,
): Promise<{ readonly observed: readonly Observed[]; readonly sourceUs: number }> {
  const opened: {
    readonly c: Case;
    readonly lowered: Model;
    readonly plain: Session;
    readonly recorded: Session;
    readonly us: number[];
  }[] = [];
  const options = { level: o.level, threads: o.threads };
  const source = await o.runtime.open(o.source, { ...options, label: "float model" });
  const sourceUs: number[] = [];
  try {
    for (const c of cases) {
      o.signal?.throwIfAborted();
      const lowered = c.choice ? lower(o.model, o.builder.plan(c.choice), o.target) : o.model;
      const bytes = writeModel(lowered);
      opened.push({
        c,
        lowered,
        plain: await o.runtime.open(bytes, { ...options, label: c.graph }),
        recorded: await o.runtime.open(bytes, { ...options, profile: true, keepGraph: true, label: c.graph }),
        us: [],
      });
    }
    const first = o.feeds[0]!;
    for (const s of [source, ...opened.flatMap((x) => [x.plain, x.recorded])]) await s.time(first, WARM_UP);
    const turns = Math.ceil(o.runs / TURN);
    for (let t = 0; t < turns; t++) {
      o.signal?.throwIfAborted();
      const feeds = o.feeds[t % o.feeds.length]!;
      sourceUs.push(...(await source.time(feeds, TURN)).map((ms) => 1000 * ms));
      for (let k = 0; k < opened.length; k++) {
        // Who goes first moves on: the others find warmer or fuller caches.
        const x = opened[(k + t) % opened.length]!;
        x.us.push(...(await x.plain.time(feeds, TURN)).map((ms) => 1000 * ms));
        await x.recorded.time(feeds, TURN);
      }
      progress((t + 1) / turns);
    }
    const observed: Observed[] = [];
    for (const x of opened) {
      const optimized = readModel(await x.recorded.optimized(), { label: x.c.graph });
      const times = await x.recorded.profile();
      observed.push({
        graph: x.c.graph,
        codes: x.c.choice ? readersOfCodes(o.model, o.builder.plan(x.c.choice)) : new Set(),
        schemes: schemesOf(o.builder, x.c.choice),
        kernels: attribute({ prepared: o.model, lowered: x.lowered, optimized, times, skip: WARM_UP }),
        wallUs: undisturbed(x.us),
        mixture: x.c.mixture,
      });
    }
    return { observed, sourceUs: Math.round(undisturbed(sourceUs) * 1e3) / 1e3 };
  } finally {
    await Promise.allSettled([source, ...opened.flatMap((x) => [x.plain, x.recorded])].map((s) => s.release()));
  }
}

function casesOf(o: MeasureOptions): Case[] {
  const { builder } = o;
  const { units } = builder;
  const names = [...new Set(units.flatMap((u) => u.options.filter((x) => x.scheme.weight).map((x) => x.scheme.name)))];
  const cases: Case[] = [{ graph: "float", choice: undefined, mixture: false }];
  for (const name of names)
    cases.push({
      graph: name,
      choice: builder.choiceOf((u) => u.options.find((x) => x.scheme.name === name) ?? bestQuantized(u)),
      mixture: false,
    });
  // Without activations as codes there are no conversions, and a layer costs what it costs alone.
  const float = units.flatMap((u) => u.options.find((x) => !x.scheme.weight)?.scheme ?? [])[0];
  const joins = units.some((u) => u.options.some((x) => isCodes(x.scheme)));
  if (!float || !joins) return cases;
  for (let m = 0; m < MIXTURES; m++) {
    // Half of them by single layers, half by stretches of about five.
    const flip = m % 2 === 0 ? 0.5 : 0.2;
    let codes = uniformAt(o.seed, m, 0) < 0.5;
    const choice = new Map<string, LayerScheme>();
    units.forEach((u, i) => {
      if (uniformAt(o.seed, m, i + 1) < flip) codes = !codes;
      const best = bestQuantized(u).scheme;
      const own = u.options.find((x) => !x.scheme.weight)?.scheme;
      choice.set(u.key, codes ? best : (own ?? best));
    });
    cases.push({ graph: `mixture ${m + 1}`, choice, mixture: true });
  }
  return cases;
}

function schemesOf(builder: Builder, choice: Choice | undefined): ReadonlyMap<string, string> {
  return new Map(builder.units.flatMap((u) => u.nodes.map((n) => [n, choice ? (choice.get(u.key)?.name ?? "float") : "float"] as const)));
}

/** Elements of what a maker writes. */
export function sizesOf(model: Model, types: ReadonlyMap<string, ValueType>): (maker: string) => number | undefined {
  const shapes = shapesFrom(types);
  const nodes = nodesByPath(model);
  return (maker) => {
    const v = maker.startsWith("input ") ? model.graph.values.get(maker.slice(6)) : nodes.get(maker)?.outputs[0];
    const shape = v && shapes.of(v)?.shape;
    return shape && elementCount(shape);
  };
}
