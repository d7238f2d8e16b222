import { error, list, plural, type Section } from "./format.ts";

export const PLAN = {
  "plan/indivisible-block": (f: { readonly size: number; readonly weights: readonly { readonly name: string; readonly dim: number }[] }) =>
    error(
      `Block size ${f.size} does not divide ${plural(f.weights.length, "weight")}: ${list(f.weights.map((w) => `${w.name} (K=${w.dim})`))}`,
      "Choose a block size that divides them, or leave them out with --skip.",
    ),
} as const satisfies Section;
