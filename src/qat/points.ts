import { intAttr } from "../graph/attr.ts";
import type { Model, Node, Value } from "../graph/ir.ts";

/** Where student and teacher are compared: a value of the prepared graph, or what a node reads. */
export interface OutputPoint {
  readonly output: string;
  /** Logits of a classifier are compared by KL as well; anything else by relative error alone. */
  readonly kind: "logits" | "values";
  /** The value itself, or input 0 of the Softmax that ends the graph. */
  readonly value: Value;
  readonly softmax: Node | undefined;
}

/**
 * The float outputs. A graph output behind a Softmax over its last axis is compared before it: probabilities hide what the logits say. An
 * output of rank 2 with two or more columns counts as logits.
 */
export function outputPoints(
  model: Model,
  rankOf: (v: Value) => readonly number[] | undefined,
  isFloat: (v: Value) => boolean,
): OutputPoint[] {
  const out: OutputPoint[] = [];
  for (const o of model.graph.outputs) {
    if (!isFloat(o)) continue;
    let at: Value = o;
    let softmax: Node | undefined;
    for (let p = at.producer; p; p = at.producer) {
      if (p.domain !== "" || p.inputs[0] === undefined) break;
      const shape = rankOf(p.inputs[0]);
      const axis = intAttr(p, "axis", -1);
      if (p.op === "Identity") at = p.inputs[0];
      else if (p.op === "Softmax" && shape && (axis === -1 || axis === shape.length - 1)) {
        softmax = p;
        at = p.inputs[0];
        break;
      } else break;
    }
    const shape = rankOf(at);
    const classes = shape?.length === 2 && shape[1]! >= 2 && (softmax !== undefined || out.length === 0);
    out.push({ output: o.name, kind: classes ? "logits" : "values", value: softmax ? at : o, softmax });
  }
  return out;
}

/**
 * Values through which everything passes: after their producer no other computed value is still to be read. Block outputs of a residual
 * network, layer outputs of a plain one. At most `most`, spread evenly, the last (the output) left out.
 */
export function cutPoints(model: Model, isFloat: (v: Value) => boolean, most: number): Value[] {
  const { nodes } = model.graph;
  const last = new Map<Value, number>();
  const depends = new Set<Value>(model.graph.inputs);
  nodes.forEach((n, i) => {
    const reads = [...n.inputs, ...n.subgraphs.flatMap((s) => [...s.allNodes()].flatMap((m) => m.inputs))];
    let dynamic = false;
    for (const v of reads)
      if (v && depends.has(v)) {
        dynamic = true;
        last.set(v, i);
      }
    if (dynamic) for (const o of n.outputs) if (o) depends.add(o);
  });
  const cuts: Value[] = [];
  const alive = new Set<Value>(model.graph.inputs.filter((v) => last.has(v)));
  nodes.forEach((n, i) => {
    for (const o of n.outputs) if (o && depends.has(o) && last.has(o)) alive.add(o);
    for (const v of [...alive]) if (last.get(v)! <= i) alive.delete(v);
    const only = alive.size === 1 ? [...alive][0]! : undefined;
    if (only && n.outputs.includes(only) && isFloat(only)) cuts.push(only);
  });
  // A chain of cuts without branching between them: the last of a run says it all (Conv, Relu, Conv, Relu: the Relu).
  const kept = cuts.filter(
    (v) => v.producer !== undefined && v.uses.some((u) => u.node.outputs[0] !== undefined && u.node.inputs.length > 1),
  );
  if (kept.length <= most) return kept;
  return Array.from({ length: most }, (_, i) => kept[Math.floor(((i + 1) * kept.length) / (most + 1))]!);
}
