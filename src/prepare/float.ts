import { intAttr } from "../graph/attr.ts";
import { cloneModel } from "../graph/clone.ts";
import { toFloat32 } from "../graph/constant.ts";
import type { Model, Node } from "../graph/ir.ts";
import { traitOf } from "../graph/ops/index.ts";
import { floats, type TensorData } from "../graph/tensor.ts";
import { allNodes } from "../graph/walk.ts";
import { type IntDType, isIntDType } from "../quant/dtype.ts";
import { decode } from "../quant/encode.ts";
import type { Granularity } from "../quant/granularity.ts";
import { unpackCodes } from "../quant/pack.ts";

export interface Floated {
  readonly model: Model;
  /** Pairs on activations that were taken out, and constants that became float32. */
  readonly pairs: number;
  readonly constants: number;
  /** Quantized operators that have no float twin here. */
  readonly left: readonly Node[];
}

/**
 * A copy of a Q/DQ model without its quantization: a QuantizeLinear with its DequantizeLinear becomes the value itself, a DequantizeLinear
 * of a constant becomes  w = s·(q − z)  in float32. What rounding lost stays lost. QOperator forms (QLinearConv and the like) are left.
 */
export function withoutQuantization(source: Model): Floated {
  const model = cloneModel(source);
  let pairs = 0;
  let constants = 0;
  for (const n of [...allNodes(model)]) {
    if (n.op !== "DequantizeLinear" || (n.domain !== "" && n.domain !== "com.microsoft")) continue;
    const from = n.inputs[0];
    if (from?.isConstant) {
      const w = dequantized(n);
      if (w === undefined) continue;
      become(n, n.graph.constant(w, `${from.name}_float`));
      constants++;
    } else if (from?.producer?.op === "QuantizeLinear") {
      become(n, from.producer.inputs[0]!);
      pairs++;
    }
  }
  for (const n of [...allNodes(model)].reverse())
    if (n.op === "QuantizeLinear" && n.outputs.every((o) => !o || (o.uses.length === 0 && !o.isOutput))) n.graph.remove(n);
  return { model, pairs, constants, left: [...allNodes(model)].filter((n) => traitOf(n) === "quantized") };
}

/** The node passes `value` on: an Identity keeps the names of graph outputs, and preparing drops it elsewhere. */
function become(n: Node, value: NonNullable<Node["inputs"][number]>): void {
  while (n.inputs.length > 1) n.graph.replaceUse(n, n.inputs.length - 1, undefined);
  n.graph.replaceUse(n, 0, value);
  n.op = "Identity";
  n.domain = "";
  n.attrs.clear();
}

function dequantized(n: Node): TensorData | undefined {
  const [q, scale, zero] = n.inputs.map((v) => v?.data);
  if (q === undefined || scale === undefined || !isIntDType(q.dtype)) return undefined;
  const count = q.shape.reduce((a, b) => a * b, 1);
  const codes = unpackCodes(q.bytes(), q.dtype, count);
  const s = toFloat32(scale);
  if (zero !== undefined && !isIntDType(zero.dtype)) return undefined;
  const zeroPoint = zero === undefined ? [0] : unpackCodes(zero.bytes(), zero.dtype as IntDType, s.length);
  const rank = q.shape.length;
  const axis = rank === 0 ? 0 : (intAttr(n, "axis", 1) + rank) % rank;
  const size = intAttr(n, "block_size", 0);
  const granularity: Granularity =
    s.length === 1 ? { kind: "tensor" } : size > 0 ? { kind: "block", axis, size } : { kind: "channel", axis };
  return floats(decode(codes, q.shape, { dtype: q.dtype, granularity, scale: s, zeroPoint }), q.shape);
}
