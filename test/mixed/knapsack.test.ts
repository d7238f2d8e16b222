import fc from "fast-check";
import { expect, test } from "vitest";
import { costOf, type Item, Knapsack, lossOf } from "../../src/mixed/knapsack.ts";

const knapsack = await Knapsack.load();
const item = (constraints: number): fc.Arbitrary<Item> =>
  fc.record({
    loss: fc.integer({ min: -50, max: 5000 }).map((x) => x / 1e6),
    costs: fc.array(fc.integer({ min: 0, max: 60 }), { minLength: constraints, maxLength: constraints }),
  });
const groupsOf = (constraints: number) =>
  fc.array(fc.array(item(constraints), { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 5 });

/** Every choice. */
function best(groups: readonly (readonly Item[])[], limits: readonly number[]): number | undefined {
  let least: number | undefined;
  const walk = (chosen: number[]): void => {
    const g = chosen.length;
    if (g < groups.length) {
      for (const j of groups[g]!.keys()) walk([...chosen, j]);
      return;
    }
    if (limits.some((l, k) => costOf(groups, chosen, k) > l)) return;
    const loss = lossOf(groups, chosen);
    if (least === undefined || loss < least) least = loss;
  };
  walk([]);
  return least;
}

test("the choice is the best of all choices, with one and with two limits", () => {
  for (const k of [1, 2])
    fc.assert(
      fc.property(groupsOf(k), fc.array(fc.integer({ min: 0, max: 200 }), { minLength: k, maxLength: k }), (groups, limits) => {
        const chosen = knapsack.solve({ groups, limits });
        const want = best(groups, limits);
        if (want === undefined) expect(chosen).toBeUndefined();
        else {
          expect(limits.every((l, i) => costOf(groups, chosen!, i) <= l)).toBe(true);
          expect(lossOf(groups, chosen!)).toBeCloseTo(want, 9);
        }
      }),
      { numRuns: 60, seed: 1 },
    );
});

test("a larger budget never has a larger loss, and equal problems have equal choices", () => {
  fc.assert(
    fc.property(groupsOf(1), (groups) => {
      let before = Number.POSITIVE_INFINITY;
      for (let limit = 0; limit <= 300; limit += 20) {
        const chosen = knapsack.solve({ groups, limits: [limit] });
        if (!chosen) continue;
        expect(knapsack.solve({ groups, limits: [limit] })).toEqual(chosen);
        const loss = lossOf(groups, chosen);
        expect(loss).toBeLessThanOrEqual(before + 1e-12);
        before = loss;
      }
    }),
    { numRuns: 20, seed: 2 },
  );
});

test("what is not wanted is not chosen: the choices come in order of their loss", () => {
  fc.assert(
    fc.property(groupsOf(1), (groups) => {
      const seen: number[][] = [];
      const size = groups.reduce((n, g) => n * g.length, 1);
      let before = Number.NEGATIVE_INFINITY;
      for (let n = 0; n < Math.min(size, 6); n++) {
        const chosen = knapsack.solve({ groups, limits: [Infinity], without: seen });
        expect(seen).not.toContainEqual(chosen);
        const loss = lossOf(groups, chosen!);
        expect(loss).toBeGreaterThanOrEqual(before - 1e-9);
        before = loss;
        seen.push(chosen!);
      }
      if (seen.length === size) expect(knapsack.solve({ groups, limits: [Infinity], without: seen })).toBeUndefined();
    }),
    { numRuns: 20, seed: 3 },
  );
});
