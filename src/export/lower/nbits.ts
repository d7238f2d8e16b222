import type { Node, Use, Value } from "../../graph/ir.ts";
import { floats, tensorFromBytes } from "../../graph/tensor.ts";
import type { Coded } from "../../plan/codes.ts";
import { spread } from "../../plan/tensors.ts";
import { INT_DTYPES, isIntDType } from "../../quant/dtype.ts";
import { RULE } from "./emit.ts";
import { replaceOutput } from "./gather.ts";

/**
 * Y = A · W (+ bias, for a Gemm) with W [K, N] in blocks of B along K: com.microsoft MatMulNBits (onnxruntime docs/ContribOperators.md).
 *   B            uint8 [N, K/B, B·bits/8]   codes of a column, block after block, lowest bits first, the last block filled with zero points
 *   scales       float [N · K/B]
 *   zero_points  uint8 [N · ceil(K/B · bits / 8)]   packed row by row; left out where all are 2^(bits-1), the operator's default
 */
export function lowerMatMulNBits(c: Coded, uses: readonly Use[]): void {
  const { scheme } = c.site;
  if (!isIntDType(scheme.dtype) || scheme.granularity.kind !== "block") throw new Error("internal: MatMulNBits takes blocks of codes");
  const { bits } = INT_DTYPES[scheme.dtype];
  // A transposed Gemm weight is [N, K], its parameters [N, K/B].
  const flip = scheme.granularity.axis === 1;
  const [K, N] = (flip ? [c.shape[1], c.shape[0]] : c.shape) as [number, number];
  const size = scheme.granularity.size;
  const blocks = Math.ceil(K / size);
  const scale = spread(c.scale, blocks * N);
  const zero = spread(c.zeroPoint, blocks * N);
  const per = 8 / bits;
  const mask = (1 << bits) - 1;
  const data = new Uint8Array((N * blocks * size) / per);
  const scales = new Float32Array(N * blocks);
  const row = Math.ceil(blocks / per);
  const zeros = new Uint8Array(N * row);
  for (let n = 0; n < N; n++) {
    for (let b = 0; b < blocks; b++) {
      const at = flip ? n * blocks + b : b * N + n;
      scales[n * blocks + b] = scale[at]!;
      zeros[n * row + Math.floor(b / per)]! |= (zero[at]! & mask) << ((b % per) * bits);
      for (let i = 0; i < size; i++) {
        const k = b * size + i;
        const q = k < K ? c.codes[flip ? n * K + k : k * N + n]! : zero[at]!;
        const flat = (n * blocks + b) * size + i;
        data[Math.floor(flat / per)]! |= (q & mask) << ((flat % per) * bits);
      }
    }
  }
  const graph = c.value.graph;
  const stem = c.value.name;
  const weight = graph.constant(tensorFromBytes("uint8", [N, blocks, (size * bits) / 8], data), `${stem}_quantized`);
  const scaleValue = graph.constant(floats(scales, [N * blocks]), `${stem}_scale`);
  const usual = zero.every((z) => z === 2 ** (bits - 1));
  const zeroValue = usual ? undefined : graph.constant(tensorFromBytes("uint8", [N * row], zeros), `${stem}_zero_point`);
  const parts = zeroValue ? [weight, scaleValue, zeroValue] : [weight, scaleValue];
  for (const { node } of uses) lowerProduct(node, "MatMulNBits", [node.inputs[0], ...parts], { K, N, bits, block_size: size });
}

/** A product of com.microsoft in the place of a MatMul or Gemm; the bias of a Gemm is added behind it. */
export function lowerProduct(node: Node, op: string, inputs: readonly (Value | undefined)[], attrs: Record<string, number>): void {
  const old = node.outputs[0]!;
  const stem = node.name !== "" ? node.name : old.name;
  const next = node.graph.insertBefore(node, {
    op,
    domain: "com.microsoft",
    name: `${stem}_${op}`,
    inputs,
    outputs: [node.graph.freshName(`${old.name}_product`)],
    attrs,
    origin: { rule: RULE, from: [node.name] },
  });
  const bias = node.inputs[2];
  const sum =
    bias &&
    node.graph.insertBefore(node, {
      op: "Add",
      name: `${stem}_bias`,
      inputs: [next.outputs[0], bias],
      outputs: [node.graph.freshName(`${old.name}_biased`)],
      origin: { rule: RULE, from: [node.name] },
    });
  const out = (sum ?? next).outputs[0]!;
  node.graph.setType(out, old.type);
  replaceOutput(node, old, out);
}
