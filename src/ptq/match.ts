import { QcError } from "../diagnostics.ts";
import type { Model, Node } from "../graph/ir.ts";
import { opFacts } from "../graph/ops/index.ts";
import { allNodes, pathOfNode } from "../graph/walk.ts";
import { nearest } from "../plan/nearest.ts";
import { endsOf } from "./ends.ts";

/**
 * `--skip` and the like: node paths, globs over them (`*` any run, `?` one character), `op:Softmax`, or the products that no product comes
 * before (`at:first`), that none comes behind (`at:last`), or both (`at:ends`).
 * Every pattern must match something: one that matches nothing is a typing error.
 */
export function matchNodes(model: Model, patterns: readonly string[]): Set<Node> {
  const out = new Set<Node>();
  if (patterns.length === 0) return out;
  const nodes = [...allNodes(model)].map((node) => ({ node, path: pathOfNode(node) }));
  const failed: string[] = [];
  for (const p of patterns) {
    if (AT.has(p)) {
      const at = placesOf(model).get(p)!;
      for (const n of at) out.add(n);
      if (at.size === 0) failed.push(p);
      continue;
    }
    const op = p.startsWith("op:");
    const test = globOf(op ? p.slice(3) : p);
    let hits = 0;
    for (const { node, path } of nodes) {
      if (!test.test(op ? node.op : path)) continue;
      out.add(node);
      hits++;
    }
    if (hits === 0) failed.push(p);
  }
  if (failed.length > 0) {
    const names = [...new Set(nodes.flatMap(({ node, path }) => [path, `op:${node.op}`])), ...AT];
    throw new QcError(
      failed.map((pattern) => ({ code: "plan/skip-without-match", pattern, nearest: nearest(pattern, names) })),
      { exitCode: 2 },
    );
  }
  return out;
}

const AT: ReadonlySet<string> = new Set(["at:first", "at:last", "at:ends"]);

function placesOf(model: Model): ReadonlyMap<string, ReadonlySet<Node>> {
  const { nodes } = model.graph;
  const { first, last, both } = endsOf(nodes, new Map(nodes.map((n) => [n, opFacts(n)])));
  return new Map([
    ["at:first", first],
    ["at:last", last],
    ["at:ends", both],
  ]);
}

function globOf(pattern: string): RegExp {
  const body = pattern
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replace(/\*/g, ".*")
    .replace(/\?/g, ".");
  return new RegExp(`^${body}$`);
}
