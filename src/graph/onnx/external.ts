import { QcError } from "../../diagnostics.ts";
import type { ByteSource } from "../../io/source.ts";
import type { DType } from "../../quant/dtype.ts";
import type { ExternalRef, TensorData } from "../tensor.ts";
import { type Entry, lazy, type TensorContext } from "./tensor.ts";
import type { Wire } from "./wire.ts";

/** Finds data files; opened at most once each. */
export type OpenExternal = (location: string, tensor: string) => ByteSource;

export interface ExternalUse {
  readonly tensor: string;
  readonly ref: ExternalRef;
}

/** External tensors up to this size are kept once read; larger ones are read from the file each time. */
const KEPT = 1 << 16;

/** Where the bytes of a tensor outside the file stand, checked against that file. */
export function external(
  w: Wire,
  entries: readonly Entry[],
  tensor: string,
  dtype: DType,
  byteLength: number,
  ctx: TensorContext,
): Pick<TensorData, "bytes" | "external"> {
  let location = "";
  let offset = 0;
  let length = byteLength;
  const number = (key: string, text: string) => {
    const n = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(n)) throw w.bad(`external data with ${key} "${text.slice(0, 40)}"`);
    return n;
  };
  for (const [key, value] of entries) {
    if (key === "location") location = value;
    else if (key === "offset") offset = number(key, value);
    else if (key === "length") length = number(key, value);
  }
  if (dtype === "string") throw w.bad("strings in external data");
  if (location === "") throw w.bad("external data without location");
  if (length !== byteLength) throw w.bad(`external data of ${length} bytes where the shape needs ${byteLength}`);
  const ref: ExternalRef = { location, offset, length };
  const { open } = ctx;
  if (open === undefined) {
    const none = () => {
      throw new QcError({ code: "io/external-no-folder", tensor, location });
    };
    return { external: ref, bytes: none };
  }
  const source = open(location, tensor);
  if (offset + length > source.size)
    throw new QcError({
      code: "io/external-range",
      tensor,
      location,
      detail: `bytes ${offset} to ${offset + length} are wanted, the file has ${source.size}`,
    });
  ctx.external.push({ tensor, ref });
  // Not kept: a pass over a model beyond memory must be able to let go of each tensor. (A WeakRef would hold it to the end of the job.)
  if (length > KEPT) return { external: ref, bytes: () => source.read(offset, length) };
  const bytes = lazy(() => source.read(offset, length));
  return { external: ref, bytes };
}

/** Tensors may share a range (tied weights); ranges that overlap in part mean a damaged or malicious file. */
export function checkOverlap(uses: readonly ExternalUse[]): void {
  const sorted = uses
    .filter((u) => u.ref.length > 0)
    .sort((a, b) =>
      a.ref.location < b.ref.location
        ? -1
        : a.ref.location > b.ref.location
          ? 1
          : a.ref.offset - b.ref.offset || a.ref.length - b.ref.length,
    );
  for (let i = 1; i < sorted.length; i++) {
    const a = sorted[i - 1]!;
    const b = sorted[i]!;
    if (a.ref.location !== b.ref.location || (a.ref.offset === b.ref.offset && a.ref.length === b.ref.length)) continue;
    if (a.ref.offset + a.ref.length > b.ref.offset)
      throw new QcError({
        code: "io/external-range",
        tensor: b.tensor,
        location: b.ref.location,
        detail: `it overlaps "${a.tensor}" in part (byte ${b.ref.offset})`,
      });
  }
}
