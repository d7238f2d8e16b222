import type { Model, Node } from "../../../graph/ir.ts";
import { opFacts } from "../../../graph/ops/index.ts";
import { allNodes } from "../../../graph/walk.ts";
import type { Target } from "../../../plan/target.ts";
import type { DType } from "../../../quant/dtype.ts";
import { operandOf } from "../trace.ts";
import type { LintRule } from "../types.ts";

export const BUILDER = "experiment: parser and builder of TensorRT-RTX 1.7.1";
export const OLD = "experiment: parser and builder of TensorRT 8.6.0";
export const DOC = "NVIDIA TensorRT documentation, Q/DQ Layer-Placement Recommendations";
const on = ["tensorrt"] as const;
export const opset = (m: Model): number => m.opsets.get("") ?? 1;
export const isOld = (t: Target): boolean => t.version !== undefined && Number.parseFloat(t.version) < 9;
export const capability = (t: Target): number | undefined => (t.arch === undefined ? undefined : Number(t.arch.slice(2)));
export const rule = (r: Omit<LintRule, "targets">): LintRule => ({ ...r, targets: on });

/** Types of codes in TensorRT's Q and DQ layers. */
export const CODES: ReadonlySet<DType> = new Set(["int8", "float8e4m3fn", "int4", "float4e2m1"]);

export const isProduct = (n: Node): boolean => n.domain === "" && opFacts(n)?.trait === "compute";
/** Products whose operands are matrices: the weight has one axis of sums. */
export const isMatrixProduct = (n: Node): boolean => isProduct(n) && (n.op === "MatMul" || n.op === "Gemm");

/** Products with what their operands are. */
export function* products(model: Model): Generator<{ node: Node; x: ReturnType<typeof operandOf>; w: ReturnType<typeof operandOf> }> {
  const at = opset(model);
  for (const node of allNodes(model))
    if (isProduct(node)) yield { node, x: operandOf(node.inputs[0], at), w: operandOf(node.inputs[1], at) };
}
