import { QcError } from "../diagnostics.ts";
import { intAttr, intsAttr } from "../graph/attr.ts";
import type { Graph, Model, Node } from "../graph/ir.ts";
import { int64s } from "../graph/tensor.ts";

/** Gradients are written for this opset. */
export const TRAIN_OPSET = 18;
const OLDEST = 11;

/** Where attributes became inputs between opsets 11 and 18 (onnx/defs/reduction, tensor): operator to the opset of the change. */
const AXES_TO_INPUT: ReadonlyMap<string, number> = new Map([
  ...["Squeeze", "Unsqueeze", "ReduceSum"].map((op) => [op, 13] as const),
  ...[
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
  ].map((op) => [op, 18] as const),
]);

/**
 * Raises a training graph (a copy: the plan's model keeps its opset) from opset 11…17 to 18, meaning the same: axes of reductions, Squeeze
 * and Unsqueeze become inputs, so do the sizes of Split; Softmax before 13 flattened all axes from `axis` on, which only the last axis
 * survives unchanged.
 */
export function raiseForTraining(model: Model): void {
  const now = model.opsets.get("") ?? 0;
  if (now >= TRAIN_OPSET) return;
  if (now < OLDEST) throw new QcError({ code: "grad/opset", opset: now });
  convert(model.graph, now);
  model.opsets.set("", TRAIN_OPSET);
  model.irVersion = Math.max(model.irVersion, 8);
}

function convert(g: Graph, now: number): void {
  for (const n of [...g.nodes]) {
    for (const s of n.subgraphs) convert(s, now);
    if (n.domain !== "") continue;
    const since = AXES_TO_INPUT.get(n.op);
    if (since !== undefined && now < since) attrToInput(n, "axes");
    if (n.op === "Split") {
      if (now < 13) attrToInput(n, "split");
      if (!n.inputs[1]) g.setAttr(n, "num_outputs", n.outputs.length);
    }
    if ((n.op === "Softmax" || n.op === "LogSoftmax") && now < 13) oldSoftmax(g, n);
  }
}

function attrToInput(n: Node, name: string): void {
  const values = intsAttr(n, name);
  if (!values) return;
  n.graph.replaceUse(n, 1, n.graph.constant(int64s(values), `${n.name}/${name}`));
  n.graph.setAttr(n, name, undefined);
}

/** Before 13: softmax over everything from `axis` (default 1) on. */
function oldSoftmax(g: Graph, n: Node): void {
  const axis = intAttr(n, "axis", 1);
  const rank = n.inputs[0]?.type?.kind === "tensor" ? n.inputs[0].type.shape?.length : undefined;
  if (axis === -1 || axis === (rank ?? 2) - 1) {
    g.setAttr(n, "axis", -1);
    return;
  }
  const x = n.inputs[0]!;
  const put = (op: string, hint: string, inputs: (typeof x)[], attrs: Record<string, number> = {}) => {
    const name = g.freshName(`${n.name}/${hint}`);
    return g.insertBefore(n, { op, inputs, attrs, name, outputs: [name] }).outputs[0]!;
  };
  const flat = put("Flatten", "flat", [x], { axis });
  const shape = put("Shape", "shape", [x]);
  g.replaceUse(n, 0, flat);
  g.setAttr(n, "axis", -1);
  const y = n.outputs[0]!;
  const name = g.freshName(`${n.name}/shaped`);
  const back = g.insertAfter(n, { op: "Reshape", inputs: [y, shape], name, outputs: [name] });
  for (const u of [...y.uses]) if (u.node !== back) u.node.graph.replaceUse(u.node, u.input, back.outputs[0]!);
  if (y.isOutput) g.takeOutput(y, back.outputs[0]!);
}
