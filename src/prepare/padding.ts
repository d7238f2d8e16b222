import { intsAttr, stringAttr } from "../graph/attr.ts";
import type { Node } from "../graph/ir.ts";

/** Why a shift cannot move from a product's input into its bias: some outputs see fewer inputs than others. undefined: it can. */
export function paddingOf(n: Node): string | undefined {
  if (n.op === "Gemm" || n.op === "MatMul") return undefined;
  if (n.op === "ConvTranspose") return "border outputs of a transposed convolution see fewer inputs";
  const auto = stringAttr(n, "auto_pad", "NOTSET");
  if (auto !== "NOTSET" && auto !== "VALID") return `it pads by auto_pad ${auto}, and the padding is not shifted`;
  return intsAttr(n, "pads")?.some((p) => p !== 0) ? "it pads its input, and the padding is not shifted" : undefined;
}
