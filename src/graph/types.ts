import type { DType } from "../quant/dtype.ts";

/** A dimension: a number, a symbol, or unknown. */
export type Dim = number | string | undefined;

/** What only some files hold: a word for the meaning of each dimension. */
interface ShapeExtras {
  readonly denotation?: string;
  readonly dimDenotations?: readonly (string | undefined)[];
}

/**
 * Type of a value: ONNX TypeProto. `shape` undefined: rank unknown. `elem` undefined: element type not given.
 * `opaque`: the bytes of a TypeProto that says more than this union can, or an opaque_type.
 */
export type ValueType =
  | ({ readonly kind: "tensor"; readonly elem: DType | undefined; readonly shape: readonly Dim[] | undefined } & ShapeExtras)
  | ({ readonly kind: "sparse"; readonly elem: DType | undefined; readonly shape: readonly Dim[] | undefined } & ShapeExtras)
  | { readonly kind: "sequence"; readonly elem: ValueType | undefined; readonly denotation?: string }
  | { readonly kind: "optional"; readonly elem: ValueType | undefined; readonly denotation?: string }
  | { readonly kind: "map"; readonly key: DType | undefined; readonly elem: ValueType | undefined; readonly denotation?: string }
  | { readonly kind: "opaque"; readonly bytes: Uint8Array };

export function tensorType(elem: DType, shape?: readonly Dim[]): ValueType {
  return { kind: "tensor", elem, shape };
}

/** The shape when the rank and every dimension are known numbers. */
export function staticShape(t: ValueType | undefined): readonly number[] | undefined {
  if (t?.kind !== "tensor" || t.shape === undefined) return undefined;
  return t.shape.every((d) => typeof d === "number") ? (t.shape as readonly number[]) : undefined;
}
