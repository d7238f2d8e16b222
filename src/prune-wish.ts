import type { Limit } from "./budget.ts";
import { QcError } from "./diagnostics.ts";

/** The part of the multiplications that goes; "auto": as much as the budget asks for. */
export type PruneWish = number | "auto";

export function parsePrune(text: string | undefined, budget: readonly Limit[]): PruneWish | undefined {
  if (text === undefined) return undefined;
  const bad = (want: string) => new QcError({ code: "cli/bad-value", flag: "--prune", got: text, want });
  if (text === "auto") {
    if (!budget.some((l) => l.kind === "size" || l.kind === "latency"))
      throw bad("auto only beside a limit on size or latency, which says how much has to go");
    return "auto";
  }
  const part = Number(text);
  if (!(part > 0 && part < 1)) throw bad("a part of the multiplications between 0 and 1, such as 0.3, or auto");
  return part;
}
