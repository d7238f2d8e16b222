import type { Use } from "../../graph/ir.ts";
import { tensorType } from "../../graph/types.ts";
import type { Coded } from "../../plan/codes.ts";
import { DTYPES, isIntDType } from "../../quant/dtype.ts";
import { axisAttrs, codesTensor, paramConstants, RULE } from "./emit.ts";
import { byGraph, earliest } from "./weights.ts";

/**
 * 4-bit codes in the file, 8-bit ones in memory: Cast(int4 -> int8) -> DequantizeLinear of int8. onnxruntime folds the cast while it loads
 * (from level `basic` on), and finds the int8 weight that its integer kernels want; without optimizations the cast runs, with the same result.
 */
export function lowerQdqCast(c: Coded, uses: readonly Use[]): void {
  const { scheme } = c.site;
  if (!isIntDType(scheme.dtype) || DTYPES[scheme.dtype].kind !== "int" || scheme.granularity.kind === "block")
    throw new Error("internal: codes that are cast are signed, with a scale for each channel");
  const home = c.value.graph;
  const stem = c.value.name;
  const codes = home.constant(codesTensor(c.codes, c.shape, scheme.dtype), `${stem}_quantized`);
  const p = paramConstants(home, stem, c.shape, { ...scheme, dtype: "int8" }, c.scale, c.zeroPoint);
  for (const [graph, part] of byGraph(uses)) {
    const first = earliest(
      graph,
      part.map((u) => u.node),
    );
    const origin = { rule: RULE, from: [stem] };
    const cast = graph.insertBefore(first, {
      op: "Cast",
      name: `${stem}_Cast`,
      inputs: [codes],
      outputs: [graph.freshName(`${stem}_int8`)],
      attrs: { to: DTYPES.int8.code },
      origin,
    });
    graph.setType(cast.outputs[0]!, tensorType("int8", c.shape));
    const dq = graph.insertBefore(first, {
      op: "DequantizeLinear",
      name: `${stem}_DequantizeLinear`,
      inputs: [cast.outputs[0], p.scale, p.zeroPoint],
      outputs: [graph.freshName(`${stem}_dequantized`)],
      attrs: axisAttrs(scheme),
      origin,
    });
    graph.setType(dq.outputs[0]!, tensorType("float32", c.shape));
    for (const u of part) graph.replaceUse(u.node, u.input, dq.outputs[0]!);
  }
}
