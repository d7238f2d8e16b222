import type { LegacyHighs } from "highs";

/** Items of one group exclude each other; exactly one of each is taken. */
export interface Item {
  readonly loss: number;
  /** One number a constraint. */
  readonly costs: readonly number[];
}
/** Σ costs[k] of the chosen items ≤ limits[k]. */
export interface Problem {
  readonly groups: readonly (readonly Item[])[];
  readonly limits: readonly number[];
  /** Choices that are not wanted, an item of each of the first groups. */
  readonly without?: readonly (readonly number[])[];
  readonly links?: readonly Link[];
  readonly rules?: readonly Rule[];
}

/** Items of a group: one of them is chosen, or none. */
export interface Pick {
  readonly group: number;
  readonly items: readonly number[];
}
/** A cost in constraint k (or in the loss) that is paid once when `from` and any of `to` are chosen; without `from`, when any of `to` is. */
export interface Link {
  readonly k: number | "loss";
  readonly cost: number;
  readonly from: Pick | undefined;
  readonly to: readonly Pick[];
}
/** Σ factor · [picked] ≤ most. */
export interface Rule {
  readonly terms: readonly { readonly pick: Pick; readonly factor: number }[];
  readonly most: number;
}

/** Largest coefficient of an objective or a row as the solver sees it: its tolerances are absolute. */
const SCALE = 1e6;

/**
 * The multiple-choice knapsack, exactly: x[g, i] ∈ {0, 1}, Σ_i x[g, i] = 1, Σ costs[k]·x ≤ limits[k], minimize Σ loss·x. Solved as an
 * integer program by branch and cut (HiGHS); undefined when no choice fits. Equal problems give equal choices. A link is a variable
 * y ≥ [from] + [to_i] − 1 for every i, 0 ≤ y ≤ 1: its cost is not negative, so that y is as small as it may be.
 */
export class Knapsack {
  readonly #highs: LegacyHighs;
  private constructor(highs: LegacyHighs) {
    this.#highs = highs;
  }

  static async load(): Promise<Knapsack> {
    // The package's types describe its CommonJS face; imported as a module its default export is the loader itself.
    const module = (await import("highs")) as unknown as { readonly default: () => Promise<LegacyHighs> };
    return new Knapsack(await module.default());
  }

  /** The item of each group. */
  solve({ groups, limits, without = [], links = [], rules = [] }: Problem): number[] | undefined {
    const least = limits.map((_, k) => groups.reduce((sum, g) => sum + Math.min(...g.map((x) => x.costs[k]!)), 0));
    if (limits.some((l, k) => least[k]! > l)) return undefined;
    const open = groups.map((g, i) => ({ g, i })).filter(({ g }) => g.length > 1);
    const chosen = groups.map(() => 0);
    if (open.length === 0) return without.length > 0 ? undefined : chosen;
    const terms = (of: (x: Item) => number, scale: number) =>
      open
        .flatMap(({ g, i }) => g.map((x, j) => [of(x) * scale, `x${i}_${j}`] as const))
        .filter(([c]) => c !== 0)
        .map(([c, name]) => `${c < 0 ? "-" : "+"} ${Math.abs(c)} ${name}`)
        .join("\n ");
    const most = (of: (x: Item) => number) => Math.max(1e-300, ...open.flatMap(({ g }) => g.map((x) => Math.abs(of(x)))));
    const paid = (k: number | "loss", scale: number): string =>
      links.map((l, n) => (l.k === k && l.cost > 0 ? `\n + ${l.cost * scale} y${n}` : "")).join("");
    const rows = limits.map((limit, k) => {
      if (limit === Infinity) return "";
      const fixed = groups.reduce((sum, g) => sum + (g.length === 1 ? g[0]!.costs[k]! : 0), 0);
      const scale = SCALE / most((x) => x.costs[k]!);
      return ` c${k}: ${terms((x) => x.costs[k]!, scale)}${paid(k, scale)} <= ${(limit - fixed) * scale}`;
    });
    const lossScale = SCALE / most((x) => x.loss);
    const text = [
      "Minimize",
      ` loss: ${terms((x) => x.loss, lossScale) || `0 x${open[0]!.i}_0`}${paid("loss", lossScale)}`,
      "Subject To",
      ...rows.filter((r) => r !== "" && !r.includes(":  <=")),
      ...open.map(({ g, i }) => ` g${i}: ${g.map((_, j) => `x${i}_${j}`).join(" + ")} = 1`),
      // All items of an unwanted choice but one at most.
      ...without.map((w, n) => {
        const told = open.filter(({ i }) => i < w.length);
        return ` n${n}: ${told.map(({ i }) => `x${i}_${w[i]!}`).join(" + ")} <= ${told.length - 1}`;
      }),
      ...links.flatMap((l, n) => linkRows(l, n, groups)),
      ...rules.flatMap((r, n) => ruleRow(r, `r${n}`, groups)),
      ...(links.length > 0 ? ["Bounds", ...links.map((_, n) => ` 0 <= y${n} <= 1`)] : []),
      "Binary",
      ...open.flatMap(({ g, i }) => g.map((_, j) => ` x${i}_${j}`)),
      "End",
    ].join("\n");
    const result = this.#highs.solve(text, { mip_rel_gap: 0, mip_abs_gap: 0, random_seed: 0, threads: 1, output_flag: false });
    if (result.Status !== "Optimal") return undefined;
    for (const { g, i } of open) {
      let best = 0;
      g.forEach((_, j) => {
        const of = (n: number) => (result.Columns[`x${i}_${n}`] as { readonly Primal: number } | undefined)?.Primal ?? 0;
        if (of(j) > of(best)) best = j;
      });
      chosen[i] = best;
    }
    return chosen;
  }
}

/** Sum of the variables of a pick, and what of it is certain: groups of one item have no variables. */
function picked(p: Pick, groups: readonly (readonly Item[])[]): { readonly names: readonly string[]; readonly sure: number } {
  if (groups[p.group]!.length === 1) return { names: [], sure: p.items.includes(0) ? 1 : 0 };
  return { names: p.items.map((j) => `x${p.group}_${j}`), sure: 0 };
}

/** [from] + [to] − y ≤ 1. */
function linkRows(l: Link, n: number, groups: readonly (readonly Item[])[]): string[] {
  const from = l.from ? picked(l.from, groups) : { names: [], sure: 1 };
  return l.to.map((t, m) => {
    const to = picked(t, groups);
    const names = [...from.names, ...to.names];
    return ` l${n}_${m}: ${[...names, ""].join(" + ").replace(/ \+ $/, "")} - y${n} <= ${1 - from.sure - to.sure}`;
  });
}

function ruleRow(r: Rule, name: string, groups: readonly (readonly Item[])[]): string[] {
  let most = r.most;
  const parts: string[] = [];
  for (const { pick, factor } of r.terms) {
    const { names, sure } = picked(pick, groups);
    most -= factor * sure;
    for (const v of names) parts.push(`${factor < 0 ? "-" : "+"} ${Math.abs(factor)} ${v}`);
  }
  return parts.length === 0 ? [] : [` ${name}: ${parts.join(" ")} <= ${most}`];
}

export function costOf(groups: readonly (readonly Item[])[], chosen: readonly number[], k: number): number {
  return chosen.reduce((sum, j, g) => sum + groups[g]![j]!.costs[k]!, 0);
}
export function lossOf(groups: readonly (readonly Item[])[], chosen: readonly number[]): number {
  return chosen.reduce((sum, j, g) => sum + groups[g]![j]!.loss, 0);
}
