import { constantOf } from "../../graph/constant.ts";
import type { Node, Use, Value } from "../../graph/ir.ts";
import { floats, int64s, tensorFromBytes } from "../../graph/tensor.ts";
import type { Coded } from "../../plan/codes.ts";
import { spread } from "../../plan/tensors.ts";
import { INT_DTYPES, isIntDType } from "../../quant/dtype.ts";
import { RULE } from "./emit.ts";
import { replaceOutput } from "./gather.ts";

/**
 * Codes of W [K, N] in blocks of B along K, as com.microsoft MatMulNBits and GatherBlockQuantized hold them (onnxruntime
 * docs/ContribOperators.md):
 *   data     uint8 [N, K/B, B·bits/8]   codes of a column, block after block, lowest bits first, the last block filled with zero points
 *   scales   float [N, K/B]
 *   zeros    uint8 [N, ceil(K/B · bits / 8)]   packed row by row; undefined where all are 2^(bits-1), the operators' default
 */
interface Packed {
  readonly K: number;
  readonly N: number;
  readonly bits: number;
  readonly size: number;
  readonly blocks: number;
  readonly bytes: number;
  /** Of a large weight, made anew each time. */
  data(): Uint8Array;
  readonly scales: Float32Array;
  readonly zeros: Uint8Array | undefined;
}

/** The constants of a packed weight in one graph; several operators may read them. */
interface Stored {
  readonly packed: Packed;
  readonly weight: Value;
  readonly scale: Value;
  readonly zero: Value | undefined;
}

function pack(c: Coded): Packed {
  const { scheme } = c.site;
  if (!isIntDType(scheme.dtype) || scheme.granularity.kind !== "block") throw new Error("internal: MatMulNBits takes blocks of codes");
  const { bits } = INT_DTYPES[scheme.dtype];
  // A transposed Gemm weight and a table are [N, K], their parameters [N, K/B].
  const flip = scheme.granularity.axis === 1;
  const [K, N] = (flip ? [c.shape[1], c.shape[0]] : c.shape) as [number, number];
  const size = scheme.granularity.size;
  const blocks = Math.ceil(K / size);
  const scale = spread(c.scale, blocks * N);
  const zero = spread(c.zeroPoint, blocks * N);
  const per = 8 / bits;
  const mask = (1 << bits) - 1;
  const scales = new Float32Array(N * blocks);
  const row = Math.ceil(blocks / per);
  const zeros = new Uint8Array(N * row);
  for (let n = 0; n < N; n++) {
    for (let b = 0; b < blocks; b++) {
      const at = flip ? n * blocks + b : b * N + n;
      scales[n * blocks + b] = scale[at]!;
      zeros[n * row + Math.floor(b / per)]! |= (zero[at]! & mask) << ((b % per) * bits);
    }
  }
  const bytes = (N * blocks * size) / per;
  const fill = () => {
    const { codes } = c;
    const out = new Uint8Array(bytes);
    for (let n = 0; n < N; n++) {
      for (let b = 0; b < blocks; b++) {
        const last = zero[flip ? n * blocks + b : b * N + n]!;
        for (let i = 0; i < size; i++) {
          const k = b * size + i;
          const q = k < K ? codes[flip ? n * K + k : k * N + n]! : last;
          const flat = (n * blocks + b) * size + i;
          out[Math.floor(flat / per)]! |= (q & mask) << ((flat % per) * bits);
        }
      }
    }
    return out;
  };
  const kept = c.large ? undefined : fill();
  const plain = zero.every((z) => z === 2 ** (bits - 1));
  return { K, N, bits, size, blocks, bytes, data: () => kept ?? fill(), scales, zeros: plain ? undefined : zeros };
}

/** Packed weights by the constant that they are made of: an embedding and the output projection with equal codes are stored once. */
export class PackedConstants {
  readonly #made = new Map<Value, Stored[]>();

  of(c: Coded): Stored {
    const root = constantOf(c.value)?.root ?? c.value;
    const packed = pack(c);
    const known = this.#made.get(root) ?? [];
    const same = known.find((s) => equal(s.packed, packed));
    if (same) return same;
    const graph = c.value.graph;
    const stem = c.value.name;
    const { N, blocks, bits, size } = packed;
    const stored: Stored = {
      packed,
      weight: graph.constant(
        { dtype: "uint8", shape: [N, blocks, (size * bits) / 8], byteLength: packed.bytes, bytes: packed.data },
        `${stem}_quantized`,
      ),
      scale: graph.constant(floats(packed.scales, [N, blocks]), `${stem}_scale`),
      zero: packed.zeros && graph.constant(tensorFromBytes("uint8", [N, packed.zeros.length / N], packed.zeros), `${stem}_zero_point`),
    };
    this.#made.set(root, [...known, stored]);
    return stored;
  }
}

function equal(a: Packed, b: Packed): boolean {
  const alike = (x: ArrayLike<number> | undefined, y: ArrayLike<number> | undefined): boolean => {
    if (!x || !y) return x === y;
    if (x.length !== y.length) return false;
    for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false;
    return true;
  };
  return a.bits === b.bits && a.size === b.size && alike(a.scales, b.scales) && alike(a.zeros, b.zeros) && alike(a.data(), b.data());
}

/** Y = A · W (+ bias, for a Gemm) as MatMulNBits. */
export function lowerMatMulNBits(c: Coded, constants: PackedConstants, uses: readonly Use[]): void {
  const { packed, weight, scale, zero } = constants.of(c);
  const { K, N, bits, size } = packed;
  const level = c.site.accuracyLevel;
  const attrs = { K, N, bits, block_size: size, ...(level !== undefined && { accuracy_level: level }) };
  const parts = zero ? [weight, scale, zero] : [weight, scale];
  for (const { node } of uses) lowerProduct(node, "MatMulNBits", [node.inputs[0], ...parts], attrs);
}

/**
 * A table [V, D] with blocks along D as GatherBlockQuantized, which unpacks the picked rows alone. Its codes are a matrix: those of a
 * product get there by a Reshape, which the runtime folds when it loads the model.
 */
export function lowerGatherBlock(c: Coded, constants: PackedConstants, uses: readonly Use[]): void {
  const { packed, weight, scale, zero } = constants.of(c);
  const { N, bits, size } = packed;
  for (const { node } of uses) {
    const old = node.outputs[0]!;
    const stem = node.name !== "" ? node.name : old.name;
    const origin = { rule: RULE, from: [node.name] };
    const shape = node.graph.constant(int64s([N, packed.bytes / N]), `${c.value.name}_rows`);
    const rows = node.graph.insertBefore(node, {
      op: "Reshape",
      name: `${stem}_table`,
      inputs: [weight, shape],
      outputs: [node.graph.freshName(`${c.value.name}_table`)],
      origin,
    }).outputs[0]!;
    const next = node.graph.insertBefore(node, {
      op: "GatherBlockQuantized",
      domain: "com.microsoft",
      name: `${stem}_GatherBlockQuantized`,
      inputs: zero ? [rows, node.inputs[1], scale, zero] : [rows, node.inputs[1], scale],
      outputs: [node.graph.freshName(`${old.name}_rows`)],
      attrs: { block_size: size, gather_axis: 0, quantize_axis: 1, bits },
      origin,
    });
    const out = next.outputs[0]!;
    node.graph.setType(out, old.type);
    replaceOutput(node, old, out);
  }
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
