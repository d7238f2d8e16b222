import type { Use } from "../../graph/ir.ts";
import { floats, tensorFromBytes } from "../../graph/tensor.ts";
import type { Coded } from "../../plan/codes.ts";
import { spread } from "../../plan/tensors.ts";
import { isCodebookDType } from "../../quant/codebook.ts";
import { lowerProduct } from "./nbits.ts";

/**
 * Y = A · W (+ bias, for a Gemm) with W [K, N]: com.microsoft MatMulBnb4 (onnxruntime docs/ContribOperators.md).
 *   B        uint8 [N·K / 2]   codes of Wᵀ row by row, two a byte, the earlier one in the high half
 *   absmax   float [N·K / block_size]   blocks run through that order too, so they must divide K to lie within a column of W
 *   quant_type   0: fp4, 1: nf4
 */
export function lowerMatMulBnb4(c: Coded, uses: readonly Use[]): void {
  const { dtype, granularity: g } = c.site.scheme;
  if (!isCodebookDType(dtype) || g.kind !== "block") throw new Error("internal: MatMulBnb4 takes blocks of codes into a table");
  const flip = g.axis === 1;
  const [K, N] = (flip ? [c.shape[1], c.shape[0]] : c.shape) as [number, number];
  const blocks = K / g.size;
  if (!Number.isInteger(blocks)) throw new Error(`internal: blocks of ${g.size} do not divide ${K}: the plan was not checked`);
  const scale = spread(c.scale, blocks * N);
  const data = new Uint8Array(Math.ceil((N * K) / 2));
  const absmax = new Float32Array(N * blocks);
  const { codes } = c;
  for (let n = 0; n < N; n++) {
    for (let b = 0; b < blocks; b++) absmax[n * blocks + b] = scale[flip ? n * blocks + b : b * N + n]!;
    for (let k = 0; k < K; k++) {
      const flat = n * K + k;
      data[flat >> 1]! |= codes[flip ? flat : k * N + n]! << (flat % 2 === 0 ? 4 : 0);
    }
  }
  const graph = c.value.graph;
  const stem = c.value.name;
  const weight = graph.constant(tensorFromBytes("uint8", [data.length], data), `${stem}_quantized`);
  const scales = graph.constant(floats(absmax, [absmax.length]), `${stem}_absmax`);
  const attrs = { K, N, block_size: g.size, quant_type: dtype === "nf4" ? 1 : 0 };
  for (const { node } of uses) lowerProduct(node, "MatMulBnb4", [node.inputs[0], weight, scales], attrs);
}
