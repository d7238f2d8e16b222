import { intAttr } from "../../graph/attr.ts";
import type { Use } from "../../graph/ir.ts";
import type { Coded } from "../../plan/codes.ts";
import { RULE } from "./emit.ts";
import { replaceOutput } from "./gather.ts";
import type { Constants } from "./weights.ts";

/**
 * A table [V, D] with blocks along D: com.microsoft GatherBlockQuantized(codes, indices, scales, zero points), which unpacks the picked rows
 * alone. Codes are of the 4-bit type itself.
 */
export function lowerGatherBlock(c: Coded, constants: Constants, uses: readonly Use[]): void {
  const g = c.site.scheme.granularity;
  if (g.kind !== "block") throw new Error("internal: GatherBlockQuantized takes blocks");
  const k = constants.of(c);
  for (const { node } of uses) {
    const old = node.outputs[0]!;
    const next = node.graph.insertBefore(node, {
      op: "GatherBlockQuantized",
      domain: "com.microsoft",
      name: `${node.name !== "" ? node.name : old.name}_GatherBlockQuantized`,
      inputs: [k.codes, node.inputs[1], k.scale, k.zeroPoint],
      outputs: [node.graph.freshName(`${old.name}_rows`)],
      attrs: { block_size: g.size, gather_axis: intAttr(node, "axis", 0), quantize_axis: g.axis },
      origin: { rule: RULE, from: [node.name] },
    });
    const out = next.outputs[0]!;
    node.graph.setType(out, old.type);
    replaceOutput(node, old, out);
  }
}
