import type { Stats } from "../calibrate/types.ts";
import type { DataSet } from "../data/types.ts";
import type { Report } from "../diagnostics.ts";
import { lower } from "../export/lower/index.ts";
import type { Model } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import type { ValueType } from "../graph/types.ts";
import type { LayerScheme } from "../plan/schemes.ts";
import type { Target } from "../plan/target.ts";
import type { PlanBundle, StepRecord } from "../plan/types.ts";
import { type ImproveEffort, improvePlan, type StepName, samplesOf } from "../ptq/improve.ts";
import { Judge } from "../ptq/judge.ts";
import type { Runtime, SessionOptions } from "../runtime/types.ts";
import type { Builder, Choice, Unit } from "./build.ts";
import { type Item, Knapsack, lossOf } from "./knapsack.ts";
import { bestQuantized, Lab, type Sensitivity } from "./lab.ts";
import type { Limits } from "./limits.ts";
import type { LossName } from "./loss.ts";
import { Meter } from "./meter.ts";
import { rankCorrelation } from "./rank.ts";

export interface SearchContext {
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly builder: Builder;
  readonly stats?: Stats;
  readonly data: DataSet;
  readonly calibrate: readonly number[];
  readonly runtime: Runtime;
  readonly target: Target;
  readonly effort: ImproveEffort;
  readonly seed: number;
  readonly session: SessionOptions;
  readonly loss?: LossName;
  readonly report: Report;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** A plan on the frontier: its codes solved, measured as it would be shipped. */
export interface Point {
  readonly choice: Readonly<Record<string, string>>;
  /** Weights in the file: codes, scales, zero points. */
  readonly weightBytes: number;
  readonly fileBytes: number;
  readonly bits: number;
  /** Noise ÷ signal that the sum of single changes predicts, and what was measured. */
  /** NaN until sensitivities are known. */
  predicted: number;
  readonly measured: number;
  readonly db: number;
  readonly drop?: { readonly pt: number; readonly percent: number };
  readonly bundle: PlanBundle;
}

/** The loss of the start and what each unit's scheme adds to it. */
function predictedLoss(
  s: { readonly start: number; readonly rows: readonly Sensitivity[] },
  choice: Readonly<Record<string, string>>,
): number {
  return s.rows.reduce((sum, r) => (choice[r.unit] === r.scheme ? sum + r.added : sum), s.start);
}

export interface Pareto {
  readonly points: readonly Point[];
  readonly baselines: readonly { readonly name: string; readonly point: Point }[];
  readonly correlation: number | undefined;
  readonly passes: number;
}

/** Samples that losses of single changes are measured on, at most and at least, and network runs that all of them may take. */
const SAMPLES = { most: 64, least: 8, runs: 6000 } as const;
/** Kept activations. */
const MEMORY = 64 * 2 ** 20;
/** Byte budgets that the frontier is cut at. */
const CUTS = 24;
/** Exchanges that are measured after the integer program, and rounds of them. */
const SWAPS = { tried: 12, rounds: 4 } as const;
/** Of a probe: the rounding alone. */
const PROBE: readonly StepName[] = ["rounding", "rounding-symmetric"];

/**
 * Schemes by layer under a budget.
 *
 * Predicted loss of a choice c: L₀ + Σ_u (L(u → c_u) − L₀), with L₀ the loss of the network in its best quantized schemes and L(u → s) that
 * of unit u alone in scheme s, codes solved (`Lab`). The sum is minimized exactly under the byte limits (multiple-choice knapsack), the
 * result improved by exchanges that are measured, its codes solved again behind the prefix that it really has, and measured as it would be
 * shipped. A limit on the metric is met by the smallest plan of the frontier that keeps it on the deciding samples, found by bisection.
 */
export class Search {
  readonly #ctx: SearchContext;
  readonly #judge: Judge;
  readonly #meter: Meter | undefined;
  readonly #samples: { readonly calibrate: readonly number[]; readonly select: readonly number[] };
  #lab: Lab | undefined;
  #sens: { readonly start: number; readonly rows: readonly Sensitivity[] } | undefined;
  #knapsack: Knapsack | undefined;
  #overhead: number | undefined;
  /** Points whose codes were solved and that were measured. */
  readonly points: Point[] = [];

  constructor(ctx: SearchContext) {
    this.#ctx = ctx;
    this.#samples = samplesOf(ctx);
    const { model, target, runtime, data, session, signal } = ctx;
    const common = { model, target, runtime, data, session, ...(signal && { signal }) };
    this.#judge = new Judge({ ...common, indices: this.#samples.select });
    // Labels took no part in calibration: without select samples all calibrate samples tell what the metric loses.
    const indices = data.roles.select.length > 0 ? data.roles.select : data.roles.calibrate;
    this.#meter = data.metric && new Meter({ ...common, metric: data.metric, indices });
  }

  async close(): Promise<void> {
    await this.#judge.close();
  }

  get units(): readonly Unit[] {
    return this.#ctx.builder.units;
  }
  get passes(): number {
    return this.#lab?.passes ?? 0;
  }

  async lab(): Promise<Lab> {
    if (this.#lab) return this.#lab;
    const { model, types, builder, data, runtime, seed, signal, progress } = this.#ctx;
    const variants = builder.units.reduce((n, u) => n + u.options.length - 1, 0);
    const n = Math.max(SAMPLES.least, Math.min(SAMPLES.most, Math.floor(SAMPLES.runs / Math.max(1, variants))));
    this.#lab = await Lab.open({
      model,
      types,
      builder,
      data,
      runtime,
      calibrate: this.#samples.calibrate,
      judge: this.#samples.select.slice(0, n),
      loss: this.#ctx.loss ?? "nmse",
      seed,
      memoryBytes: MEMORY,
      ...(progress && { progress }),
      ...(signal && { signal }),
    });
    return this.#lab;
  }

  async sensitivities(): Promise<{ readonly start: number; readonly rows: readonly Sensitivity[] }> {
    if (this.#sens) return this.#sens;
    this.#sens = await (await this.lab()).sensitivities(this.#ctx.progress);
    for (const p of this.points) p.predicted = predictedLoss(this.#sens, p.choice);
    return this.#sens;
  }

  /** Items of every unit, as its options stand. */
  async #groups(): Promise<Item[][]> {
    const { rows } = await this.sensitivities();
    const added = new Map(rows.map((r) => [`${r.unit}\n${r.scheme}`, r.added]));
    return this.units.map((u) => u.options.map((x) => ({ loss: added.get(`${u.key}\n${x.scheme.name}`) ?? 0, costs: [x.bytes] })));
  }

  /** The choice of least predicted loss within so many bytes of weights; undefined when none fits. */
  async within(weightBytes: number): Promise<{ readonly choice: Choice; readonly predicted: number } | undefined> {
    this.#knapsack ??= await Knapsack.load();
    const groups = await this.#groups();
    const chosen = this.#knapsack.solve({ groups, limits: [weightBytes] });
    if (!chosen) return undefined;
    const { start } = await this.sensitivities();
    return { choice: this.#choice(chosen), predicted: start + lossOf(groups, chosen) };
  }

  #choice(chosen: readonly number[]): Choice {
    return new Map(this.units.map((u, g) => [u.key, u.options[chosen[g]!]!.scheme]));
  }

  bytesOf(choice: Choice): number {
    return this.units.reduce((sum, u) => sum + u.options.find((x) => x.scheme.name === choice.get(u.key)!.name)!.bytes, 0);
  }
  bitsOf(choice: Choice): number {
    return (8 * this.bytesOf(choice)) / this.units.reduce((sum, u) => sum + u.weights, 0);
  }
  get cheapest(): Choice {
    return this.#ctx.builder.choiceOf((u) => u.options.reduce((a, b) => (b.bytes < a.bytes ? b : a)));
  }
  get dearest(): Choice {
    return this.#ctx.builder.choiceOf((u) => u.options.findLast((x) => x.scheme.weight) ?? u.options[0]!);
  }

  /** Weight bytes that the limits on size and bits leave. */
  weightLimit(limits: Limits): number {
    let most = Infinity;
    if (limits.bits !== undefined) most = (limits.bits * this.units.reduce((sum, u) => sum + u.weights, 0)) / 8;
    if (limits.bytes !== undefined) {
      const c = this.cheapest;
      this.#overhead ??= this.#file(this.#ctx.builder.plan(c)) - this.bytesOf(c);
      most = Math.min(most, limits.bytes - this.#overhead);
    }
    return most;
  }
  #file(bundle: PlanBundle): number {
    return writeModel(lower(this.#ctx.model, bundle, this.#ctx.target)).byteLength;
  }

  /** Codes solved for the choice, and the plan measured. */
  async point(choice: Choice, why: (u: Unit, s: LayerScheme) => string = () => ""): Promise<Point> {
    const names = Object.fromEntries([...choice].map(([k, s]) => [k, s.name]));
    const key = JSON.stringify(names);
    const known = this.points.find((p) => JSON.stringify(p.choice) === key);
    if (known) return known;
    const bundle = await this.#improve(this.#ctx.builder.plan(choice, why), PROBE);
    const { pooledDb } = await this.#judge.measure(bundle);
    const drop = await this.#meter?.drop(bundle);
    const p: Point = {
      predicted: this.#sens ? predictedLoss(this.#sens, names) : Number.NaN,
      choice: names,
      weightBytes: this.bytesOf(choice),
      fileBytes: this.#file(bundle),
      bits: this.bitsOf(choice),
      measured: 10 ** (-pooledDb / 10),
      db: pooledDb,
      ...(drop && { drop }),
      bundle,
    };
    this.points.push(p);
    return p;
  }

  #improve(bundle: PlanBundle, steps?: readonly StepName[]): Promise<PlanBundle> {
    const { model, types, stats, data, runtime, target, effort, seed, session, report, signal } = this.#ctx;
    return improvePlan({
      model,
      types,
      bundle,
      ...(stats && { stats }),
      data,
      calibrate: this.#ctx.calibrate,
      runtime,
      target,
      effort: steps ? "default" : effort,
      ...(steps && { steps }),
      seed,
      session,
      report,
      ...(signal && { signal }),
    });
  }

  #meets(p: Point, limits: Limits): boolean {
    if (!limits.drop) return true;
    if (!p.drop) return false;
    return (limits.drop.unit === "pt" ? p.drop.pt : p.drop.percent) <= limits.drop.most;
  }

  /** Exact choices for byte budgets from the smallest plan to `most`, without repetition, by bytes. */
  async frontier(most: number, cuts: number): Promise<{ readonly choice: Choice; readonly predicted: number; readonly bytes: number }[]> {
    const lo = this.bytesOf(this.cheapest);
    const hi = Math.min(most, Math.max(lo, this.bytesOf(this.dearest)));
    const out: { choice: Choice; predicted: number; bytes: number }[] = [];
    for (let i = 0; i < cuts; i++) {
      const found = await this.within(lo + ((hi - lo) * i) / (cuts - 1));
      if (!found) continue;
      const bytes = this.bytesOf(found.choice);
      if (bytes !== out.at(-1)?.bytes) out.push({ ...found, bytes });
    }
    return out;
  }

  /** Pairs of one unit up and one down that stay within the bytes and should lose less or little more; measured, the best kept. */
  async #swap(
    from: Choice,
    weightBytes: number,
  ): Promise<{ readonly choice: Choice; readonly before: number; readonly after: number; readonly tried: number }> {
    const lab = await this.lab();
    const { rows } = await this.sensitivities();
    const added = new Map(rows.map((r) => [`${r.unit}\n${r.scheme}`, r.added]));
    const before = await lab.evaluate(from);
    let best = { choice: from, loss: before };
    let tried = 0;
    for (let round = 0; round < SWAPS.rounds; round++) {
      const bytes = this.bytesOf(best.choice);
      const moves = this.units.flatMap((u) => {
        const now = u.options.find((x) => x.scheme.name === best.choice.get(u.key)!.name)!;
        const loss = (name: string) => added.get(`${u.key}\n${name}`) ?? 0;
        return u.options
          .filter((x) => x !== now)
          .map((x) => ({ unit: u.key, scheme: x.scheme, bytes: x.bytes - now.bytes, loss: loss(x.scheme.name) - loss(now.scheme.name) }));
      });
      const ups = moves.filter((m) => m.bytes > 0);
      const downs = moves.filter((m) => m.bytes < 0);
      const pairs = [
        ...ups.filter((m) => bytes + m.bytes <= weightBytes).map((m) => ({ moves: [m], loss: m.loss })),
        ...ups.flatMap((a) =>
          downs
            .filter((b) => a.unit !== b.unit && bytes + a.bytes + b.bytes <= weightBytes)
            .map((b) => ({ moves: [a, b], loss: a.loss + b.loss })),
        ),
      ].sort((a, b) => a.loss - b.loss);
      let next = best;
      for (const p of pairs.slice(0, SWAPS.tried)) {
        const choice = new Map(best.choice);
        for (const m of p.moves) choice.set(m.unit, m.scheme);
        const loss = await lab.evaluate(choice);
        tried++;
        if (loss < next.loss) next = { choice, loss };
      }
      if (next === best) break;
      best = next;
    }
    return { choice: best.choice, before, after: best.loss, tried };
  }

  /**
   * The frontier: exact choices for byte budgets from the smallest plan to the best quantized one, each solved and measured, and what it has to
   * beat: one scheme for all, the first and last unit in the best scheme, and the best gain per byte taken greedily.
   */
  async pareto(cuts: number): Promise<Pareto> {
    const line = await this.frontier(Infinity, cuts);
    const points: Point[] = [];
    for (const c of line) points.push(await this.point(c.choice));
    const middle = line[line.length >> 1];
    const last = this.units.length - 1;
    const ends = new Map(this.units.map((u, i) => [u.key, (i === 0 || i === last ? this.dearest : this.cheapest).get(u.key)!] as const));
    const baselines = [
      { name: "smallest everywhere", point: await this.point(this.cheapest) },
      { name: "best everywhere", point: await this.point(this.dearest) },
      { name: "first and last best", point: await this.point(ends) },
    ];
    if (middle) baselines.push({ name: "greedy", point: await this.point(await this.greedy(middle.bytes)) });
    return { points, baselines, correlation: this.correlation, passes: this.passes };
  }

  /** Upgrades by predicted gain per byte until nothing more fits. */
  async greedy(weightBytes: number): Promise<Choice> {
    const groups = await this.#groups();
    const chosen = this.units.map((u) => u.options.reduce((least, x, i) => (x.bytes < u.options[least]!.bytes ? i : least), 0));
    let bytes = this.bytesOf(this.#choice(chosen));
    for (;;) {
      let best: { readonly g: number; readonly j: number; readonly more: number; readonly worth: number } | undefined;
      for (const [g, items] of groups.entries()) {
        const now = items[chosen[g]!]!;
        for (const [j, x] of items.entries()) {
          const more = x.costs[0]! - now.costs[0]!;
          const worth = (now.loss - x.loss) / Math.max(1, more);
          if (more >= 0 && j !== chosen[g] && worth > 0 && bytes + more <= weightBytes && (!best || worth > best.worth))
            best = { g, j, more, worth };
        }
      }
      if (!best) return this.#choice(chosen);
      chosen[best.g] = best.j;
      bytes += best.more;
    }
  }

  /** Rank correlation of what was predicted and what was measured, over the plans measured so far. */
  get correlation(): number | undefined {
    const known = this.points.filter((p) => Number.isFinite(p.predicted));
    return rankCorrelation(
      known.map((p) => p.predicted),
      known.map((p) => p.measured),
    );
  }

  /** The plan for a budget. When no plan keeps to it: the one that comes closest; the report says by how much it misses. */
  async solve(limits: Limits, text: string): Promise<PlanBundle> {
    const steps: StepRecord[] = [];
    const db = (x: number) => -10 * Math.log10(x);
    let chosen: Choice = this.cheapest;
    let most = this.weightLimit(limits);
    const onlyDrop = limits.bytes === undefined && limits.bits === undefined;
    const first = onlyDrop ? await this.point(this.cheapest) : undefined;
    const unknown = first !== undefined && limits.drop !== undefined && first.drop === undefined;
    if (unknown) {
      this.#ctx.report({ code: "plan/drop-unknown", budget: text, samples: this.#meter?.samples ?? 0 });
      chosen = this.dearest;
    }
    const done = unknown || (first !== undefined && this.#meets(first, limits));
    if (!done && this.bytesOf(this.cheapest) <= most) {
      if (onlyDrop) {
        const line = await this.frontier(Infinity, CUTS);
        let [lo, hi] = [0, line.length - 1];
        // line[hi] keeps the limit, or is the best there is; line[lo] does not.
        while (hi - lo > 1) {
          const mid = (lo + hi) >> 1;
          if (this.#meets(await this.point(line[mid]!.choice), limits)) hi = mid;
          else lo = mid;
        }
        chosen = line[hi]!.choice;
        most = line[hi]!.bytes;
        if (!this.#meets(await this.point(chosen), limits)) {
          // Float where it helps most, until the limit is kept or nothing is left.
          const beyond = await this.within(Infinity);
          if (beyond && this.#meets(await this.point(beyond.choice), limits)) {
            chosen = beyond.choice;
            most = this.bytesOf(chosen);
          }
        }
      } else {
        const found = await this.within(most);
        if (found) chosen = found.choice;
      }
      const swapped = await this.#swap(chosen, most);
      steps.push({
        step: "exchanges",
        before: db(swapped.before),
        after: db(swapped.after),
        unit: "dB",
        kept: swapped.choice !== chosen,
        detail: `${swapped.tried} measured`,
      });
      if (swapped.choice !== chosen) {
        const [was, now] = [await this.point(chosen), await this.point(swapped.choice)];
        if (now.db > was.db && (!this.#meets(was, limits) || this.#meets(now, limits))) chosen = swapped.choice;
      }
    }
    const reached = await this.point(chosen);
    const { correlation } = this;
    const counts = new Map<string, number>();
    for (const s of chosen.values()) counts.set(s.name, (counts.get(s.name) ?? 0) + 1);
    steps.push({
      step: "budget",
      // Of the smallest plan.
      before: this.#lab ? db(await this.#lab.evaluate(this.cheapest)) : reached.db,
      after: reached.db,
      unit: "dB",
      kept: true,
      layers: this.units.length,
      detail: `${text}: ${[...counts].map(([n, c]) => `${c} ${n}`).join(", ")}; ${reached.weightBytes} bytes of weights, ${reached.bits.toFixed(2)} bits each${
        reached.drop ? `, metric falls by ${reached.drop.pt.toFixed(3)} points (${this.#meter!.by}, ${this.#meter!.samples} samples)` : ""
      }; ${this.points.length} plans measured${correlation === undefined ? "" : `, rank correlation of predicted and measured ${correlation.toFixed(2)}`}`,
    });
    const bundle = this.#ctx.effort === "best" ? await this.#improve(reached.bundle) : reached.bundle;
    const told = await this.#explained(bundle, chosen, text);
    return { ...told, plan: { ...told.plan, steps: [...told.plan.steps, ...steps] } };
  }

  /** Writes into each weight site what its scheme costs and saves. */
  async #explained(bundle: PlanBundle, choice: Choice, text: string): Promise<PlanBundle> {
    const rows = this.#sens?.rows ?? [];
    const total = this.#sens?.start;
    const why = new Map<string, string>();
    for (const u of this.units) {
      const name = choice.get(u.key)!.name;
      const now = u.options.find((x) => x.scheme.name === name)!;
      const best = bestQuantized(u);
      const r = rows.find((x) => x.unit === u.key && x.scheme === name);
      const said = u.pinned
        ? `pinned to ${name}`
        : `${name} for ${text}: ${best.bytes - now.bytes} bytes less than ${best.scheme.name}${
            r && total !== undefined ? `, adds ${r.added.toExponential(2)} to a loss of ${total.toExponential(2)}` : ""
          }`;
      for (const v of now.values) why.set(v, said);
    }
    const sites = bundle.plan.sites.map((s) =>
      s.kind === "weight" && why.has(s.value) ? { ...s, because: `${s.because}; ${why.get(s.value)!}` } : s,
    );
    return { ...bundle, plan: { ...bundle.plan, sites } };
  }
}
