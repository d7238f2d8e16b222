import type { Choice } from "./build.ts";
import type { Problem } from "./knapsack.ts";

/** What a plan must not exceed; what is left out is free. */
export interface Limits {
  /** Of the file. */
  readonly bytes?: number;
  /** Stored bits, scales included, over the number of weights. */
  readonly bits?: number;
  /** Time of a run, ms, by a cost table. */
  readonly ms?: number;
  readonly drop?: { readonly most: number; readonly unit: "%" | "pt" };
}

/** A cost beside bytes that adds up over units, as time does by a table of nodes. */
export interface UnitCost {
  /** Of a whole choice, what lies between units included; without it the sum. */
  readonly whole?: (choice: Choice) => number;
  /** The same in a knapsack whose first groups are the units and whose constraint k is this cost. */
  readonly extend?: (p: Problem, k: number | "loss") => Problem;
  /** Of what no scheme changes. */
  readonly fixed: number;
  /** Of a unit (its key) in a scheme (its name). */
  readonly of: (unit: string, scheme: string) => number;
}
