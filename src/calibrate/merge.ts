import { QcError } from "../diagnostics.ts";
import { mergeHistograms } from "./histogram.ts";
import type { Stats, ValueStats } from "./types.ts";

/** Exact, commutative and associative: counts add, extremes combine, histograms move whole bins. */
export function mergeValueStats(a: ValueStats, b: ValueStats): ValueStats {
  if (a.count > 0 && b.count > 0 && (a.hist === undefined) !== (b.hist === undefined))
    throw new QcError({ code: "calibrate/merge-mismatch", what: "histograms", left: detail(a), right: detail(b) });
  const min = Math.min(a.min, b.min);
  const max = Math.max(a.max, b.max);
  return {
    name: a.name,
    count: a.count + b.count,
    zeros: a.zeros + b.zeros,
    nan: a.nan + b.nan,
    inf: a.inf + b.inf,
    min,
    max,
    hist: mergeHistograms(a.hist, b.hist, min, max),
    runs: a.runs + b.runs,
  };
}

function detail(s: ValueStats): string {
  return s.hist === undefined ? `only the range of "${s.name}"` : `a histogram of "${s.name}"`;
}

/**
 * Joins statistics of disjoint samples of one model. Values are the union; a value that one side never ran keeps the other's numbers.
 * Refuses another model, another version of the prepare rules, and samples that both have seen (they would count twice).
 */
export function mergeStats(parts: readonly Stats[]): Stats {
  const first = parts[0];
  if (first === undefined) throw new RangeError("internal: nothing to merge");
  let all: Stats = first;
  for (const next of parts.slice(1)) all = mergeTwo(all, next);
  return all;
}

function mergeTwo(a: Stats, b: Stats): Stats {
  for (const [what, left, right] of [
    ["model structure", a.model.structure, b.model.structure],
    ["model weights", a.model.weights, b.model.weights],
    ["prepare rules", a.prepare, b.prepare],
  ] as const)
    if (left !== right) throw new QcError({ code: "calibrate/merge-mismatch", what, left, right });
  const seen = new Set(a.sampleKeys);
  const both = b.sampleKeys.filter((k) => seen.has(k)).length;
  if (both > 0) throw new QcError({ code: "calibrate/merge-overlap", samples: both });
  const values = new Map<string, ValueStats>();
  for (const name of [...new Set([...a.values.keys(), ...b.values.keys()])].sort()) {
    const x = a.values.get(name);
    const y = b.values.get(name);
    values.set(name, x === undefined ? y! : y === undefined ? x : mergeValueStats(x, y));
  }
  return { ...a, samples: a.samples + b.samples, sampleKeys: [...a.sampleKeys, ...b.sampleKeys].sort(), values };
}
