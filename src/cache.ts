import { constantOf } from "./graph/constant.ts";
import type { Model, Value } from "./graph/ir.ts";
import { allNodes } from "./graph/walk.ts";
import { DTYPES } from "./quant/dtype.ts";

/** The key/value cache of a decoder, as far as the graph tells. */
export interface CacheFacts {
  /** Inputs that an output continues. */
  readonly tensors: number;
  /** Of one token in one sequence, over all of them. */
  readonly bytesPerToken: number;
  readonly types: readonly string[];
  /** Positions that the graph's own tables have; undefined: it computes them, or was not exported with a limit. */
  readonly contextLength: number | undefined;
}

/**
 * A cache entry is a graph input of rank 3 or more whose name says past or cache, with one open axis beside the batch, and an output of the
 * same type and fixed dimensions. An entry of a token is the product of the fixed dimensions.
 */
export function cacheOf(model: Model): CacheFacts | undefined {
  const outputs = new Set(model.graph.outputs.flatMap((v) => fixedOf(v)?.key ?? []));
  const types = new Set<string>();
  let tensors = 0;
  let bits = 0;
  for (const v of model.graph.inputs) {
    const f = fixedOf(v);
    if (!f || !/past|cache/i.test(v.name) || !outputs.has(f.key)) continue;
    tensors++;
    bits += f.count * DTYPES[f.elem].bits;
    types.add(f.elem);
  }
  return tensors === 0 ? undefined : { tensors, bytesPerToken: bits / 8, types: [...types], contextLength: positionsOf(model) };
}

function fixedOf(v: Value): { readonly key: string; readonly count: number; readonly elem: keyof typeof DTYPES } | undefined {
  const t = v.type;
  if (t?.kind !== "tensor" || !t.elem || !t.shape || t.shape.length < 3) return undefined;
  const fixed = t.shape.filter((d): d is number => typeof d === "number");
  if (t.shape.length - fixed.length < 1 || fixed.length === 0) return undefined;
  return { key: `${t.elem}:${t.shape.length}:${fixed.join()}`, count: fixed.reduce((a, b) => a * b, 1), elem: t.elem };
}

/** Rows of the tables that positions look up: rotary caches of the attention operators, or a Gather by the positions fed. */
function positionsOf(model: Model): number | undefined {
  let least: number | undefined;
  const take = (v: Value | undefined) => {
    const rows = constantOf(v)?.shape[0];
    if (rows !== undefined && (least === undefined || rows < least)) least = rows;
  };
  for (const n of allNodes(model)) {
    if (n.op === "GroupQueryAttention" || n.op === "RotaryEmbedding")
      for (const v of n.inputs.slice(1)) if (constantOf(v)?.shape.length === 2) take(v);
    if (n.op === "Gather" && /position/i.test(n.inputs[1]?.name ?? "")) take(n.inputs[0]);
  }
  return least;
}
