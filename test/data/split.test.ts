import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Random } from "../../src/data/random.ts";
import { drawOrder, type SplitContext, splitRoles } from "../../src/data/split.ts";
import { QcError } from "../../src/diagnostics.ts";
import { f32, i64, input, npz, opened, refused, scratch } from "./helpers.ts";

const at = scratch();
const context = (size: number, more: Partial<SplitContext> = {}): SplitContext => ({
  set: "s",
  size,
  seed: 0,
  folder: at.path,
  id: String,
  classes: undefined,
  sequences: undefined,
  given: undefined,
  ...more,
});
const sizes = (r: ReturnType<typeof splitRoles>) => [r.calibrate.length, r.select.length, r.heldOut.length];

describe("random numbers", () => {
  test("are the same everywhere", () => {
    const r = new Random(1);
    expect([r.next(), r.next(), r.next()]).toEqual([393288148, 2174103013, 3814759091]);
  });
  test("are even", () => {
    const r = new Random(7);
    const counts = new Array<number>(6).fill(0);
    for (let i = 0; i < 60_000; i++) counts[r.below(6)]!++;
    // χ² with 5 degrees of freedom: 20.5 is passed by chance in 1 of 1000.
    expect(counts.reduce((s, c) => s + (c - 10_000) ** 2 / 10_000, 0)).toBeLessThan(20.5);
  });
});

describe("splits", () => {
  test("roles are disjoint and whole, whatever is asked", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 300 }),
        fc.option(fc.nat(120), { nil: undefined }),
        fc.option(fc.nat(60), { nil: undefined }),
        fc.nat(9),
        (n, c, s, seed) => {
          const split = { ...(c ? { calibrate: c } : {}), ...(s ? { select: s } : {}) };
          let roles: ReturnType<typeof splitRoles>;
          try {
            roles = splitRoles(split, context(n, { seed }));
          } catch (e) {
            expect((e as QcError).diagnostics[0]!.code).toBe("data/split-too-large");
            return;
          }
          const all = [...roles.calibrate, ...roles.select, ...roles.heldOut];
          expect([...all].sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
          if (s) expect(roles.select.length).toBe(s);
          if (c) expect(roles.calibrate.length + (s ? 0 : roles.select.length)).toBe(c);
        },
      ),
      { seed: 4 },
    );
  });
  test("without one: a quarter is held out, a tenth of the rest selects", () => {
    expect(sizes(splitRoles(undefined, context(1000)))).toEqual([675, 75, 250]);
    expect(sizes(splitRoles(undefined, context(1)))).toEqual([1, 0, 0]);
    expect(sizes(splitRoles({ heldOut: 300 }, context(1000)))).toEqual([630, 70, 300]);
    expect(sizes(splitRoles({ calibrate: 0.2, heldOut: 0.5 }, context(1000)))).toEqual([180, 20, 500]);
  });
  test("seeds", () => {
    const of = (seed: number) => splitRoles(undefined, context(100, { seed })).calibrate;
    expect(of(3)).toEqual(of(3));
    expect(of(3)).not.toEqual(of(4));
  });
  test("too much", () => {
    expect(() => splitRoles({ calibrate: 9, select: 2 }, context(10))).toThrow("asks for 11 samples; there are 10");
  });

  test("every prefix has the classes in proportion", () => {
    const classes = Array.from({ length: 1000 }, (_, i) => (i < 700 ? 0 : i < 950 ? 1 : 2));
    const order = drawOrder(
      classes.map((_, i) => i),
      { classes, sequences: undefined },
      5,
    );
    for (const m of [20, 100, 333, 1000])
      [700, 250, 50].forEach((n, k) => {
        const got = order.slice(0, m).filter((i) => classes[i] === k).length;
        expect(Math.abs(got - (m * n) / 1000)).toBeLessThanOrEqual(1);
      });
  });

  test("sequences stay whole and in order", () => {
    const sequences = Array.from({ length: 100 }, (_, i) => Math.floor(i / 7));
    const roles = splitRoles({ calibrate: 30, select: 20 }, context(100, { sequences }));
    const seen = new Map<number, string>();
    for (const [role, list] of Object.entries(roles)) {
      list.forEach((i, k) => {
        expect(seen.get(sequences[i]!) ?? role).toBe(role);
        seen.set(sequences[i]!, role);
        if (i % 7 !== 0) expect(list[k - 1]).toBe(i - 1);
      });
    }
    expect(roles.calibrate.length).toBeGreaterThanOrEqual(30);
  });

  test("roles that the source gives", () => {
    const given = Array.from({ length: 30 }, (_, i) => (i < 20 ? ("calibrate" as const) : ("heldOut" as const)));
    const roles = splitRoles(undefined, context(30, { given }));
    expect(sizes(roles)).toEqual([18, 2, 10]);
    expect(Math.min(...roles.heldOut)).toBe(20);
  });
});

describe("lists in a file", () => {
  const write = (name: string, lists: unknown) => {
    at.write(`${name}.json`, JSON.stringify(lists));
    return { indices: `${name}.json` };
  };
  test("indices and names; the rest is held out; a tenth selects", () => {
    const split = write("a", { calibrate: [...Array.from({ length: 19 }, (_, i) => i), "img/n19.png"] });
    const roles = splitRoles(split, context(30, { id: (i) => `img/n${i}.png` }));
    expect(sizes(roles)).toEqual([18, 2, 10]);
    // Not in the file's order: a report on the first few is a fair sample.
    expect([...roles.heldOut]).not.toEqual([...roles.heldOut].sort((a, b) => a - b));
    expect([...roles.heldOut].sort((a, b) => a - b)).toEqual(Array.from({ length: 10 }, (_, i) => 20 + i));
    expect(
      splitRoles(write("b", { calibrate: ["n3"], select: [], heldOut: ["n4.png"] }), context(9, { id: (i) => `img/n${i}.png` })),
    ).toEqual({
      calibrate: [3],
      select: [],
      heldOut: [4],
    });
  });
  test("lists of other names", () => {
    write("c", { calib: [1, 2], score: [3] });
    const roles = splitRoles({ indices: { file: "c.json", calibrate: "calib", heldOut: "score" } }, context(9));
    expect([[...roles.calibrate].sort(), roles.heldOut]).toEqual([[1, 2], [3]]);
    expect(() => splitRoles({ indices: { file: "c.json", calibrate: "train" } }, context(9))).toThrow('has no list "train"');
  });
  test("overlap, indices beyond the end, unknown names, no lists", () => {
    expect(() => splitRoles(write("d", { calibrate: [1, 2], heldOut: [2, 3] }), context(9))).toThrow(
      '1 sample of "s" stand in both "calibrate" and "heldOut"',
    );
    expect(() => splitRoles(write("e", { calibrate: [9] }), context(9))).toThrow("names sample 9");
    expect(() => splitRoles(write("f", { calibrate: ["zzz"] }), context(9))).toThrow('names sample "zzz"');
    expect(() => splitRoles(write("g", {}), context(9))).toThrow("none of the lists");
    at.write("h.json", "{");
    expect(() => splitRoles({ indices: "h.json" }, context(9))).toThrow("is no JSON");
    expect(() => splitRoles({ indices: "absent.json" }, context(9))).toThrow(QcError);
  });
});

test("labels draw the classes evenly, all the way from a file", async () => {
  at.write("l.npz", npz({ input: f32([90, 1]), y: i64(Array.from({ length: 90 }, (_, i) => i % 3)) }));
  const { set } = await opened(at.write("l.yaml", "source: l.npz\nlabels: y\nsplit: { calibrate: 30, select: 9 }\n"), [input(["N", 1])]);
  const counts = [0, 0, 0];
  for (const i of set.roles.calibrate) counts[set.classes![i]!]!++;
  expect(counts).toEqual([10, 10, 10]);
  const e = await refused(opened(at.write("m.yaml", "source: l.npz\nsplit: { calibrate: 91 }\n"), [input(["N", 1])]));
  expect(e.diagnostics[0]!.code).toBe("data/split-too-large");
});
