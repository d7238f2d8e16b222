import type { Use } from "../../graph/ir.ts";
import { floats, tensorFrom } from "../../graph/tensor.ts";
import { tensorType } from "../../graph/types.ts";
import type { Coded } from "../../plan/codes.ts";
import { requantizedParams } from "../../plan/codes.ts";
import { axisAttrs, quantizePair, RULE } from "./emit.ts";
import { byGraph, type Constants, earliest } from "./weights.ts";

/**
 * 4-bit codes in memory, 8-bit arithmetic: DQ(int4 blocks) -> Q(int8 per output channel) -> DQ. TensorRT makes one requantizing kernel and
 * an int8 product of it; a blocked 4-bit weight straight against an 8-bit activation it computes wrongly.
 */
export function lowerRequantized(c: Coded, constants: Constants, uses: readonly Use[]): void {
  const k = constants.of(c);
  const { axis, scale } = requantizedParams(c);
  for (const [graph, part] of byGraph(uses)) {
    const first = earliest(
      graph,
      part.map((u) => u.node),
    );
    const dq = graph.insertBefore(first, {
      op: "DequantizeLinear",
      name: `${c.value.name}_DequantizeLinear`,
      inputs: [k.codes, k.scale, k.zeroPoint],
      outputs: [graph.freshName(`${c.value.name}_blocks`)],
      attrs: axisAttrs(c.site.scheme),
      origin: { rule: RULE, from: [c.value.name] },
    });
    const real = dq.outputs[0]!;
    graph.setType(real, tensorType("float32", c.shape));
    const stem = `${c.value.name}_requantized`;
    const p = {
      scale: graph.constant(floats(scale, [scale.length]), `${stem}_scale`),
      zeroPoint: graph.constant(tensorFrom(new Int8Array(scale.length)), `${stem}_zero_point`),
    };
    const out = quantizePair(graph, real, stem, { axis }, p, (spec) => graph.insertBefore(first, spec));
    for (const u of part) graph.replaceUse(u.node, u.input, out);
  }
}
