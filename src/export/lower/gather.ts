import { intAttr } from "../../graph/attr.ts";
import type { Node, Use, Value } from "../../graph/ir.ts";
import { int64s } from "../../graph/tensor.ts";
import type { Coded } from "../../plan/codes.ts";
import { DTYPES } from "../../quant/dtype.ts";
import { RULE } from "./emit.ts";
import type { Constants } from "./weights.ts";

/**
 * A table [V, D…] looked up as codes: y = (Gather(codes, i) - z) * Gather(scale, i), so that V rows are never dequantized for a few of them.
 * With one scale: DequantizeLinear(Gather(codes, i)). Equal to Gather(DequantizeLinear(codes), i) bit for bit.
 */
export function lowerGatherCodes(c: Coded, constants: Constants, uses: readonly Use[]): void {
  const k = constants.of(c);
  const g = c.site.scheme.granularity;
  for (const { node } of uses) {
    const graph = node.graph;
    const old = node.outputs[0]!;
    const indices = node.inputs[1]!;
    const axis = intAttr(node, "axis", 0);
    const stem = node.name !== "" ? node.name : old.name;
    const origin = { rule: RULE, from: [stem] };
    const before = (op: string, inputs: (Value | undefined)[], hint: string, attrs: Record<string, number> = {}): Value =>
      graph.insertBefore(node, { op, name: `${stem}_${hint}`, inputs, outputs: [graph.freshName(`${old.name}_${hint}`)], attrs, origin })
        .outputs[0]!;
    const codes = before("Gather", [k.codes, indices], "codes", { axis });
    let out: Value;
    if (g.kind === "tensor") out = before("DequantizeLinear", [codes, k.scale, k.zeroPoint], "dequantized");
    else {
      const picked = before("Gather", [k.scale, indices], "scale", { axis: 0 });
      const rest = Array.from({ length: c.shape.length - 1 }, (_, i) => i - (c.shape.length - 1));
      const axes = graph.constant(int64s(rest), `${stem}_scale_axes`);
      const column = before("Unsqueeze", [picked, axes], "scale_column");
      const real = before("Cast", [codes], "real", { to: DTYPES.float32.code });
      out = before("Mul", [real, column], "dequantized");
    }
    graph.setType(out, old.type);
    replaceOutput(node, old, out);
  }
}

/** `out` takes the place of `old`, output of a node that then goes. */
export function replaceOutput(node: Node, old: Value, out: Value): void {
  const graph = node.graph;
  graph.replaceAllUses(old, out);
  if (old.isOutput) graph.takeOutput(old, out);
  graph.remove(node);
}
