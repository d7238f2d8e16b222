import { floatAttr } from "../graph/attr.ts";
import { toFloat32 } from "../graph/constant.ts";
import type { Model, Node, Value } from "../graph/ir.ts";
import type { Target } from "../plan/target.ts";
import { quantize } from "../quant/affine.ts";
import { INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import { unpackCodes } from "../quant/pack.ts";

/** Rewrites that the target's kernels need and that change no result. */
export function legalize(model: Model, target: Target): void {
  if (target.placement !== "fused-regions") return;
  dropAbsorbedClamps(model, target);
  keepPoolsFloat(model);
}

/**
 * onnxruntime turns DQ -> AveragePool -> Q into QLinearAveragePool, measured 33 times slower than the float kernel. A Max of one operand
 * (the identity, which no optimizer removes) between the pool and its Q keeps the pool as it is.
 */
export function keepPoolsFloat(model: Model): void {
  const { graph } = model;
  for (const pool of [...graph.nodes]) {
    if (pool.op !== "AveragePool" || pool.domain !== "" || pool.inputs[0]?.producer?.op !== "DequantizeLinear") continue;
    const out = pool.outputs[0]!;
    if (out.isOutput || out.uses.length !== 1 || out.uses[0]!.node.op !== "QuantizeLinear") continue;
    const use = out.uses[0]!;
    const guard = graph.insertAfter(pool, {
      op: "Max",
      name: graph.freshName(`${pool.name}_float`),
      inputs: [out],
      outputs: [graph.freshName(`${out.name}_float`)],
      origin: { rule: "keep-pools-float", from: [pool.name] },
    });
    graph.setType(guard.outputs[0]!, out.type);
    graph.replaceUse(use.node, use.input, guard.outputs[0]!);
  }
}

/**
 * A clamp right before a Q goes when the Q saturates where the clamp does:
 *   clip(x, a, b) then Q  =  Q   iff   Q(a) is the lowest code and Q(b) the highest
 * (codes are monotone in x, so everything below a gets the lowest code too). Relu: a = 0, b = infinity.
 */
export function dropAbsorbedClamps(model: Model, target: Target): void {
  const absorbed = new Set(target.rows.filter((r) => r.output === "absorbed").flatMap((r) => r.ops));
  for (const q of [...model.graph.nodes]) {
    if (q.op !== "QuantizeLinear") continue;
    const clamp = q.inputs[0]?.producer;
    if (clamp?.domain !== "" || !absorbed.has(clamp.op)) continue;
    const out = clamp.outputs[0]!;
    const limits = limitsOf(clamp);
    if (!limits || out.uses.length !== 1 || out.isOutput || !saturates(q, limits)) continue;
    model.graph.replaceUse(q, 0, clamp.inputs[0]!);
    model.graph.remove(clamp);
  }
}

interface Limits {
  readonly min: number;
  readonly max: number;
}

function limitsOf(n: Node): Limits | undefined {
  if (n.op === "Relu") return { min: 0, max: Number.POSITIVE_INFINITY };
  const at = (input: number, attr: string, otherwise: number): number | undefined => {
    const v = n.inputs[input];
    if (!v) return floatAttr(n, attr, otherwise);
    return v.isConstant && v.data?.dtype === "float32" ? toFloat32(v.data)[0] : undefined;
  };
  const min = at(1, "min", Number.NEGATIVE_INFINITY);
  const max = at(2, "max", Number.POSITIVE_INFINITY);
  return min === undefined || max === undefined ? undefined : { min, max };
}

function saturates(q: Node, { min, max }: Limits): boolean {
  const scale = scalar(q.inputs[1]);
  const zero = q.inputs[2];
  const dtype = zero?.data?.dtype;
  if (scale === undefined || !zero?.data || dtype === undefined || !isIntDType(dtype) || zero.data.byteLength !== 1) return false;
  const p = { dtype, scale, zeroPoint: unpackCodes(zero.data.bytes(), dtype, 1)[0]! };
  return (
    (min === Number.NEGATIVE_INFINITY || quantize(min, p) === INT_DTYPES[dtype].min) &&
    (max === Number.POSITIVE_INFINITY || quantize(max, p) === INT_DTYPES[dtype].max)
  );
}

function scalar(v: Value | undefined): number | undefined {
  if (!v?.isConstant || v.data?.dtype !== "float32") return undefined;
  const x = toFloat32(v.data);
  return x.length === 1 ? x[0] : undefined;
}
