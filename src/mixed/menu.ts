import type { LayerScheme } from "../plan/schemes.ts";
import type { Choice, Unit, UnitOption } from "./build.ts";
import { type Item, type Knapsack, lossOf, type Problem } from "./knapsack.ts";
import type { UnitCost } from "./limits.ts";

/** What a choice may cost. */
export interface Room {
  /** Of weights. */
  readonly bytes: number;
  /** By the cost table. */
  readonly ms?: number;
}

/** What a unit in a scheme adds to the loss. */
export type Added = (unit: string, scheme: string) => number;

/** The schemes that every unit can have, what they cost, and the choices of least predicted loss. */
export class Menu {
  readonly units: readonly Unit[];
  readonly #knapsack: Knapsack;
  readonly #time: UnitCost | undefined;

  constructor(units: readonly Unit[], knapsack: Knapsack, time?: UnitCost) {
    this.units = units;
    this.#knapsack = knapsack;
    this.#time = time;
  }

  choiceOf(pick: (u: Unit) => UnitOption): Map<string, LayerScheme> {
    return new Map(this.units.map((u) => [u.key, pick(u).scheme]));
  }
  bytesOf(choice: Choice): number {
    return this.units.reduce((sum, u) => sum + optionIn(u, choice).bytes, 0);
  }
  get weights(): number {
    return this.units.reduce((sum, u) => sum + u.weights, 0);
  }
  bitsOf(choice: Choice): number {
    return (8 * this.bytesOf(choice)) / this.weights;
  }
  /** By the cost table; undefined without one. */
  msOf(choice: Choice): number | undefined {
    const time = this.#time;
    if (time?.whole) return time.whole(choice);
    return time && this.units.reduce((sum, u) => sum + time.of(u.key, choice.get(u.key)!.name), time.fixed);
  }
  fits(choice: Choice, room: Room): boolean {
    return this.bytesOf(choice) <= room.bytes && (room.ms === undefined || (this.msOf(choice) ?? 0) <= room.ms);
  }

  get cheapest(): Choice {
    return this.choiceOf((u) => u.options.reduce((a, b) => (b.bytes < a.bytes ? b : a)));
  }
  /** Least time by the cost table. */
  get fastest(): Choice {
    const time = this.#time;
    if (!time) return this.cheapest;
    if (time.extend) {
      const groups = this.units.map((u) => u.options.map((x): Item => ({ loss: time.of(u.key, x.scheme.name), costs: [] })));
      const chosen = this.#knapsack.solve(time.extend({ groups, limits: [] }, "loss"));
      if (chosen) return new Map(this.units.map((u, g) => [u.key, u.options[chosen[g]!]!.scheme]));
    }
    return this.choiceOf((u) => u.options.reduce((a, b) => (time.of(u.key, b.scheme.name) < time.of(u.key, a.scheme.name) ? b : a)));
  }
  get dearest(): Choice {
    return this.choiceOf((u) => u.options.findLast((x) => x.scheme.weight) ?? u.options[0]!);
  }

  /** The choice of least Σ added within the room, exactly, that is none of `without`; undefined when none fits. */
  within(room: Room, added: Added, without: readonly Choice[] = []): { readonly choice: Choice; readonly loss: number } | undefined {
    const time = room.ms === undefined ? undefined : this.#time;
    const groups = this.units.map((u) =>
      u.options.map(
        (x): Item => ({ loss: added(u.key, x.scheme.name), costs: [x.bytes, ...(time ? [time.of(u.key, x.scheme.name)] : [])] }),
      ),
    );
    const problem: Problem = {
      groups,
      limits: [room.bytes, ...(time ? [room.ms! - time.fixed] : [])],
      without: without.map((c) => this.units.map((u) => u.options.indexOf(optionIn(u, c)))),
    };
    const chosen = this.#knapsack.solve(time?.extend ? time.extend(problem, 1) : problem)?.slice(0, groups.length);
    if (!chosen) return undefined;
    return { choice: new Map(this.units.map((u, g) => [u.key, u.options[chosen[g]!]!.scheme])), loss: lossOf(groups, chosen) };
  }

  /** Upgrades by predicted gain per byte until nothing more fits. */
  greedy(weightBytes: number, added: Added): Choice {
    const choice = new Map(this.cheapest);
    let bytes = this.bytesOf(choice);
    for (;;) {
      let best: { readonly unit: string; readonly scheme: LayerScheme; readonly more: number; readonly worth: number } | undefined;
      for (const u of this.units) {
        const now = optionIn(u, choice);
        for (const x of u.options) {
          const more = x.bytes - now.bytes;
          const worth = (added(u.key, now.scheme.name) - added(u.key, x.scheme.name)) / Math.max(1, more);
          if (more >= 0 && x !== now && worth > 0 && bytes + more <= weightBytes && (!best || worth > best.worth))
            best = { unit: u.key, scheme: x.scheme, more, worth };
        }
      }
      if (!best) return choice;
      choice.set(best.unit, best.scheme);
      bytes += best.more;
    }
  }

  /** The first and the last unit as in `ends`, the others as in `rest`. */
  ends(ends: Choice, rest: Choice): Choice {
    const last = this.units.length - 1;
    return new Map(this.units.map((u, i) => [u.key, (i === 0 || i === last ? ends : rest).get(u.key)!]));
  }
}

export function optionIn(u: Unit, choice: Choice): UnitOption {
  const name = choice.get(u.key)!.name;
  return u.options.find((x) => x.scheme.name === name)!;
}

/** Choices as text, to compare them. */
export function keyOf(choice: Choice): string {
  return [...choice].map(([k, s]) => `${k}\t${s.name}`).join("\n");
}
