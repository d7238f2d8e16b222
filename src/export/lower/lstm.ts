import { transpose } from "../../graph/constant.ts";
import type { Node, Use, Value } from "../../graph/ir.ts";
import { floats } from "../../graph/tensor.ts";
import type { Coded } from "../../plan/codes.ts";
import { spread } from "../../plan/tensors.ts";
import { isIntDType } from "../../quant/dtype.ts";
import { codesTensor, RULE } from "./emit.ts";

/** Inputs of DynamicQuantizeLSTM behind the eight of LSTM: W_scale, W_zero_point, R_scale, R_zero_point (onnxruntime ContribOperators.md). */
const LSTM_INPUTS = 8;

/**
 * LSTM nodes of which both weights are codes become com.microsoft DynamicQuantizeLSTM: X and the state are quantized while running.
 * W [directions, 4H, I] and R [directions, 4H, H] are stored transposed, [directions, I, 4H]; scales [directions, 4H], shared by directions.
 */
export function lowerDynamicLstm(parts: readonly { readonly coded: Coded; readonly uses: readonly Use[] }[]): void {
  const byNode = new Map<Node, Map<number, Coded>>();
  for (const { coded, uses } of parts)
    for (const u of uses) byNode.set(u.node, (byNode.get(u.node) ?? new Map<number, Coded>()).set(u.input, coded));
  const made = new Map<Coded, readonly [Value, Value, Value]>();
  for (const [node, weights] of byNode) {
    const [w, r] = [weights.get(1), weights.get(2)];
    if (!w || !r) throw new Error(`internal: "${node.name}" has one quantized weight: the plan was not checked`);
    const graph = node.graph;
    const [cw, cr] = [w, r].map((c) => {
      const known = made.get(c);
      if (known) return known;
      const set = constantsOf(c);
      made.set(c, set);
      return set;
    }) as [readonly [Value, Value, Value], readonly [Value, Value, Value]];
    const given = Array.from({ length: LSTM_INPUTS }, (_, i) => node.inputs[i]);
    given[1] = cw[0];
    given[2] = cr[0];
    const outputs = node.outputs.map((o) => (o ? graph.freshName(`${o.name}_quantized`) : ""));
    const next = graph.insertBefore(node, {
      op: "DynamicQuantizeLSTM",
      domain: "com.microsoft",
      name: `${node.name}_DynamicQuantizeLSTM`,
      inputs: [...given, cw[1], cw[2], cr[1], cr[2]],
      outputs,
      attrs: Object.fromEntries([...node.attrs].filter(([k]) => k !== "layout")),
      origin: { rule: RULE, from: [node.name] },
    });
    node.outputs.forEach((old, i) => {
      const out = next.outputs[i];
      if (!old || !out) return;
      graph.setType(out, old.type);
      graph.replaceAllUses(old, out);
      if (old.isOutput) graph.takeOutput(old, out);
    });
    graph.remove(node);
  }
}

function constantsOf(c: Coded): readonly [Value, Value, Value] {
  const { dtype } = c.site.scheme;
  if (!isIntDType(dtype)) throw new Error(`internal: codes of ${dtype}`);
  const [directions, gates, inner] = c.shape as [number, number, number];
  const flipped = Int32Array.from(transpose(Float32Array.from(c.codes), c.shape, [0, 2, 1]));
  const graph = c.value.graph;
  const one = spread(c.scale, gates);
  const zero = spread(c.zeroPoint, gates);
  const all = (x: Float64Array): number[] => Array.from({ length: directions }, () => [...x]).flat();
  return [
    graph.constant(codesTensor(flipped, [directions, inner, gates], dtype), `${c.value.name}_quantized`),
    graph.constant(floats(all(one), [directions, gates]), `${c.value.name}_scale`),
    graph.constant(codesTensor(all(zero), [directions, gates], dtype), `${c.value.name}_zero_point`),
  ];
}
