import type { Histogram, Stats, ValueStats } from "./types.ts";

export interface Drift {
  readonly value: string;
  /** Largest difference of the distribution functions (Kolmogorov and Smirnov), 0 to 1. */
  readonly distance: number;
  /** Share of the new elements outside what was seen before, and share of the old range that the new reach. */
  readonly outside: number;
  readonly covered: number;
  readonly before: readonly [number, number];
  readonly now: readonly [number, number];
}

/** Each value of both statistics, the one that moved most first. `a` is what was stored, `b` what is new. */
export function driftOf(a: Stats, b: Stats): readonly Drift[] {
  const out: Drift[] = [];
  for (const [value, x] of a.values) {
    const y = b.values.get(value);
    if (y === undefined || x.count === 0 || y.count === 0) continue;
    const width = x.max - x.min;
    out.push({
      value,
      distance: distanceOf(x, y),
      outside: outsideOf(y, x.min, x.max),
      covered: width === 0 ? 1 : Math.max(0, Math.min(y.max, x.max) - Math.max(y.min, x.min)) / width,
      before: [x.min, x.max],
      now: [y.min, y.max],
    });
  }
  return out.sort((p, q) => q.distance - p.distance || (p.value < q.value ? -1 : 1));
}

/** Elements below each edge of the coarser of both grids, exact zeros at 0. */
function distanceOf(x: ValueStats, y: ValueStats): number {
  if (x.hist === undefined || y.hist === undefined) return x.min === y.min && x.max === y.max ? 0 : 1;
  const exp = Math.max(x.hist.exp, y.hist.exp);
  const [p, q] = [coarse(x.hist, exp), coarse(y.hist, exp)];
  const [nx, ny] = [x.count || 1, y.count || 1];
  const first = Math.min(...p.keys(), ...q.keys(), 0);
  const last = Math.max(...p.keys(), ...q.keys(), 0);
  let [a, b, most] = [0, 0, 0];
  for (let bin = first; bin <= last; bin++) {
    if (bin === 0) {
      a += x.zeros / nx;
      b += y.zeros / ny;
      most = Math.max(most, Math.abs(a - b));
    }
    a += (p.get(bin) ?? 0) / nx;
    b += (q.get(bin) ?? 0) / ny;
    most = Math.max(most, Math.abs(a - b));
  }
  return Math.min(1, most);
}

function coarse(h: Histogram, exp: number): Map<number, number> {
  const out = new Map<number, number>();
  const times = 2 ** (exp - h.exp);
  h.counts.forEach((n, i) => {
    if (n > 0) {
      const bin = Math.floor((h.first + i) / times);
      out.set(bin, (out.get(bin) ?? 0) + n);
    }
  });
  return out;
}

/** Whole bins outside: at most one bin's elements on each side are not counted. */
function outsideOf(y: ValueStats, min: number, max: number): number {
  if (y.hist === undefined || (y.min >= min && y.max <= max)) return 0;
  const width = 2 ** y.hist.exp;
  let n = 0;
  y.hist.counts.forEach((c, i) => {
    const low = (y.hist!.first + i) * width;
    if (low >= max || low + width <= min) n += c;
  });
  return n / y.count;
}
