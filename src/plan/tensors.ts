import type { TensorData } from "../graph/tensor.ts";
import { isIntDType } from "../quant/dtype.ts";
import { unpackCodes } from "../quant/pack.ts";
import type { Numbers, PlanBundle } from "./types.ts";

/** The elements of a float32 or integer tensor of a plan. */
export function readTensorNumbers(
  t: TensorData,
): ArrayLike<number> & { some(f: (x: number) => boolean): boolean; findIndex(f: (x: number) => boolean): number } {
  const b = t.bytes();
  if (t.dtype === "float32" || t.dtype === "float64") {
    const c = b.byteOffset % 8 === 0 ? b : b.slice();
    return t.dtype === "float32"
      ? new Float32Array(c.buffer, c.byteOffset, c.byteLength / 4)
      : new Float64Array(c.buffer, c.byteOffset, c.byteLength / 8);
  }
  if (!isIntDType(t.dtype)) throw new TypeError(`internal: numbers of ${t.dtype}`);
  return unpackCodes(
    b,
    t.dtype,
    t.shape.reduce((x, y) => x * y, 1),
  );
}

/** The numbers of a plan as an array: written out in the document, or a tensor of the bundle. */
export function readNumbers(bundle: PlanBundle, n: Numbers): Float64Array {
  if (!("tensor" in n)) return Float64Array.from(n);
  return Float64Array.from(readTensorNumbers(bundle.tensors.get(n.tensor)!));
}

/** The same, one for each channel or block. */
export function spread(x: Float64Array, count: number): Float64Array {
  return x.length === 1 && count !== 1 ? new Float64Array(count).fill(x[0]!) : x;
}
