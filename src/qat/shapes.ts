import { QcError } from "../diagnostics.ts";
import type { Model } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { tensorType, type ValueType } from "../graph/types.ts";
import { exposeValues } from "../runtime/expose.ts";
import type { Feeds, Runtime, Tensor } from "../runtime/types.ts";

/**
 * Types of every value of the main graph for one batch, by running it once with all of them exposed: exact where inference of shapes
 * would have to guess. Constants are included.
 */
export async function shapesOf(model: Model, runtime: Runtime, feeds: Feeds): Promise<Map<string, ValueType>> {
  const names = model.graph.nodes.flatMap((n) => n.outputs.flatMap((o) => (o && o.name !== "" ? [o.name] : [])));
  const { model: open } = exposeValues(model, names);
  const session = await runtime.open(writeModel(open), { label: "shapes" });
  const types = new Map<string, ValueType>();
  try {
    const out = await session.run(feeds);
    for (const [name, t] of Object.entries({ ...feeds, ...out })) types.set(name, tensorType(t.dtype, t.dims));
  } finally {
    await session.release();
  }
  for (const v of model.graph.initializers) if (v.data) types.set(v.name, tensorType(v.data.dtype, v.data.shape));
  return types;
}

/** Feeds of several samples as one batch along axis 0. Samples of unlike shapes are refused by name. */
export function batchOf(samples: readonly { readonly id: string; readonly feeds: Feeds }[]): Feeds {
  const first = samples[0]!;
  if (samples.length === 1) return first.feeds;
  const out: Record<string, Tensor> = {};
  for (const [name, t] of Object.entries(first.feeds)) {
    if (t.dims.length === 0 || Array.isArray(t.data)) {
      out[name] = t;
      continue;
    }
    const each = t.data.length;
    const data = new (t.data.constructor as new (n: number) => Float32Array)(each * samples.length);
    samples.forEach((s, i) => {
      const u = s.feeds[name];
      if (!u || u.dims.join() !== t.dims.join())
        throw new QcError({ code: "qat/unlike-samples", input: name, first: first.id, second: s.id, shapes: [t.dims, u?.dims ?? []] });
      data.set(u.data as Float32Array, i * each);
    });
    out[name] = { dtype: t.dtype, dims: [t.dims[0]! * samples.length, ...t.dims.slice(1)], data };
  }
  return out;
}
