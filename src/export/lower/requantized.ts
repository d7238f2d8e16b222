import type { Use } from "../../graph/ir.ts";
import { floats, tensorFrom } from "../../graph/tensor.ts";
import type { Coded } from "../../plan/codes.ts";
import { requantizedParams } from "../../plan/codes.ts";
import { quantizePair } from "./emit.ts";
import { byGraph, type Constants, dequantized } from "./weights.ts";

/**
 * 4-bit codes in memory, 8-bit arithmetic: DQ(int4) -> Q(int8 per output channel) -> DQ. TensorRT makes one requantizing kernel and an int8
 * product of it; a blocked 4-bit weight straight against an 8-bit activation it computes wrongly, and a 4-bit weight of a convolution it
 * refuses ("CHECK(dtype == W.type())").
 */
export function lowerRequantized(c: Coded, constants: Constants, uses: readonly Use[]): void {
  const { axis, scale } = requantizedParams(c);
  for (const [graph, part] of byGraph(uses)) {
    const { out: real, first } = dequantized(c, constants, graph, part, c.site.scheme.granularity.kind === "block" ? "blocks" : "fine");
    const stem = `${c.value.name}_requantized`;
    const p = {
      scale: graph.constant(floats(scale, [scale.length]), `${stem}_scale`),
      zeroPoint: graph.constant(tensorFrom(new Int8Array(scale.length)), `${stem}_zero_point`),
    };
    const out = quantizePair(graph, real, stem, { axis }, p, (spec) => graph.insertBefore(first, spec));
    for (const u of part) graph.replaceUse(u.node, u.input, out);
  }
}
