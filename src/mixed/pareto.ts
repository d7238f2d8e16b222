import type { Choice } from "./build.ts";
import { keyOf } from "./menu.ts";
import type { Point } from "./point.ts";
import type { Search } from "./search.ts";

export interface Pareto {
  /** By bytes; each loses less than all smaller ones, as measured. */
  readonly points: readonly Point[];
  /** Measured too, but a smaller plan lost no more. */
  readonly dominated: readonly Point[];
  readonly baselines: readonly Baseline[];
  /** Of predicted and measured loss, over all plans that were measured. */
  readonly correlation: number | undefined;
  /** Network runs of the search (parts of a network in parts). */
  readonly passes: number;
}
export interface Baseline {
  readonly name: string;
  readonly point: Point;
  /** The loss of the best plan that the search chose and that is no larger, ÷ the baseline's. */
  readonly ratio: number | undefined;
}

/** Proposals that are run for each budget of the frontier. */
const EACH = 4;

interface Cut {
  readonly choice: Choice;
  readonly predicted: number;
  readonly bytes: number;
}

/**
 * Exact choices for byte budgets: at first the ends, then, again and again, the middle of the widest gap between two neighbours, measured in
 * bytes and in the logarithm of the predicted loss, until there are enough distinct ones or no gap holds another.
 */
export async function cutsOf(search: Search, count: number): Promise<Cut[]> {
  const menu = await search.menu();
  const at = async (bytes: number): Promise<Cut | undefined> => {
    const found = await search.within({ bytes });
    return found && { ...found, bytes: menu.bytesOf(found.choice) };
  };
  const [least, most] = [await at(menu.bytesOf(menu.cheapest)), await at(Infinity)];
  if (!least || !most) return [];
  // Float layers are rarely what is wanted: beyond the best quantized plan there is one point.
  const dearest = await at(menu.bytesOf(menu.dearest));
  const cuts = [least, ...(dearest ? [dearest] : []), most].filter((c, i, all) => all.findIndex((x) => x.bytes === c.bytes) === i);
  const range = Math.max(1, (dearest ?? most).bytes - least.bytes);
  const depth = Math.max(Number.MIN_VALUE, Math.abs(Math.log(size(least.predicted) / size((dearest ?? most).predicted))));
  const closed = new Set<string>();
  while (cuts.length < count) {
    let widest: { readonly i: number; readonly width: number } | undefined;
    for (let i = 0; i + 1 < cuts.length; i++) {
      const [a, b] = [cuts[i]!, cuts[i + 1]!];
      if (closed.has(`${a.bytes} ${b.bytes}`) || b.bytes - a.bytes < 2) continue;
      const beyond = dearest !== undefined && a.bytes >= dearest.bytes;
      const width = beyond ? 0 : (b.bytes - a.bytes) / range + Math.abs(Math.log(size(a.predicted) / size(b.predicted))) / depth;
      if (!widest || width > widest.width) widest = { i, width };
    }
    if (!widest) break;
    const [a, b] = [cuts[widest.i]!, cuts[widest.i + 1]!];
    const middle = (a.bytes + b.bytes) / 2;
    // The largest plan up to the middle; when that is the left one again, the smallest beyond it.
    const found = await distinct(at, a, b, middle);
    if (!found) {
      closed.add(`${a.bytes} ${b.bytes}`);
      continue;
    }
    cuts.splice(widest.i + 1, 0, found);
  }
  return cuts;
}
const size = (x: number) => Math.max(x, 1e-12);

async function distinct(at: (bytes: number) => Promise<Cut | undefined>, a: Cut, b: Cut, middle: number): Promise<Cut | undefined> {
  for (let bytes = middle; b.bytes - bytes > 1; bytes = (bytes + b.bytes) / 2) {
    const found = await at(bytes);
    if (found && found.bytes > a.bytes && found.bytes < b.bytes) return found;
  }
  return undefined;
}

/**
 * The frontier: budgets by `cutsOf`; at each the proposals of the surrogate are run, and then, with all that was learned, the choice of least
 * expected loss is solved, measured and kept when no smaller one is as good. Beside it what it has to beat, at the bytes that these have: one
 * scheme for all layers, the first and the last layer in the best, upgrades by gain per byte.
 */
export async function paretoOf(search: Search, count: number): Promise<Pareto> {
  const menu = await search.menu();
  const alone = await search.surrogate();
  const greedyAt = async (bytes: number) => menu.greedy(bytes, alone.added);
  const first = await cutsOf(search, count);
  const middle = first[first.length >> 1];
  const greedy = middle && (await greedyAt(middle.bytes));
  const names = [
    { name: "smallest everywhere", choice: menu.cheapest },
    { name: "best everywhere", choice: menu.dearest },
    { name: "first and last best", choice: menu.ends(menu.dearest, menu.cheapest) },
    ...(greedy ? [{ name: "greedy", choice: greedy }] : []),
  ];
  // Budgets of the baselines are among those explored, so that there is a plan of their size to compare with.
  const budgets = [...first.map((c) => c.bytes), ...names.map((n) => menu.bytesOf(n.choice))];
  const found = new Map<string, Choice>();
  const sizes = [...new Set(budgets)].sort((a, b) => a - b);
  for (const bytes of sizes) await search.explore({ bytes }, EACH);
  const exact = await cutsOf(search, count);
  // At each budget the better of what was run and what is now expected to be best.
  for (const bytes of [...new Set([...exact.map((c) => c.bytes), ...names.map((n) => menu.bytesOf(n.choice))])].sort((a, b) => a - b)) {
    const { choice } = await search.explore({ bytes }, 0);
    found.set(keyOf(choice), choice);
  }
  const measured: Point[] = [];
  let done = 0;
  for (const choice of found.values()) {
    measured.push(await search.point(choice));
    search.progress?.(++done, found.size + names.length);
  }
  const baselines: { name: string; point: Point }[] = [];
  for (const n of names) {
    baselines.push({ name: n.name, point: await search.point(n.choice) });
    search.progress?.(++done, found.size + names.length);
  }
  const all = [...new Set([...measured, ...baselines.map((b) => b.point)])].sort(
    (a, b) => a.weightBytes - b.weightBytes || a.measured - b.measured,
  );
  const points: Point[] = [];
  const dominated: Point[] = [];
  for (const p of all) (points.length === 0 || p.measured < points.at(-1)!.measured ? points : dominated).push(p);
  return {
    points,
    dominated,
    baselines: baselines.map((b) => {
      // Of what the search itself chose.
      const fit = measured.filter((p) => p.weightBytes <= b.point.weightBytes).map((p) => p.measured);
      return { ...b, ratio: fit.length > 0 ? Math.min(...fit) / b.point.measured : undefined };
    }),
    correlation: search.correlation,
    passes: search.passes,
  };
}
