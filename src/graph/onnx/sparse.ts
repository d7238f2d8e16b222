import { QcError } from "../../diagnostics.ts";
import { LIMITS } from "../../io/limits.ts";
import { byteCount, DTYPES } from "../../quant/dtype.ts";
import type { SparseTensor } from "../attr.ts";
import { asIntegers, type TensorData } from "../tensor.ts";
import { countOf, lazy, readTensor, type TensorContext } from "./tensor.ts";
import type { Wire } from "./wire.ts";

/** SparseTensorProto: values [NNZ], indices [NNZ] (linear) or [NNZ, rank]. */
export function readSparse(w: Wire, ctx: TensorContext, keepName = false): { readonly name: string; readonly sparse: SparseTensor } {
  let values: ReturnType<typeof readTensor> | undefined;
  let indices: TensorData | undefined;
  const dims: (number | bigint)[] = [];
  const unknown: Uint8Array[] = [];
  while (w.next()) {
    if (w.field === 1) values = readTensor(w.message(), ctx, keepName);
    else if (w.field === 2) indices = readTensor(w.message(), ctx, true).data;
    else if (w.field === 3) w.ints(dims);
    else unknown.push(w.raw());
  }
  if (values === undefined || indices === undefined) throw w.bad("a sparse tensor without values or indices");
  countOf(w, dims);
  const nnz = values.data.shape[0] ?? 0;
  const rank = dims.length;
  const ok =
    indices.dtype === "int64" &&
    indices.shape[0] === nnz &&
    (indices.shape.length === 1 || (indices.shape.length === 2 && indices.shape[1] === rank));
  if (values.data.shape.length !== 1 || !ok)
    throw w.bad(`a sparse tensor with values [${values.data.shape.join(", ")}] and indices [${indices.shape.join(", ")}]`);
  return { name: values.name, sparse: { values: values.data, indices, shape: dims as number[], ...(unknown.length > 0 && { unknown }) } };
}

/** The dense form of a sparse tensor, made when its bytes are asked for. */
export function dense(s: SparseTensor, name: string, file: string): TensorData {
  const { dtype } = s.values;
  const count = s.shape.reduce((a, d) => a * d, 1);
  const byteLength = byteCount(dtype, count);
  const bytes = lazy(() => {
    if (byteLength > LIMITS.denseBytes)
      throw new QcError({
        code: "io/limit",
        file,
        limit: "denseBytes",
        most: LIMITS.denseBytes,
        got: byteLength,
        at: `sparse tensor "${name}"`,
      });
    const { bits } = DTYPES[dtype];
    if (bits < 8) throw new QcError({ code: "graph/unsupported-type", at: `sparse tensor "${name}"`, what: `A sparse ${dtype}` });
    const width = bits / 8;
    const out = new Uint8Array(byteLength);
    const from = s.values.bytes();
    const at = asIntegers(s.indices);
    const rank = s.indices.shape.length === 1 ? 1 : s.shape.length;
    const bounds = s.indices.shape.length === 1 ? [count] : s.shape;
    for (let i = 0; i * width < from.length; i++) {
      let linear = 0;
      for (let d = 0; d < rank; d++) {
        const index = at[i * rank + d]!;
        if (!(index >= 0 && index < bounds[d]!))
          throw new QcError({
            code: "graph/invalid",
            constraint: "sparse index inside the shape",
            at: name,
            detail: `index ${index} in dimension ${d} of ${bounds[d]}`,
          });
        linear = linear * bounds[d]! + index;
      }
      for (let k = 0; k < width; k++) out[linear * width + k] = from[i * width + k]!;
    }
    return out;
  });
  return { dtype, shape: s.shape, byteLength, bytes };
}
