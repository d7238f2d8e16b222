import type { Node, Value } from "../graph/ir.ts";
import type { OpFacts } from "../graph/ops/index.ts";

/** Products of the main graph that no product comes before, and those that none comes behind. */
export interface Ends {
  readonly first: ReadonlySet<Node>;
  readonly last: ReadonlySet<Node>;
  readonly both: ReadonlySet<Node>;
}

/** Nodes are in execution order. */
export function endsOf(nodes: readonly Node[], facts: ReadonlyMap<Node, OpFacts | undefined>): Ends {
  const isProduct = (n: Node): boolean => {
    const f = facts.get(n);
    return f?.trait === "compute" && f.weights.length > 0;
  };
  const first = new Set<Node>();
  const behind = new Set<Value>();
  for (const n of nodes) {
    const fed = n.inputs.some((v) => v && behind.has(v));
    if (isProduct(n) && !fed) first.add(n);
    if (isProduct(n) || fed) for (const v of n.outputs) if (v) behind.add(v);
  }
  const last = new Set<Node>();
  const before = new Set<Value>();
  for (const n of [...nodes].reverse()) {
    const feeds = n.outputs.some((v) => v && before.has(v));
    if (isProduct(n) && !feeds) last.add(n);
    if (isProduct(n) || feeds) for (const v of n.inputs) if (v) before.add(v);
  }
  return { first, last, both: new Set([...first, ...last]) };
}
