import { byteCount, DTYPES, type DType, type IntDType } from "./dtype.ts";

/**
 * Codes to ONNX raw_data bytes. 8/16/32-bit: little endian; 4-bit: the first element in the low nibble; 2-bit: four a byte,
 * the first in the lowest bits; packed over the whole tensor, no row padding, the rest of the last byte 0 (onnx.proto).
 */
export function packCodes(codes: ArrayLike<number>, dtype: IntDType): Uint8Array {
  const bits = DTYPES[dtype].bits;
  const out = new Uint8Array(byteCount(dtype, codes.length));
  if (bits < 8) {
    const per = 8 / bits;
    const mask = (1 << bits) - 1;
    for (let i = 0; i < codes.length; i++) out[(i / per) | 0]! |= (codes[i]! & mask) << ((i % per) * bits);
    return out;
  }
  const view = new DataView(out.buffer);
  for (let i = 0; i < codes.length; i++) {
    const c = codes[i]!;
    if (bits === 8) out[i] = c & 0xff;
    else if (bits === 16) view.setUint16(2 * i, c & 0xffff, true);
    else view.setInt32(4 * i, c, true);
  }
  return out;
}

/** The inverse of `packCodes`; `count` elements. */
export function unpackCodes(bytes: Uint8Array, dtype: IntDType, count: number): Int32Array {
  const { bits, kind } = DTYPES[dtype] as { bits: number; kind: DTypeKind };
  const out = new Int32Array(count);
  const signed = kind === "int";
  if (bits < 8) {
    const per = 8 / bits;
    const mask = (1 << bits) - 1;
    const half = 1 << (bits - 1);
    for (let i = 0; i < count; i++) {
      const c = (bytes[(i / per) | 0]! >> ((i % per) * bits)) & mask;
      out[i] = signed && c >= half ? c - 2 * half : c;
    }
    return out;
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let i = 0; i < count; i++) {
    if (bits === 8) out[i] = signed ? view.getInt8(i) : bytes[i]!;
    else if (bits === 16) out[i] = signed ? view.getInt16(2 * i, true) : view.getUint16(2 * i, true);
    else out[i] = view.getInt32(4 * i, true);
  }
  return out;
}
type DTypeKind = (typeof DTYPES)[DType]["kind"];
