import type { Limit } from "./budget.ts";
import type { Model, Node } from "./graph/ir.ts";
import { opFacts, traitOf } from "./graph/ops/index.ts";
import { allNodes, pathOfNode } from "./graph/walk.ts";
import type { CostFile, CostTable } from "./mixed/cost-table.ts";
import type { Limits } from "./mixed/limits.ts";
import { type Recipe, recipeOf } from "./plan/recipes/index.ts";
import { type LayerScheme, type Pin, parsePin, parseScheme } from "./plan/schemes.ts";
import type { Plan, Site } from "./plan/types.ts";
import { matchNodes } from "./ptq/match.ts";
import { type SiteIndex, siteIndex } from "./ptq/sites.ts";

/** A scheme for each layer: what the budget and the pins ask for. */
export interface Mix {
  /** Schemes that the search may give, and the recipe that its start is proposed by (the best of them everywhere). */
  readonly ladder: readonly LayerScheme[];
  readonly start: Recipe;
  readonly pins: readonly Pin[];
  readonly limits: Limits;
  /** The budget as written. */
  readonly text: string;
}

/** From the least to the best. The start has the ranges of the 8-bit plan: behind round-to-nearest 4-bit weights they would be a choice by chance. */
const LADDERS: Readonly<
  Record<string, { readonly start: "int8" | "int8-weights"; readonly schemes: readonly string[]; readonly below?: string }>
> = {
  w4a8: { start: "int8", schemes: ["w4a8", "w8a8", "float"] },
  int8: { start: "int8", schemes: ["w8a8", "float"], below: "w4a8" },
  // Equal bytes: the scheme with 8-bit activations is the one to start from, behind it in the list.
  w8a16: { start: "int8", schemes: ["w8a16", "w8a8", "float"], below: "w4a16" },
  w4a16: { start: "int8", schemes: ["w4a16", "w4a8", "w8a16", "w8a8", "float"] },
  "int8-weights": { start: "int8-weights", schemes: ["w8", "float"], below: "w4" },
  "int4-weights": { start: "int8-weights", schemes: ["w4b128", "w4b64", "w4b32", "w8", "float"] },
};

function knows(table: CostTable | undefined, scheme: string): boolean {
  return table?.nodes.some((r) => Object.hasOwn(r.us, scheme)) ?? false;
}

/** More than this a table is not off by; beyond it a margin would forbid everything. */
const MOST_MARGIN = 0.1;

/**
 * A limit on time in ms, by the float model of the table where it is relative, less what the table's sums are off by (root mean square over
 * the graphs that were run whole): the run is judged, not the sum.
 */
function msOf(limit: { readonly most: number; readonly unit: "x" | "ms" }, table: CostTable): number {
  const errors = table.checks.map((c) => (c.measuredUs > 0 ? c.predictedUs / c.measuredUs - 1 : 0));
  const rms = Math.sqrt(errors.reduce((sum, e) => sum + e * e, 0) / Math.max(1, errors.length));
  const ms = limit.unit === "ms" ? limit.most : (limit.most * table.floatUs) / 1000;
  return ms / (1 + Math.min(MOST_MARGIN, rms));
}

/** What there is to search; undefined: every layer has the recipe's scheme. Without a cost table latency is met or missed, not searched. */
export function mixOf(
  o: {
    readonly recipe: Recipe;
    readonly budget: readonly Limit[];
    readonly wanted?: boolean;
    readonly fewer?: boolean;
    readonly costs?: CostFile | undefined;
  },
  pins: readonly Pin[],
): Mix | undefined {
  const ladder = LADDERS[o.recipe.name];
  const limits: { -readonly [K in keyof Limits]: Limits[K] } = {};
  const used: string[] = [];
  for (const l of o.budget) {
    if (l.kind === "latency") {
      if (!o.costs) continue;
      limits.ms = msOf(l, o.costs.table);
      used.push(l.text);
      continue;
    }
    used.push(l.text);
    if (l.kind === "drop") limits.drop = { most: l.most, unit: l.unit };
    else limits[l.kind === "size" ? "bytes" : "bits"] = l.most;
  }
  if (!ladder || (used.length === 0 && o.wanted !== true)) return undefined;
  // An 8-bit recipe takes fewer bits where a limit on bytes asks for them.
  const few = o.fewer === true || limits.bytes !== undefined || limits.bits !== undefined;
  const { below } = ladder;
  // Where times are known, 16-bit activations have their price.
  const timed16 = ladder.start === "int8" && !ladder.schemes.includes("w8a16") && knows(o.costs?.table, "w8a16");
  return {
    ladder: [...(few && below ? [below] : []), ...(timed16 ? ["w8a16"] : []), ...ladder.schemes].map((s) => parseScheme(s)!),
    start: { ...recipeOf(ladder.start), name: o.recipe.name },
    pins,
    limits,
    text: used.join(", "),
  };
}

/**
 * Node path → the scheme that a plan gives it: bits and blocks of its weight's codes, and whether a static site stands before it. What no
 * name stands for (other types than int2, int4, int8) is left to the recipe.
 */
export function schemesOf(model: Model, plan: Plan): ReadonlyMap<string, LayerScheme> {
  const index = siteIndex(model, plan);
  const floats = new Set(plan.skips.map((s) => s.node));
  const out = new Map<string, LayerScheme>();
  for (const n of allNodes(model)) {
    const facts = opFacts(n);
    if (facts?.trait !== "compute" || !facts.weights[0]) continue;
    const path = pathOfNode(n);
    const at = weightSiteOf(index, n, facts.weights[0].input);
    const stored = at && /^u?int([248])$/.exec(at.scheme.dtype)?.[1];
    const bits = stored && (at.scheme.bits ?? stored);
    if (!at && !floats.has(path)) continue;
    const { granularity } = at?.scheme ?? {};
    const input = facts.data.map((i) => n.inputs[i] && index.at(n.inputs[i], n, i)).find((s) => s?.kind === "static");
    const activation = /^u?int(4|8|16)$/.exec(input?.scheme.dtype ?? "")?.[1];
    const blocks = granularity?.kind === "block" ? `b${granularity.size}` : "";
    const scheme = at ? bits && parseScheme(`w${bits}${blocks}${activation ? `a${activation}` : ""}`) : parseScheme("float");
    if (scheme) out.set(path, { ...scheme, because: "as in the plan to start from", by: "user" });
  }
  return out;
}

/** The weight's site, also when only data movement lies between. */
function weightSiteOf(index: SiteIndex, n: Node, input: number): Site | undefined {
  let [node, i] = [n, input];
  for (;;) {
    const v = node.inputs[i];
    const site = v && index.at(v, node, i);
    if (site?.kind === "weight") return site;
    if (!v?.producer || traitOf(v.producer) !== "same-scale") return undefined;
    [node, i] = [v.producer, 0];
  }
}

export const pinsOf = (given: readonly string[]): readonly Pin[] => given.map(parsePin);

/** Node path → scheme; of several pins that match, the last. */
export function pinned(model: Model, pins: readonly Pin[]): ReadonlyMap<string, LayerScheme> {
  const out = new Map<string, LayerScheme>();
  for (const p of pins)
    for (const n of matchNodes(model, [p.pattern]))
      out.set(pathOfNode(n), { ...p.scheme, because: `pinned by "${p.pattern}"`, by: "user" });
  return out;
}
