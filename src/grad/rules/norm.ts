import { floatAttr, intAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import type { DimX } from "../emit.ts";
import type { Row, Rule } from "../rule.ts";

const range = (from: number, to: number) => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);

/** x̂ = (x − mean)·rstd over `axes` (without the mean: x·rstd). */
function normalized(r: Row, x: Value, axes: readonly number[], epsilon: number, centred: boolean): { xhat: Value; rstd: Value } {
  const mean = (v: Value) => r.e.reduce("ReduceMean", v, axes, 1);
  const c = centred ? r.op("Sub", x, mean(x)) : x;
  const rstd = r.div(1, r.op("Sqrt", r.add(mean(r.mul(c, c)), epsilon)));
  return { xhat: r.mul(c, rstd), rstd };
}
/** dx = rstd·(g − mean g − x̂·mean(g·x̂)); without centring the mean of g stays. */
function backward(r: Row, g: Value, n: { xhat: Value; rstd: Value }, axes: readonly number[], centred: boolean): Value {
  const mean = (v: Value) => r.e.reduce("ReduceMean", v, axes, 1);
  const along = r.mul(n.xhat, mean(r.mul(g, n.xhat)));
  return r.mul(n.rstd, r.sub(centred ? r.op("Sub", g, mean(g)) : g, along));
}

/** Y = x̂·γ + β over the axes from `axis` on (LayerNormalization), or x·rstd·γ (RMSNormalization). */
const overLast =
  (centred: boolean): Rule =>
  (r) => {
    if (r.hasDy(1) || r.hasDy(2)) r.refuse("the mean and deviation outputs are used");
    const rank = r.rank(r.x());
    const axes = range(r.axis(intAttr(r.node, "axis", -1), rank), rank);
    const n = normalized(r, r.x(), axes, floatAttr(r.node, "epsilon", 1e-5), centred);
    return [
      r.need(0) ? backward(r, r.mul(r.dy(), r.x(1)), n, axes, centred) : undefined,
      r.need(1) ? r.unbroadcast(r.mul(r.dy(), n.xhat), r.x(1)) : undefined,
      r.need(2) ? r.unbroadcast(r.dy(), r.x(2)) : undefined,
    ];
  };
export const layerNorm = overLast(true);
export const rmsNorm = overLast(false);

/**
 * Inference: Y = (X − mean)·k + β with k = γ/√(var + ε), all [C]. Training: mean and var are those of the batch over (N, spatial).
 * The running averages carry no gradient.
 */
export const batchNorm: Rule = (r) => {
  const rank = r.rank(r.x());
  const epsilon = floatAttr(r.node, "epsilon", 1e-5);
  const axes = [0, ...range(2, rank)];
  const perChannel = (v: Value) => r.e.op("Unsqueeze", [v, r.e.ints(range(1, rank - 1))]);
  const sum = (v: Value) => r.e.reduce("ReduceSum", v, axes, 0);
  if (intAttr(r.node, "training_mode", 0) === 1) {
    const n = normalized(r, r.x(), axes, epsilon, true);
    return [
      r.need(0) ? backward(r, r.mul(r.dy(), perChannel(r.x(1))), n, axes, true) : undefined,
      r.need(1) ? sum(r.mul(r.dy(), n.xhat)) : undefined,
      r.need(2) ? sum(r.dy()) : undefined,
    ];
  }
  const rstd = r.div(1, r.op("Sqrt", r.add(r.x(4), epsilon)));
  const k = r.mul(r.x(1), rstd);
  // Σ dY·(X − mean), [C]: dγ times √(var + ε).
  const centred = () => sum(r.mul(r.dy(), r.op("Sub", r.x(), perChannel(r.x(3)))));
  return [
    r.need(0) ? r.mul(r.dy(), perChannel(k)) : undefined,
    r.need(1) ? r.mul(centred(), rstd) : undefined,
    r.need(2) ? sum(r.dy()) : undefined,
    r.need(3) ? r.op("Neg", r.mul(sum(r.dy()), k)) : undefined,
    r.need(4) ? r.mul(r.mul(centred(), k), r.mul(r.mul(rstd, rstd), -0.5)) : undefined,
  ];
};

/** x̂ over the spatial axes of each channel (instance) or of each group of channels: X viewed as [N, G, rest]. γ and β are [C]. */
const grouped =
  (groups: (r: Row) => DimX): Rule =>
  (r) => {
    const rank = r.rank(r.x());
    const view = (v: Value) => r.e.reshape(v, [r.e.dim(r.x(), 0), groups(r), -1]);
    const back = (v: Value) => r.e.reshapeLike(v, r.x());
    const perChannel = (v: Value) => r.e.op("Unsqueeze", [v, r.e.ints(range(1, rank - 1))]);
    const n = normalized(r, view(r.x()), [2], floatAttr(r.node, "epsilon", 1e-5), true);
    const axes = [0, ...range(2, rank)];
    return [
      r.need(0) ? back(backward(r, view(r.mul(r.dy(), perChannel(r.x(1)))), n, [2], true)) : undefined,
      r.need(1) ? r.e.reduce("ReduceSum", r.mul(r.dy(), back(n.xhat)), axes, 0) : undefined,
      r.need(2) ? r.e.reduce("ReduceSum", r.dy(), axes, 0) : undefined,
    ];
  };
export const instanceNorm = grouped((r) => r.e.dim(r.x(), 1));
export const groupNorm: Rule = (r) => {
  if (r.e.opset < 21) r.refuse("before opset 21 scale and bias are per group");
  return grouped((q) => intAttr(q.node, "num_groups", 1))(r);
};

/** y = x/‖x‖ₚ along one axis. p = 2: (dy − y·Σ dy·y)/‖x‖. p = 1: (dy − sign(x)·Σ dy·y)/‖x‖. */
export const lpNorm: Rule = (r) => {
  const p = intAttr(r.node, "p", 2);
  const axes = [r.axis(intAttr(r.node, "axis", -1), r.rank(r.x()))];
  const size = r.e.reduce(p === 1 ? "ReduceL1" : "ReduceL2", r.x(), axes, 1);
  const inner = r.e.reduce("ReduceSum", r.mul(r.dy(), r.y()), axes, 1);
  const along = r.mul(p === 1 ? r.op("Sign", r.x()) : r.y(), inner);
  return [r.op("Div", r.op("Sub", r.dy(), along), size)];
};
