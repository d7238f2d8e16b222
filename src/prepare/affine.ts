import { floatAttr, intAttr } from "../graph/attr.ts";
import { constantOf } from "../graph/constant.ts";
import type { Node, Value } from "../graph/ir.ts";

/** `y = k·x + s` per channel, in double. */
export interface Affine {
  readonly x: Value;
  readonly k: Float64Array;
  readonly s: Float64Array;
}

/**
 * BatchNormalization at inference: `k = gamma / sqrt(var + eps)`, `s = beta − mean·k`, channels on axis 1 (Ioffe and Szegedy 2015).
 * A string says why not.
 */
export function batchNormAffine(n: Node): Affine | string {
  if (intAttr(n, "training_mode", 0) !== 0) return "it is in training mode";
  if (n.outputs.slice(1).some((o) => o && (o.uses.length > 0 || o.isOutput))) return "its statistics are used";
  const params = [1, 2, 3, 4].map((i) => constantOf(n.inputs[i]));
  if (params.some((p) => !p)) return "its parameters are computed at run time";
  if (params.some((p) => p!.dtype !== "float32")) return `its parameters are ${params.find((p) => p!.dtype !== "float32")!.dtype}`;
  const [gamma, beta, mean, variance] = params.map((p) => p!.float32()) as [Float32Array, Float32Array, Float32Array, Float32Array];
  const eps = Math.fround(floatAttr(n, "epsilon", 1e-5));
  const k = Float64Array.from(gamma, (g, c) => g / Math.sqrt(variance[c]! + eps));
  const s = Float64Array.from(beta, (b, c) => b - mean[c]! * k[c]!);
  if (!finite(k) || !finite(s)) return "its scale is not finite";
  return { x: n.inputs[0]!, k, s };
}

/**
 * Mul, Add, Sub, Div of a value and a constant that is one number or one number a channel. `axis` counts the channel axis from the front
 * (1) or the back (-1); `rank` is that of the value. undefined: no constant operand.
 */
export function elementwiseAffine(n: Node, channels: number, axis: 1 | -1, rank: number | undefined): Affine | string | undefined {
  const side = constantOf(n.inputs[1]) ? 1 : constantOf(n.inputs[0]) ? 0 : undefined;
  if (side === undefined || n.inputs.length !== 2) return undefined;
  const x = n.inputs[1 - side]!;
  const c = constantOf(n.inputs[side])!;
  if (c.dtype !== "float32") return undefined;
  const list = c.float32();
  if (c.shape.length > 1 && rank === undefined) return "the rank of its input is not known";
  if (rank !== undefined && c.shape.length > rank) return "its constant has more axes than its input";
  const at = axis === -1 ? c.shape.length - 1 : c.shape.length - (rank ?? 1) + 1;
  const perChannel = list.length === channels && c.shape[at] === channels;
  if (list.length !== 1 && !perChannel) return "its constant varies over more than the channels";
  const v = (o: number) => (list.length === 1 ? list[0]! : list[o]!);
  const k = new Float64Array(channels).fill(1);
  const s = new Float64Array(channels);
  for (let o = 0; o < channels; o++) {
    if (n.op === "Mul") k[o] = v(o);
    else if (n.op === "Add") s[o] = v(o);
    else if (n.op === "Div" && side === 1) k[o] = 1 / v(o);
    else if (n.op === "Sub") {
      s[o] = side === 1 ? -v(o) : v(o);
      if (side === 0) k[o] = -1;
    } else return "it divides a constant by its input";
  }
  if (!finite(k) || !finite(s)) return "its constant makes values that are not finite";
  return { x, k, s };
}

const finite = (x: Float64Array): boolean => x.every(Number.isFinite);
