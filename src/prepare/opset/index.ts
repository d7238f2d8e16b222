import { QcError } from "../../diagnostics.ts";
import { cloneModel } from "../../graph/clone.ts";
import type { FunctionDef, Graph, Model, Node, Value } from "../../graph/ir.ts";
import { ONNX_OPS } from "../../graph/ops/names.ts";
import type { TensorData } from "../../graph/tensor.ts";
import { origin, type StepContext } from "./step.ts";
import { NEWEST, OLDEST, STEPS } from "./table.ts";

export { NEWEST, OLDEST } from "./table.ts";

export interface OpsetConversion {
  /** What was changed, by rule, in the order of the first change. */
  readonly changes: readonly { readonly rule: string; readonly count: number }[];
  /** Why the model cannot be converted; then it is as it was. */
  readonly refused: readonly { readonly node: string; readonly op: string; readonly step: number; readonly why: string }[];
}

/** The least IR version of each opset (ONNX's Versioning.md), index 0 for opset 7. */
const IR = [3, 3, 4, 5, 6, 7, 7, 7, 8, 8, 8, 8, 9, 9, 10, 10, 11, 12, 13, 13];

const KNOWN: ReadonlySet<string> = new Set<string>(ONNX_OPS);

/**
 * Raises the opset of ai.onnx to `target`, one version after another, in the graph, its subgraphs and the model's functions. The
 * model's outputs stay equal. All or nothing: with a refusal the model is as before; without one its graph objects are new.
 * Other domains are left alone.
 */
export function convertOpset(model: Model, target: number): OpsetConversion {
  const counts = new Map<string, number>();
  const refused: OpsetConversion["refused"][number][] = [];
  const result = () => ({ changes: [...counts].map(([rule, count]) => ({ rule, count })), refused });
  const from = model.opsets.get("");
  if (!Number.isInteger(target) || target < OLDEST || target > NEWEST) {
    refused.push({ node: "", op: "", step: target, why: `opset ${target} is outside ${OLDEST} to ${NEWEST}` });
    return result();
  }
  const work = cloneModel(model);
  const job = { refused, counts };
  if (from !== undefined) raise(work.graph, from, target, false, job);
  work.functions = work.functions.map((f): FunctionDef => {
    const at = f.opsets.get("");
    if (at === undefined) return f;
    raise(f.body, at, target, true, job);
    return { ...f, opsets: new Map(f.opsets).set("", Math.max(at, target)) };
  });
  if (refused.length > 0) {
    counts.clear();
    return result();
  }
  model.graph = work.graph;
  model.functions = work.functions;
  if (from !== undefined) model.opsets.set("", target);
  model.irVersion = Math.max(model.irVersion, IR[target - OLDEST]!);
  return result();
}

/** The same for a stage that cannot go on without it: a refusal is an error that names every node. */
export function requireOpset(model: Model, target: number): OpsetConversion["changes"] {
  const from = model.opsets.get("") ?? 1;
  const { changes, refused } = convertOpset(model, target);
  if (refused.length > 0) throw new QcError({ code: "prepare/opset-refused", from, to: target, nodes: refused });
  return changes;
}

interface Counters {
  readonly refused: { node: string; op: string; step: number; why: string }[];
  readonly counts: Map<string, number>;
}

function raise(graph: Graph, from: number, target: number, isFunction: boolean, job: Counters): void {
  if (from < OLDEST || from > target) {
    const why = from < OLDEST ? `opset ${from} is older than ${OLDEST}` : `opset ${from} is newer than ${target}: there is no way down`;
    job.refused.push({ node: graph.name, op: "", step: target, why });
    return;
  }
  const ctx: StepContext = {
    constant: (at, data, hint) => (isFunction && at.graph === graph ? constantNode(at, data, hint) : at.graph.constant(data, hint)),
    changed: (rule) => job.counts.set(rule, (job.counts.get(rule) ?? 0) + 1),
  };
  const stuck = new Set<Node>();
  for (let step = from + 1; step <= target; step++) {
    for (const n of [...graph.allNodes()]) {
      if (n.domain !== "" || stuck.has(n)) continue;
      const row = STEPS[n.op];
      const why = row === undefined && !KNOWN.has(n.op) ? "no operator of ai.onnx that is known here" : row?.[step]?.(n, ctx);
      if (why === undefined) continue;
      stuck.add(n);
      job.refused.push({ node: n.name || n.op, op: n.op, step, why });
    }
  }
}

function constantNode(at: Node, data: TensorData, hint: string): Value {
  const g = at.graph;
  return g.insertBefore(at, {
    op: "Constant",
    inputs: [],
    attrs: { value: { kind: "tensor", value: data } },
    outputs: [g.freshName(hint)],
    origin: origin("constant", at),
  }).outputs[0]!;
}
