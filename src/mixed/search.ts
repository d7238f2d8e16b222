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
import { roundWeights } from "../ptq/weightonly/index.ts";
import type { Runtime, SessionOptions } from "../runtime/types.ts";
import type { Builder, Choice, Unit } from "./build.ts";
import { explained } from "./explained.ts";
import { Knapsack } from "./knapsack.ts";
import { Lab } from "./lab.ts";
import type { Limits, UnitCost } from "./limits.ts";
import type { LossName } from "./loss.ts";
import { Menu, type Room } from "./menu.ts";
import { Meter } from "./meter.ts";
import { type Pareto, paretoOf } from "./pareto.ts";
import { type Point, type Sensitivities, summedLoss } from "./point.ts";
import { rankCorrelation } from "./rank.ts";
import { Surrogate } from "./surrogate.ts";

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
  /** Node path → scheme of a plan to start from. */
  readonly start?: ReadonlyMap<string, LayerScheme>;
  /** What a run of the network takes, by unit and scheme. */
  readonly time?: UnitCost;
  readonly report: Report;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Samples that losses of single changes are measured on, at most and at least, and network runs that all of them may take. */
const SAMPLES = { most: 64, least: 8, runs: 6000 } as const;
/** Kept activations. */
const MEMORY = 64 * 2 ** 20;
/** Choices that the surrogate may propose and that are run, for one budget. */
const PROPOSALS = 24;
/** Standard deviations that a proposal is hoped to be better than expected by. */
const BETA = 1;
/** Bisection of a limit on the metric ends when the budgets of both sides differ by less than this part of the range. */
const CLOSE = 0.01;
/** Samples that weights alone are rounded from: more moved the result by less than its noise. */
const MOST_WINDOWS = 32;
/** Of a probe: the rounding alone. */
const PROBE: readonly StepName[] = ["rounding", "rounding-symmetric"];

/**
 * Schemes by layer under a budget.
 *
 * The loss that a choice is predicted to have is a sum over units (`Surrogate`): at first of the losses of single changes, codes solved (`Lab`);
 * then of what the choices run so far make of them. The sum is minimized exactly within the budget (multiple-choice knapsack), proposals
 * are run, the best one's codes solved again behind the prefix that it really has, and measured as it would be shipped. A limit on the
 * metric is met by the smallest plan that keeps it on the deciding samples, found by bisection.
 */
export class Search {
  readonly #ctx: SearchContext;
  readonly #judge: Judge;
  readonly #meter: Meter | undefined;
  readonly #samples: { readonly calibrate: readonly number[]; readonly select: readonly number[] };
  #lab: Lab | undefined;
  #sens: Sensitivities | undefined;
  #surrogate: Surrogate | undefined;
  #menu: Menu | undefined;
  #overhead: number | undefined;
  /** Points whose codes were solved and that were measured. */
  readonly points: Point[] = [];
  /** The one that `solve` took. */
  reached: Point | undefined;

  constructor(ctx: SearchContext) {
    this.#ctx = ctx;
    // A search runs candidates whatever the effort: `fast` takes no samples to improve with, but these are what it is about.
    this.#samples = samplesOf({ ...ctx, effort: ctx.effort === "fast" ? "default" : ctx.effort });
    const { model, target, runtime, data, session, signal } = ctx;
    const common = { model, target, runtime, data, session, ...(signal && { signal }) };
    this.#judge = new Judge({ ...common, indices: this.#samples.select });
    // On samples that codes were solved from a plan is better than elsewhere.
    const indices = data.roles.select.length > 0 ? data.roles.select : this.#samples.select;
    const seen = new Set(indices);
    const others = data.roles.calibrate.filter((i) => !seen.has(i));
    this.#meter = data.metric && new Meter({ ...common, metric: data.metric, indices, others });
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
  get progress(): SearchContext["progress"] {
    return this.#ctx.progress;
  }

  async menu(): Promise<Menu> {
    this.#menu ??= new Menu(this.units, await Knapsack.load(), this.#ctx.time);
    return this.#menu;
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
      calibrate: this.#weightsOnly ? this.#samples.calibrate.slice(0, MOST_WINDOWS) : this.#samples.calibrate,
      judge: this.#samples.select.slice(0, n),
      loss: this.#ctx.loss ?? "nmse",
      seed,
      memoryBytes: MEMORY,
      weightsOnly: this.#weightsOnly,
      ...(progress && { progress }),
      ...(signal && { signal }),
    });
    return this.#lab;
  }

  async sensitivities(): Promise<Sensitivities> {
    this.#sens ??= await (await this.lab()).sensitivities(this.#ctx.progress);
    return this.#sens;
  }

  /** Losses of single changes, when they were measured. */
  get known(): Sensitivities | undefined {
    return this.#sens;
  }

  async surrogate(): Promise<Surrogate> {
    if (this.#surrogate) return this.#surrogate;
    const sensitivities = await this.sensitivities();
    // Plans that were measured before anything could be predicted.
    for (const p of this.points) p.predicted = summedLoss(sensitivities, p.choice);
    this.#surrogate = new Surrogate(sensitivities);
    return this.#surrogate;
  }

  /** The choice of least predicted loss within the room; undefined when none fits. */
  async within(room: Room): Promise<{ readonly choice: Choice; readonly predicted: number } | undefined> {
    const surrogate = await this.surrogate();
    const found = (await this.menu()).within(room, surrogate.added);
    return found && { choice: found.choice, predicted: surrogate.predict(found.choice) };
  }

  /** Runs a choice in the lab, once; the surrogate learns from it. */
  async run(choice: Choice): Promise<number> {
    const surrogate = await this.surrogate();
    const known = surrogate.lossOf(choice);
    if (known !== undefined) return known;
    this.#ctx.signal?.throwIfAborted();
    const loss = await (await this.lab()).evaluate(choice);
    surrogate.learn(choice, loss);
    return loss;
  }

  /**
   * Proposals within the room, run one after the other: the choice of least lower bound that was not run before, until it cannot be expected
   * to beat the best or the number is spent. Simple choices that fit are among the first, so that the result loses no more than they do.
   */
  async explore(room: Room, proposals = PROPOSALS): Promise<{ readonly choice: Choice; readonly loss: number; readonly tried: number }> {
    const [menu, surrogate] = [await this.menu(), await this.surrogate()];
    const before = surrogate.seen.length;
    // Of all that were run and fit: what a smaller budget found serves a larger one too.
    const best = () => {
      let least: { readonly choice: Choice; readonly loss: number } | undefined;
      for (const s of surrogate.seen) if (menu.fits(s.choice, room) && (!least || s.loss < least.loss)) least = s;
      return least;
    };
    const exact = menu.within(room, surrogate.added);
    const given = this.#ctx.start;
    const started = given && menu.choiceOf((u) => u.options.find((x) => x.scheme.name === given.get(u.key)?.name) ?? u.options.at(-1)!);
    const simple = [
      ...(started ? [started] : []),
      menu.ends(menu.dearest, menu.cheapest),
      menu.dearest,
      menu.greedy(room.bytes, surrogate.added),
      menu.cheapest,
    ];
    for (const c of [...(exact ? [exact.choice] : []), ...simple]) if (menu.fits(c, room)) await this.run(c);
    for (let n = 0; n < proposals; n++) {
      const bound = surrogate.bound(BETA);
      const found = menu.within(
        room,
        bound,
        surrogate.seen.map((s) => s.choice),
      );
      if (!found) break;
      let least = surrogate.start;
      for (const [unit, s] of found.choice) least += bound(unit, s.name);
      if (least >= (best()?.loss ?? Infinity)) break;
      await this.run(found.choice);
    }
    const reached = best() ?? { choice: menu.cheapest, loss: await this.run(menu.cheapest) };
    return { ...reached, tried: surrogate.seen.length - before };
  }

  /** Weight bytes that the limits on size and bits leave. */
  async room(limits: Limits): Promise<Room> {
    const menu = await this.menu();
    let bytes = Infinity;
    if (limits.bits !== undefined) bytes = (limits.bits * menu.weights) / 8;
    if (limits.bytes !== undefined) {
      const c = menu.cheapest;
      this.#overhead ??= this.#file(this.#ctx.builder.plan(c)) - menu.bytesOf(c);
      bytes = Math.min(bytes, limits.bytes - this.#overhead);
    }
    return { bytes, ...(limits.ms !== undefined && this.#ctx.time && { ms: limits.ms }) };
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
    const menu = await this.menu();
    const bundle = await this.#improve(this.#ctx.builder.plan(choice, why), PROBE);
    const { pooledDb } = await this.#judge.measure(bundle);
    const drop = await this.#meter?.drop(bundle);
    const ms = menu.msOf(choice);
    const p: Point = {
      predicted: this.#surrogate?.predict(choice) ?? Number.NaN,
      choice: names,
      weightBytes: menu.bytesOf(choice),
      fileBytes: this.#file(bundle),
      bits: menu.bitsOf(choice),
      ...(ms !== undefined && { ms }),
      measured: 10 ** (-pooledDb / 10),
      db: pooledDb,
      ...(drop && { drop }),
      bundle,
    };
    this.points.push(p);
    return p;
  }

  /** No scheme that a unit may have quantizes activations. */
  get #weightsOnly(): boolean {
    return this.units.every((u) => u.options.every((x) => !x.scheme.weight || x.scheme.activations === "none"));
  }

  #improve(bundle: PlanBundle, steps?: readonly StepName[]): Promise<PlanBundle> {
    const { model, types, stats, data, runtime, target, effort, seed, session, report, signal } = this.#ctx;
    const { calibrate } = this.#samples;
    if (this.#weightsOnly)
      return roundWeights({
        model,
        types,
        bundle,
        data,
        calibrate: calibrate.slice(0, MOST_WINDOWS),
        runtime,
        seed,
        ...(signal && { signal }),
      });
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

  /** By the upper bound of the drop; by its mean where that can not be had (`#smallest`) or is not known. */
  #meets(p: Point, limits: Limits): boolean {
    if (!limits.drop) return true;
    if (!p.drop) return false;
    const { pt, percent } = (this.#sure ? p.drop.high : undefined) ?? p.drop;
    return (limits.drop.unit === "pt" ? pt : percent) <= limits.drop.most;
  }
  /** A limit on the metric is kept with confidence, not on average. */
  #sure = true;

  /** The frontier, and what it has to beat. */
  async pareto(points: number): Promise<Pareto> {
    return paretoOf(this, points);
  }

  /** Rank correlation of what was predicted and what was measured, over the plans measured so far. */
  get correlation(): number | undefined {
    const known = this.points.filter((p) => Number.isFinite(p.predicted));
    return rankCorrelation(
      known.map((p) => p.predicted),
      known.map((p) => p.measured),
    );
  }

  /** The smallest plan that keeps a limit on the metric within the room; the best there is when none does. */
  async #smallest(limits: Limits, room: Room): Promise<{ readonly choice: Choice; readonly bytes: number }> {
    const menu = await this.menu();
    const sized = (choice: Choice) => ({ choice, bytes: menu.bytesOf(choice) });
    let hi = sized(menu.fits(menu.dearest, room) ? menu.dearest : (await this.within(room))!.choice);
    const keeps = async (c: Choice) => this.#meets(await this.point(c), limits);
    if (!(await keeps(hi.choice))) {
      // Float where it helps most; and where even that is not sure to keep the limit, on average.
      const beyond = sized((await this.within(room))!.choice);
      if (await keeps(beyond.choice)) hi = beyond;
      else {
        this.#sure = false;
        if (await keeps(menu.cheapest)) return sized(menu.cheapest);
        if (!(await keeps(hi.choice))) {
          if (!(await keeps(beyond.choice))) return hi;
          hi = beyond;
        }
      }
    }
    const range = hi.bytes - menu.bytesOf(menu.cheapest);
    let lo = menu.bytesOf(menu.cheapest);
    // A budget of hi is kept, one of lo is not.
    while (hi.bytes - lo > CLOSE * range) {
      const found = await this.within({ ...room, bytes: (lo + hi.bytes) / 2 });
      const bytes = found ? menu.bytesOf(found.choice) : lo;
      if (found && bytes > lo && this.#meets(await this.point(found.choice), limits)) hi = { choice: found.choice, bytes };
      else lo = (lo + hi.bytes) / 2;
    }
    return hi;
  }

  /** The plan for a budget. When no plan keeps to it: the one that comes closest; the report says by how much it misses. */
  async solve(limits: Limits, text: string): Promise<PlanBundle> {
    const steps: StepRecord[] = [];
    const db = (x: number) => -10 * Math.log10(x);
    const menu = await this.menu();
    const room = await this.room(limits);
    let chosen: Choice = room.ms === undefined ? menu.cheapest : menu.fastest;
    const onlyDrop = limits.drop !== undefined && limits.bytes === undefined && limits.bits === undefined && room.ms === undefined;
    const first = onlyDrop ? await this.point(menu.cheapest) : undefined;
    const unknown = first !== undefined && first.drop === undefined;
    if (unknown) {
      this.#ctx.report({ code: "plan/drop-unknown", budget: text, samples: this.#meter?.samples ?? 0 });
      chosen = menu.dearest;
    }
    // Nothing is limited: the recipe as it is.
    const free = !onlyDrop && room.bytes === Infinity && room.ms === undefined;
    const done = free || unknown || (first !== undefined && this.#meets(first, limits));
    if (!done && menu.fits(chosen, room)) {
      const start = onlyDrop ? await this.#smallest(limits, room) : undefined;
      if (start) chosen = start.choice;
      const within = start ? { ...room, bytes: start.bytes } : room;
      const before = await this.run(start?.choice ?? (await this.within(within))!.choice);
      const found = await this.explore(within);
      steps.push({
        step: "proposals",
        before: db(before),
        after: db(found.loss),
        unit: "dB",
        kept: found.loss < before,
        detail: `${found.tried} choices run`,
      });
      const [was, now] = [start && (await this.point(start.choice)), await this.point(found.choice)];
      if (!was || (now.db > was.db && (!this.#meets(was, limits) || this.#meets(now, limits)))) chosen = found.choice;
    }
    const reached = await this.point(chosen);
    this.reached = reached;
    const { correlation } = this;
    const counts = new Map<string, number>();
    for (const s of chosen.values()) counts.set(s.name, (counts.get(s.name) ?? 0) + 1);
    steps.push({
      step: "budget",
      // Of the smallest plan.
      before: this.#lab ? db(await this.run(menu.cheapest)) : reached.db,
      after: reached.db,
      unit: "dB",
      kept: true,
      layers: this.units.length,
      detail: `${text}: ${[...counts].map(([n, c]) => `${c} ${n}`).join(", ")}; ${reached.weightBytes} bytes of weights, ${reached.bits.toFixed(2)} bits each${
        reached.drop
          ? `, metric falls by ${reached.drop.pt.toFixed(3)} points${
              reached.drop.high === undefined ? "" : `, at most ${reached.drop.high.pt.toFixed(3)} with 95 % confidence`
            } (${this.#meter!.by}, ${this.#meter!.samples} samples)`
          : ""
      }; ${this.points.length} plans measured${correlation === undefined ? "" : `, rank correlation of predicted and measured ${correlation.toFixed(2)}`}, ${Math.round(this.passes)} network runs`,
    });
    const again = this.#ctx.effort === "best" && !this.#weightsOnly;
    const bundle = again ? await this.#improve(reached.bundle) : reached.bundle;
    const told = explained(bundle, { units: this.units, sensitivities: this.#sens, choice: chosen, text });
    return { ...told, plan: { ...told.plan, steps: [...told.plan.steps, ...steps] } };
  }
}
