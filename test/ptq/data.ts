import type { DataSet } from "../../src/data/types.ts";
import type { Model } from "../../src/graph/ir.ts";
import { feedsOf } from "../prepare/build.ts";

/** `n` seeded samples for a model: three quarters calibrate, the rest select. */
export function seededSet(model: Model, n: number): DataSet {
  const all = Array.from({ length: n }, (_, i) => i);
  return {
    name: "seeded",
    size: n,
    roles: { calibrate: all.filter((i) => i % 4 !== 3), select: all.filter((i) => i % 4 === 3), heldOut: [] },
    sha256: "",
    metric: undefined,
    classes: undefined,
    sample: async (i) => ({ id: String(i), feeds: feedsOf(model, i + 1) }),
  };
}
