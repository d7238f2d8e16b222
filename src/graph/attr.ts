import type { Graph } from "./ir.ts";
import type { TensorData } from "./tensor.ts";
import type { ValueType } from "./types.ts";

/** An attribute of a node: ONNX AttributeProto as a union. Integers are bigint only beyond 2^53. */
export type Attr = AttrKind & AttrExtras;

/** What else an AttributeProto held. */
export interface AttrExtras {
  readonly doc?: string;
  readonly unknown?: readonly Uint8Array[];
}

export type AttrKind =
  | { readonly kind: "int"; readonly value: number | bigint }
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "string"; readonly value: Uint8Array }
  | { readonly kind: "tensor"; readonly value: TensorData }
  | { readonly kind: "graph"; readonly value: Graph }
  | { readonly kind: "type"; readonly value: ValueType }
  | { readonly kind: "sparse"; readonly value: SparseTensor }
  | { readonly kind: "ints"; readonly value: readonly (number | bigint)[] }
  | { readonly kind: "floats"; readonly value: readonly number[] }
  | { readonly kind: "strings"; readonly value: readonly Uint8Array[] }
  | { readonly kind: "tensors"; readonly value: readonly TensorData[] }
  | { readonly kind: "graphs"; readonly value: readonly Graph[] }
  | { readonly kind: "types"; readonly value: readonly ValueType[] }
  | { readonly kind: "sparses"; readonly value: readonly SparseTensor[] }
  /** Inside a function body: the value of the caller's attribute of this name. `of` is the AttributeType number. */
  | { readonly kind: "ref"; readonly value: string; readonly of: number };

export interface SparseTensor {
  readonly values: TensorData;
  readonly indices: TensorData;
  readonly shape: readonly number[];
  readonly unknown?: readonly Uint8Array[];
}

const utf8 = new TextDecoder();
const enc = new TextEncoder();

/** Plain JavaScript to an attribute: integers -> int, other numbers need `float()`, strings, lists of integers. */
export type AttrLike = Attr | number | string | readonly number[];
export function attrOf(x: AttrLike): Attr {
  if (typeof x === "number") {
    if (!Number.isSafeInteger(x)) throw new TypeError(`internal: ${x} as attribute: use float()`);
    return { kind: "int", value: x };
  }
  if (typeof x === "string") return { kind: "string", value: enc.encode(x) };
  if (Array.isArray(x)) return { kind: "ints", value: x as readonly number[] };
  return x as Attr;
}
export const float = (value: number): Attr => ({ kind: "float", value });
export const floatsAttr = (value: readonly number[]): Attr => ({ kind: "floats", value });

type Attrs = { readonly attrs: ReadonlyMap<string, Attr>; readonly name: string };

/** Integer attribute, or the default when it is absent. Throws when the kind differs or the value is beyond 2^53. */
export function intAttr(n: Attrs, name: string, otherwise: number): number {
  const a = n.attrs.get(name);
  if (a === undefined) return otherwise;
  if (a.kind !== "int" || typeof a.value !== "number") throw new TypeError(`attribute "${name}" of node "${n.name}" is not a safe integer`);
  return a.value;
}
export function floatAttr(n: Attrs, name: string, otherwise: number): number {
  const a = n.attrs.get(name);
  if (a === undefined) return otherwise;
  if (a.kind !== "float") throw new TypeError(`attribute "${name}" of node "${n.name}" is not a float`);
  return a.value;
}
export function stringAttr(n: Attrs, name: string, otherwise: string): string {
  const a = n.attrs.get(name);
  if (a === undefined) return otherwise;
  if (a.kind !== "string") throw new TypeError(`attribute "${name}" of node "${n.name}" is not a string`);
  return utf8.decode(a.value);
}
export function intsAttr(n: Attrs, name: string): readonly number[] | undefined {
  const a = n.attrs.get(name);
  if (a === undefined) return undefined;
  if (a.kind !== "ints" || !a.value.every((x) => typeof x === "number"))
    throw new TypeError(`attribute "${name}" of node "${n.name}" is not a list of safe integers`);
  return a.value as readonly number[];
}
