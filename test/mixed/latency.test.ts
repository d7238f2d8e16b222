import fc from "fast-check";
import { expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import type { Choice, Unit } from "../../src/mixed/build.ts";
import type { CostTable } from "../../src/mixed/cost-table.ts";
import { type Item, Knapsack, type Link } from "../../src/mixed/knapsack.ts";
import { Latency } from "../../src/mixed/latency.ts";
import { Menu } from "../../src/mixed/menu.ts";
import { parseScheme } from "../../src/plan/schemes.ts";
import { Builder } from "../prepare/build.ts";

const knapsack = await Knapsack.load();

test("a link is paid once, when its source and any of its targets are chosen: best of all choices", () => {
  const two = fc.tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 40 }));
  const pick = fc.record({ group: fc.integer({ min: 0, max: 3 }), items: fc.constantFrom([0], [1]) });
  const link = fc.record({
    cost: fc.integer({ min: 1, max: 30 }),
    from: fc.option(pick, { nil: undefined }),
    to: fc.array(pick, { minLength: 1, maxLength: 3 }),
  });
  fc.assert(
    fc.property(fc.array(two, { minLength: 4, maxLength: 4 }), fc.array(link, { maxLength: 4 }), (losses, links) => {
      const groups = losses.map(([a, b]): Item[] => [
        { loss: a, costs: [] },
        { loss: b, costs: [] },
      ]);
      const all: Link[] = links.map((l) => ({ k: "loss", ...l }));
      const total = (chosen: readonly number[]): number => {
        const has = (p: { readonly group: number; readonly items: readonly number[] }) => p.items.includes(chosen[p.group]!);
        const paid = all.filter((l) => (!l.from || has(l.from)) && l.to.some(has)).reduce((s, l) => s + l.cost, 0);
        return chosen.reduce((s, j, g) => s + groups[g]![j]!.loss, paid);
      };
      const least = Math.min(...Array.from({ length: 16 }, (_, n) => total([n & 1, (n >> 1) & 1, (n >> 2) & 1, (n >> 3) & 1])));
      expect(total(knapsack.solve({ groups, limits: [], links: all })!)).toBeCloseTo(least, 6);
    }),
    { numRuns: 40, seed: 5 },
  );
});

/** Four products with a sum and a clamp between: a, then b and c side by side, their sum, d. */
function net() {
  const b = new Builder(17);
  const x = b.input("x", [1, 8, 4, 4]);
  const conv = (v: typeof x, name: string) => b.node("Conv", [v, b.weight(`${name}.w`, [8, 8, 1, 1])], {}, name);
  const a = b.node("Relu", [conv(x, "a")], {}, "ra");
  const s = b.node("Add", [conv(a, "b"), conv(a, "c")], {}, "s");
  return b.output(conv(s, "d"));
}
const model = net();
const keys = model.graph.nodes.filter((n) => n.op === "Conv").map((n) => n.name || n.outputs[0]!.name);
const sum = model.graph.nodes.find((n) => n.op === "Add")!;
const sumKey = sum.name || sum.outputs[0]!.name;
const options = [parseScheme("w8a8")!, parseScheme("float")!].map((scheme, i) => ({ scheme, bytes: i === 0 ? 64 : 256, values: [] }));
const units = keys.map((key): Unit => ({ key, op: "Conv", nodes: [key], weights: 64, options, pinned: false }));

function tableOf(us: readonly (readonly [number, number, number, number])[], plus: readonly [number, number]): CostTable {
  const rows = [...keys, sumKey];
  return {
    schema: "qc.costs/1",
    tool: "",
    model: { structure: "", weights: "" },
    prepare: "",
    target: "",
    source: { kind: "tensorrt", profiles: [] },
    floatUs: 100,
    fixedUs: 7,
    nodes: rows.map((node, i) => {
      const [float, codes, toCodes, toFloat] = us[i]!;
      return { node, op: i < 4 ? "Conv" : "Add", us: i < 4 ? { float, w8a8: codes } : { float, codes }, toCodes, toFloat };
    }),
    inputs: [{ value: "x", toCodes: plus[0] }],
    checks: [],
  };
}
const joins = new Set([...keys, sumKey]);
const choiceOf = (bits: number): Choice => new Map(units.map((u, i) => [u.key, options[(bits >> i) & 1]!.scheme]));
const table = fc
  .tuple(
    fc.array(fc.tuple(...([0, 0, 0, 0].map(() => fc.integer({ min: 1, max: 50 })) as never)), { minLength: 5, maxLength: 5 }),
    fc.tuple(fc.integer({ min: 0, max: 20 }), fc.constant(0)),
  )
  .map(([us, plus]) => tableOf(us as never, plus as never));

test("the fastest placement is the fastest of all, conversions counted", () => {
  fc.assert(
    fc.property(table, (t) => {
      const latency = new Latency({ costs: { table: t, sha256: "", file: "t" }, model, units, joins });
      const found = latency.fastest(knapsack);
      // The sum may stay float too, so that no choice of the units alone can be faster.
      const least = Math.min(...Array.from({ length: 16 }, (_, n) => latency.whole(choiceOf(n))));
      expect(found.ms).toBeLessThanOrEqual(least + 1e-9);
      expect(found.allCodesMs).toBeCloseTo(latency.whole(choiceOf(0)), 9);
      expect(latency.fastest(knapsack)).toEqual(found);
    }),
    { numRuns: 20, seed: 3 },
  );
});

test("a limit on time is kept, exactly used, and a larger one never loses more", () => {
  fc.assert(
    fc.property(table, fc.array(fc.integer({ min: 0, max: 90 }), { minLength: 4, maxLength: 4 }), (t, losses) => {
      const latency = new Latency({ costs: { table: t, sha256: "", file: "t" }, model, units, joins });
      const menu = new Menu(units, knapsack, latency);
      const added = (unit: string, scheme: string) => (scheme === "float" ? 0 : losses[keys.indexOf(unit)]!);
      const of = (n: number) => keys.reduce((s, _, i) => s + (((n >> i) & 1) === 1 ? 0 : losses[i]!), 0);
      let before = Infinity;
      for (const ms of [0.06, 0.09, 0.12, 0.16, 0.25]) {
        const found = menu.within({ bytes: Infinity, ms }, added);
        const fits = Array.from({ length: 16 }, (_, n) => n).filter((n) => latency.whole(choiceOf(n)) <= ms);
        if (fits.length === 0) {
          expect(found).toBeUndefined();
          continue;
        }
        expect(menu.msOf(found!.choice)!).toBeLessThanOrEqual(ms + 1e-9);
        expect(found!.loss).toBeCloseTo(Math.min(...fits.map(of)), 6);
        expect(found!.loss).toBeLessThanOrEqual(before);
        before = found!.loss;
        expect(menu.within({ bytes: Infinity, ms }, added)).toEqual(found);
      }
      expect(menu.msOf(menu.fastest)!).toBeCloseTo(Math.min(...Array.from({ length: 16 }, (_, n) => latency.whole(choiceOf(n)))), 9);
    }),
    { numRuns: 12, seed: 11 },
  );
});

test("what a table does not know is named", () => {
  const t = tableOf(
    [1, 2, 3, 4, 5].map((x) => [x, x, x, x] as const),
    [0, 0],
  );
  const without = { ...t, nodes: t.nodes.map((r) => (r.node === "b" || r.us["w8a8"] === 2 ? { ...r, us: { float: 1 } } : r)) };
  try {
    new Latency({ costs: { table: without, sha256: "", file: "t.json" }, model, units, joins });
    expect.unreachable();
  } catch (e) {
    if (!(e instanceof QcError)) throw e;
    expect(e.diagnostics).toMatchObject([{ code: "costs/missing", file: "t.json", rows: [{ node: keys[1], scheme: "w8a8" }] }]);
  }
});
