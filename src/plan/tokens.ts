import type { Value } from "../graph/ir.ts";
import { floats, int64s, type TensorData } from "../graph/tensor.ts";
import { MIN_SCALE } from "../quant/affine.ts";

/** What builds the nodes: each caller has its own place and names. `hint` tells the nodes apart. */
export interface TokenBuilder {
  readonly opset: number;
  node(op: string, inputs: readonly Value[], hint: string, attrs?: Readonly<Record<string, number | readonly number[]>>): Value;
  constant(data: TensorData, hint: string): Value;
}

/** The largest code: −127 … 127, so that x and −x have opposite codes. */
const TOP = 127;
/** Stored as uint8 around this: int8 against int8 was measured 7 times slower in onnxruntime 1.30 with AVX512-VNNI. */
export const TOKEN_ZERO = 128;

/**
 * Per-token codes of an activation in standard operators: every row along the last axis has a scale of its own, taken while running.
 *
 *   s = max(max_k |x[…, k]| / 127, 2^-100)  […, 1];   q = round(x / s),  |q| ≤ 127, stored as q + 128
 *
 * Gives x / s and s; rounding is the caller's, to floats or to codes. In float32 the largest quotient is 127 within a few units of its last place, which rounds to 127: nothing is left to clip. A row of zeros
 * has the least scale and codes 0.
 */
export function tokenQuotient(x: Value, b: TokenBuilder): { readonly quotient: Value; readonly scale: Value } {
  const magnitude = b.node("Abs", [x], "magnitude");
  // ReduceMax takes its axes as an attribute up to opset 17, as an input from 18.
  const most =
    b.opset < 18
      ? b.node("ReduceMax", [magnitude], "most", { axes: [-1], keepdims: 1 })
      : b.node("ReduceMax", [magnitude, b.constant(int64s([-1]), "axes")], "most", { keepdims: 1 });
  const share = b.node("Div", [most, b.constant(floats([TOP], []), "top")], "share");
  const scale = b.node("Max", [share, b.constant(floats([MIN_SCALE], []), "least")], "scale");
  return { quotient: b.node("Div", [x, scale], "quotient"), scale };
}
