import type { PlanBundle } from "../plan/types.ts";
import type { Sensitivity } from "./lab.ts";
import type { Drop } from "./meter.ts";

/** A plan of the search: its codes solved, measured as it would be shipped. */
export interface Point {
  readonly choice: Readonly<Record<string, string>>;
  /** Weights in the file: codes, scales, zero points. */
  readonly weightBytes: number;
  readonly fileBytes: number;
  readonly bits: number;
  /** By the cost table, where there is one. */
  readonly ms?: number;
  /** Noise ÷ signal that was predicted, NaN until sensitivities are known, and what was measured. */
  predicted: number;
  readonly measured: number;
  readonly db: number;
  readonly drop?: Drop;
  readonly bundle: PlanBundle;
}

/** The loss of the start, and what each change of one unit alone adds to it. */
export interface Sensitivities {
  readonly start: number;
  readonly rows: readonly Sensitivity[];
}

/** The sum of single changes. */
export function summedLoss(s: Sensitivities, choice: Readonly<Record<string, string>>): number {
  return s.rows.reduce((sum, r) => (choice[r.unit] === r.scheme ? sum + r.added : sum), s.start);
}
