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
  const seen = new Set<string>();
  for (const p of parts) {
    const both = p.sampleKeys.filter((k) => seen.has(k)).length;
    if (both > 0) throw new QcError({ code: "calibrate/merge-overlap", samples: both });
    for (const k of p.sampleKeys) seen.add(k);
  }
  return joinParts(parts);
}

/** The same for parts of one collection, where a sample that the set holds twice may be in two parts and counts twice. */
export function joinParts(parts: readonly Stats[]): Stats {
  const first = parts[0];
  if (first === undefined) throw new RangeError("internal: nothing to merge");
  for (const p of parts) checkBinding(first, p);
  const values = new Map<string, ValueStats>();
  for (const name of [...new Set(parts.flatMap((p) => [...p.values.keys()]))].sort()) {
    values.set(name, parts.flatMap((p) => p.values.get(name) ?? []).reduce(mergeValueStats));
  }
  const samples = parts.reduce((n, p) => n + p.samples, 0);
  return { ...first, samples, sampleKeys: parts.flatMap((p) => p.sampleKeys).sort(), values };
}

function checkBinding(a: Stats, b: Stats): void {
  for (const [what, left, right] of [
    ["model structure", a.model.structure, b.model.structure],
    ["model weights", a.model.weights, b.model.weights],
    ["prepare rules", a.prepare, b.prepare],
  ] as const)
    if (left !== right) throw new QcError({ code: "calibrate/merge-mismatch", what, left, right });
}
