import { type Diagnostic, QcError } from "../diagnostics.ts";
import type { Model, Node } from "../graph/ir.ts";
import { opFacts } from "../graph/ops/index.ts";
import { nodeKey } from "../graph/walk.ts";
import { isCodes, type LayerScheme } from "../plan/schemes.ts";
import type { Choice, Unit } from "./build.ts";
import { addUp, timeOf, type Wiring, wiringOf } from "./cost-fit.ts";
import type { CostFile, CostRow } from "./cost-table.ts";
import type { Item, Knapsack, Link, Pick, Problem, Rule } from "./knapsack.ts";
import type { UnitCost } from "./limits.ts";

export interface LatencyOptions {
  readonly costs: CostFile;
  readonly model: Model;
  readonly units: readonly Unit[];
  /** Nodes that compute on codes when all units do (`readersOfCodes`). */
  readonly joins: ReadonlySet<string>;
}

/** A node without weights that can compute on codes. */
interface Follower {
  readonly key: string;
  /** "any": a sum or a pool, which joins when one of its inputs is codes; "all": data movement, when all are. */
  readonly joins: "any" | "all";
  readonly inputs: readonly string[];
  readonly row: CostRow | undefined;
}

/**
 * Time by a cost table, conversions between codes and floats included.
 *
 * Whole regions are cheap, single layers are not: a node on codes among floats pays for a Q in front of it and a DQ behind. With
 * c(n) = 1 for a node that computes on codes and p the maker of a value with readers r:
 *
 *   time = fixed + Σ_n us(n, scheme(n)) + Σ_p toCodes(p) · [c(p) = 0 and some c(r) = 1] + Σ_p toFloat(p) · [c(p) = 1 and some c(r) = 0]
 *
 * which is linear with one variable for each bracket (`Link`), so that it can be a limit of the knapsack, or what is minimized: then it is
 * a minimum cut. Nodes without weights follow: a sum or a pool joins when an input is codes and somebody reads its codes, data movement
 * when all its inputs are.
 */
export class Latency implements UnitCost {
  readonly #o: LatencyOptions;
  readonly #wiring: Wiring;
  readonly #rows: ReadonlyMap<string, CostRow>;
  readonly #unitOf: ReadonlyMap<string, number>;
  readonly #followers: readonly Follower[];
  readonly fixed: number;

  constructor(o: LatencyOptions) {
    this.#o = o;
    this.#wiring = wiringOf(o.model);
    this.#rows = new Map(o.costs.table.nodes.map((r) => [r.node, r]));
    this.#unitOf = new Map(o.units.flatMap((u, i) => u.nodes.map((n) => [n, i] as const)));
    this.#followers = o.model.graph.nodes.flatMap((n) => this.#follower(n) ?? []);
    this.#refuseGaps();
    const choices = new Set([...this.#unitOf.keys(), ...this.#followers.map((f) => f.key)]);
    const { table } = o.costs;
    // What has no choice is float.
    this.fixed = (table.fixedUs + table.nodes.reduce((sum, r) => (choices.has(r.node) ? sum : sum + (timeOf(r, "float") ?? 0)), 0)) / 1000;
  }

  #follower(n: Node): Follower | undefined {
    const key = nodeKey(n);
    const facts = opFacts(n);
    if (!facts || facts.trait === "clamp" || this.#unitOf.has(key) || !this.#o.joins.has(key)) return undefined;
    const inputs = [...this.#wiring.makers].filter(([, m]) => m.readers.includes(key)).map(([maker]) => maker);
    return { key, joins: facts.trait === "same-scale" ? "all" : "any", inputs, row: this.#rows.get(key) };
  }

  /** Every unit needs a time in each of its schemes. */
  #refuseGaps(): void {
    const gaps = this.#o.units.flatMap((u) =>
      u.nodes.flatMap((node) =>
        u.options.flatMap((x) => {
          const row = this.#rows.get(node);
          return row && timeOf(row, x.scheme.name) !== undefined ? [] : [{ node, scheme: x.scheme.name }];
        }),
      ),
    );
    const fault: Diagnostic = { code: "costs/missing", file: this.#o.costs.file, rows: gaps };
    if (gaps.length > 0) throw new QcError(fault);
  }

  /** ms of a unit in a scheme among neighbours of its kind. */
  readonly of = (unit: string, scheme: string): number => {
    const u = this.#o.units.find((x) => x.key === unit);
    return (u?.nodes ?? []).reduce((sum, n) => sum + timeOf(this.#rows.get(n)!, scheme)!, 0) / 1000;
  };

  /** Nodes that compute on codes when the units have these schemes. */
  joined(schemeOf: (unit: number) => LayerScheme, floats: ReadonlySet<string> = new Set()): ReadonlySet<string> {
    const codes = new Set<string>();
    for (const [n, i] of this.#unitOf) if (this.#o.joins.has(n) && isCodes(schemeOf(i))) codes.add(n);
    for (const f of this.#followers) {
      const fed = f.joins === "all" ? f.inputs.every((p) => codes.has(p)) : f.inputs.some((p) => codes.has(p));
      if (fed && !floats.has(f.key)) codes.add(f.key);
    }
    // Those whose codes nobody reads leave again, last first.
    for (const f of [...this.#followers].reverse()) {
      const readers = this.#wiring.makers.get(f.key)?.readers ?? [];
      if (!readers.some((r) => codes.has(r))) codes.delete(f.key);
    }
    return codes;
  }

  /** ms of a choice. */
  readonly whole = (choice: Choice): number => {
    const scheme = (i: number) => choice.get(this.#o.units[i]!.key)!;
    return this.#ms(this.joined(scheme), (i) => scheme(i).name);
  };
  #ms(codes: ReadonlySet<string>, nameOf: (unit: number) => string): number {
    const scheme = (n: string) => {
      const i = this.#unitOf.get(n);
      return i === undefined ? undefined : nameOf(i);
    };
    return addUp(this.#o.costs.table, this.#wiring, { codes: (n) => codes.has(n), scheme }) / 1000;
  }

  readonly extend = (p: Problem, k: number | "loss"): Problem => this.#extend(p, k, true);

  /** @param bound followers do what the placement rules say; else they may stay float where that is faster. */
  #extend(p: Problem, k: number | "loss", bound: boolean): Problem {
    const first = p.groups.length;
    const at = new Map(this.#followers.map((f, i) => [f.key, first + i] as const));
    const time = (f: Follower, scheme: string) => (f.row ? (timeOf(f.row, scheme) ?? 0) : 0) / 1000;
    const item = (ms: number): Item => ({
      loss: k === "loss" ? ms : 0,
      costs: p.limits.map((_, i) => (i === k ? ms : 0)),
    });
    const groups = [...p.groups, ...this.#followers.map((f) => [item(time(f, "float")), item(time(f, "codes"))])];
    const pick = (node: string, codes: boolean): Pick | boolean => {
      const own = at.get(node);
      if (own !== undefined) return { group: own, items: [codes ? 1 : 0] };
      const unit = this.#unitOf.get(node);
      if (unit === undefined || !this.#o.joins.has(node)) return !codes;
      const items = this.#o.units[unit]!.options.flatMap((x, j) => (isCodes(x.scheme) === codes ? [j] : []));
      return { group: unit, items };
    };
    const links: Link[] = [];
    const link = (maker: string, us: number, toCodes: boolean) => {
      if (!(us > 0)) return;
      const from = maker.startsWith("input ") ? toCodes : pick(maker, !toCodes);
      if (from === false) return;
      const m = this.#wiring.makers.get(maker);
      const all = (m?.readers ?? []).map((r) => pick(r, toCodes));
      const always = all.includes(true) || (!toCodes && m?.leaves === true);
      const to = always ? undefined : all.filter((x): x is Pick => typeof x === "object");
      if (to?.length === 0) return;
      if (!to && from === true) return; // paid whatever is chosen
      links.push({ k, cost: us / 1000, from: to && from !== true ? from : undefined, to: to ?? [from as Pick] });
    };
    for (const r of this.#o.costs.table.nodes) {
      link(r.node, r.toCodes ?? 0, true);
      link(r.node, r.toFloat ?? 0, false);
    }
    for (const i of this.#o.costs.table.inputs) link(`input ${i.value}`, i.toCodes, true);
    return { ...p, groups, links: [...(p.links ?? []), ...links], rules: [...(p.rules ?? []), ...this.#rules(pick, bound)] };
  }

  /** Σ factor · c ≤ most over nodes, constants taken out. */
  #rules(pick: (node: string, codes: boolean) => Pick | boolean, bound: boolean): Rule[] {
    const rules: Rule[] = [];
    const rule = (terms: readonly (readonly [string, number])[], most: number) => {
      let left = most;
      const parts: { pick: Pick; factor: number }[] = [];
      for (const [node, factor] of terms) {
        const p = pick(node, true);
        if (typeof p === "object") parts.push({ pick: p, factor });
        else if (p) left -= factor;
      }
      if (parts.length > 0) rules.push({ terms: parts, most: left });
    };
    for (const f of this.#followers) {
      const readers = this.#wiring.makers.get(f.key)?.readers ?? [];
      if (f.joins === "all")
        for (const p of f.inputs)
          rule(
            [
              [f.key, 1],
              [p, -1],
            ],
            0,
          );
      else rule([[f.key, 1], ...f.inputs.map((p) => [p, -1] as const)], 0);
      rule([[f.key, 1], ...readers.map((r) => [r, -1] as const)], 0);
      if (!bound) continue;
      for (const r of readers) {
        if (f.joins === "all") rule([...f.inputs.map((p) => [p, 1] as const), [r, 1], [f.key, -1]], f.inputs.length);
        else
          for (const p of f.inputs)
            rule(
              [
                [p, 1],
                [r, 1],
                [f.key, -1],
              ],
              1,
            );
      }
    }
    return rules;
  }

  /**
   * The placement of least time: every unit in float or in the scheme that it has when all are codes. What is then float, with the µs that it
   * saves there; undefined when all codes is fastest.
   */
  fastest(knapsack: Knapsack): { readonly floats: ReadonlyMap<string, string>; readonly ms: number; readonly allCodesMs: number } {
    const { units } = this.#o;
    const base = (u: Unit): LayerScheme => u.options.findLast((x) => isCodes(x.scheme))?.scheme ?? u.options.at(-1)!.scheme;
    // Of two placements of equal time the one with more codes: a nanosecond, less than the table knows.
    const groups = units.map((u) =>
      u.options.map((x): Item => ({ loss: this.of(u.key, x.scheme.name) + (isCodes(x.scheme) ? 0 : 1e-6), costs: [] })),
    );
    const others = units.flatMap((u, group) => {
      const items = u.options.flatMap((x, j) => (x.scheme.name === base(u).name || !x.scheme.weight || u.pinned ? [] : [j]));
      return items.length > 0 ? [{ terms: [{ pick: { group, items }, factor: 1 }], most: 0 }] : [];
    });
    const problem = this.#extend({ groups, limits: [], rules: others }, "loss", false);
    const chosen = knapsack.solve(problem);
    if (!chosen) throw new Error("internal: a cut without limits has a solution");
    const schemeOf = (i: number) => units[i]!.options[chosen[i]!]!.scheme;
    const followers = this.#followers.filter((_, i) => chosen[units.length + i] === 0).map((f) => f.key);
    const codes = this.joined(schemeOf, new Set(followers));
    const everything = this.joined((i) => base(units[i]!));
    const floats = new Map<string, string>();
    for (const n of everything) {
      const i = this.#unitOf.get(n);
      if (!codes.has(n)) floats.set(n, this.told(n, i === undefined ? "codes" : base(units[i]!).name));
    }
    return {
      floats,
      ms: this.#ms(codes, (i) => schemeOf(i).name),
      allCodesMs: this.#ms(everything, (i) => base(units[i]!).name),
    };
  }

  /** What a node takes in float, in codes, and for conversions. */
  told(node: string, scheme: string): string {
    const row = this.#rows.get(node);
    if (!row) return "its neighbours are faster in float (cost table)";
    const us = (x: number | undefined) => (x ?? 0).toFixed(1);
    const own = Object.hasOwn(row.us, scheme) ? scheme : "codes";
    const around = row.toCodes || row.toFloat ? `, conversions ${us(row.toCodes)} and ${us(row.toFloat)} µs` : "";
    return `float takes ${us(timeOf(row, "float"))} µs, codes ${us(timeOf(row, own))} µs${around} (cost table)`;
  }

  /** ms of a placement that is given. */
  ofPlacement(codes: ReadonlySet<string>, schemes: (unit: Unit) => string): number {
    return this.#ms(codes, (i) => schemes(this.#o.units[i]!));
  }
}
