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
  /** Choices that are not wanted, an item of each group. */
  readonly without?: readonly (readonly number[])[];
}

/** Largest coefficient of an objective or a row as the solver sees it: its tolerances are absolute. */
const SCALE = 1e6;

/**
 * The multiple-choice knapsack, exactly: x[g, i] ∈ {0, 1}, Σ_i x[g, i] = 1, Σ costs[k]·x ≤ limits[k], minimize Σ loss·x. Solved as an
 * integer program by branch and cut (HiGHS); undefined when no choice fits. Equal problems give equal choices.
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
  solve({ groups, limits, without = [] }: Problem): number[] | undefined {
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
    const rows = limits.map((limit, k) => {
      if (limit === Infinity) return "";
      const fixed = groups.reduce((sum, g) => sum + (g.length === 1 ? g[0]!.costs[k]! : 0), 0);
      const scale = SCALE / most((x) => x.costs[k]!);
      return ` c${k}: ${terms((x) => x.costs[k]!, scale)} <= ${(limit - fixed) * scale}`;
    });
    const text = [
      "Minimize",
      ` loss: ${terms((x) => x.loss, SCALE / most((x) => x.loss)) || `0 x${open[0]!.i}_0`}`,
      "Subject To",
      ...rows.filter((r) => r !== "" && !r.includes(":  <=")),
      ...open.map(({ g, i }) => ` g${i}: ${g.map((_, j) => `x${i}_${j}`).join(" + ")} = 1`),
      // All items of an unwanted choice but one at most.
      ...without.map((w, n) => ` n${n}: ${open.map(({ i }) => `x${i}_${w[i]!}`).join(" + ")} <= ${open.length - 1}`),
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

export function costOf(groups: readonly (readonly Item[])[], chosen: readonly number[], k: number): number {
  return chosen.reduce((sum, j, g) => sum + groups[g]![j]!.costs[k]!, 0);
}
export function lossOf(groups: readonly (readonly Item[])[], chosen: readonly number[]): number {
  return chosen.reduce((sum, j, g) => sum + groups[g]![j]!.loss, 0);
}
