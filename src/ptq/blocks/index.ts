import type { Node } from "../../graph/ir.ts";
import { floats } from "../../graph/tensor.ts";
import type { ValueType } from "../../graph/types.ts";
import type { Feeds, Runtime, Tensor } from "../../runtime/types.ts";
import { boundsOf } from "../layers.ts";
import { type Given, Prefix } from "../prefix.ts";
import { gridOf, type Solved } from "../sequential.ts";
import type { Streams } from "../streams.ts";
import { halves } from "../unfold.ts";
import { type Block, findBlocks } from "./find.ts";
import { BlockLearner, type Example, type Soft } from "./learn.ts";

export interface BlocksOptions {
  /** Of the plan whose layers are `solved`. */
  readonly streams: Streams;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly runtime: Runtime;
  readonly solved: readonly Solved[];
  readonly indices: readonly number[];
  readonly load: (index: number) => Promise<Feeds>;
  readonly memoryBytes: number;
  readonly steps: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
}

export interface BlockResult {
  readonly block: Block;
  readonly before: number;
  readonly after: number;
}

/**
 * Learns the roundings of every block of at least two solved layers, one block after the other, each behind the already changed ones. Layers
 * with one scale a row move; all else is frozen. The solved layers come back in the order given.
 */
export async function reconstructBlocks(
  o: BlocksOptions,
): Promise<{ readonly solved: readonly Solved[]; readonly blocks: readonly BlockResult[] }> {
  const { streams } = o;
  const of = new Map(o.solved.map((s) => [s.layer, s]));
  const free = o.solved.filter(({ layer }) => gridOf(layer).block === layer.k && streams.isFloat32(layer.input)).map((s) => s.layer);
  const blocks = findBlocks(streams.model.graph, free);
  const relevant: ReadonlySet<Node> = streams.ancestors(blocks.map((b) => b.output));
  const prefix = new Prefix(o);
  const none: ReadonlySet<Node> = new Set();
  const results: BlockResult[] = [];
  for (const block of blocks) {
    o.signal?.throwIfAborted();
    const examples: Example[] = [];
    let bytes = 0;
    const wants = [
      { stream: "quant", value: block.input },
      { stream: "float", value: block.output },
    ] as const;
    await prefix.advance(block.from, wants, relevant, none, (_, [x, y]) => {
      if (bytes > o.memoryBytes) return;
      const example = { x: widened(x!), y: widened(y!) };
      bytes += (example.x.data as Float32Array).byteLength + (example.y.data as Float32Array).byteLength;
      examples.push(example);
    });
    const key = streams.key("quant", block.input);
    const segment = streams.segment([{ stream: "quant", value: block.output }], new Map([[key, "float32" as const]]));
    const learner = await BlockLearner.open(
      o.runtime,
      { bytes: segment.bytes, x: key, output: segment.outputs[0]!.name },
      block.layers.map((l) => softOf(of.get(l)!)),
      examples,
      namedTypes(o.types),
    );
    if (!learner) continue;
    try {
      const { codes, before, after } = await learner.learn(o.steps, o.seed);
      results.push({ block, before, after });
      if (!(after < before)) continue;
      block.layers.forEach((l, n) => {
        const changed = withCodes(of.get(l)!, codes[n]!);
        of.set(l, changed);
        streams.setWeight(l.weight.value, floats(changed.weight, l.weight.constant.shape));
      });
    } finally {
      await learner.release();
    }
  }
  return { solved: o.solved.map((s) => of.get(s.layer)!), blocks: results };
}

/** Row of each element of a weight. */
function rowAt(s: Solved): Int32Array {
  const { groups, rows, k, rowStride, kStride } = s.layer;
  const out = new Int32Array(s.codes.length);
  for (let m = 0; m < groups * rows; m++) for (let i = 0; i < k; i++) out[m * rowStride + i * kStride] = m;
  return out;
}

function softOf(s: Solved): Soft {
  const row = rowAt(s);
  const { min, max } = boundsOf(s.layer);
  // One zero point for all rows, or bounds that hold for every row.
  const least = s.zeros.reduce((z, v) => Math.min(z, v), Infinity);
  const most = s.zeros.reduce((z, v) => Math.max(z, v), -Infinity);
  return {
    layer: s.layer,
    scale: Float32Array.from(row, (m) => s.scales[m]!),
    codes: Int32Array.from(s.codes, (q, p) => q - s.zeros[row[p]!]!),
    lo: min - least,
    hi: max - most,
  };
}

function withCodes(s: Solved, codes: Int32Array): Solved {
  const row = rowAt(s);
  const stored = s.codes.slice();
  for (let p = 0; p < stored.length; p++) stored[p] = codes[p]! + s.zeros[row[p]!]!;
  return {
    ...s,
    codes: stored,
    weight: Float32Array.from(codes, (c, p) => Math.fround(c * s.scales[row[p]!]!)),
  };
}

/** A tensor of a frontier as float32. */
function widened({ tensor, scale, codes }: Given): Tensor {
  const { data, dims } = tensor;
  if (codes)
    return { dtype: "float32", dims, data: Float32Array.from(data as Uint8Array, (q) => Math.fround((q - codes.zero) * codes.scale)) };
  if (scale === undefined) return tensor;
  const table = halves();
  return { dtype: "float32", dims, data: Float32Array.from(data as Uint16Array, (h) => table[h]! * scale) };
}

/** Types under the names of both streams; the first axis, where it is 1, takes any number of samples. */
function namedTypes(types: ReadonlyMap<string, ValueType>): Map<string, ValueType> {
  const out = new Map<string, ValueType>();
  for (const [name, t] of types) {
    const free: ValueType = t.kind === "tensor" && t.shape?.[0] === 1 ? { ...t, shape: ["batch", ...t.shape.slice(1)] } : t;
    for (const side of ["f", "q"]) out.set(`${side}/${name}`, free);
  }
  return out;
}
