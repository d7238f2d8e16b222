import type { Item, TensorItem } from "../item.ts";

/**
 * Nested lists of numbers (or booleans) → a tensor without stored width; undefined when they are ragged, hold anything else, or hold an
 * integer that float64 cannot.
 */
export function nested(value: unknown): TensorItem | undefined {
  if (ArrayBuffer.isView(value)) return nested(Array.from(value as unknown as ArrayLike<number>));
  const dims: number[] = [];
  for (let v = value; Array.isArray(v); v = v[0]) dims.push(v.length);
  const flat: number[] = [];
  const walk = (v: unknown, depth: number): boolean => {
    if (Array.isArray(v)) return v.length === dims[depth] && v.every((x) => walk(x, depth + 1));
    if (depth !== dims.length || !["number", "boolean", "bigint"].includes(typeof v)) return false;
    if (typeof v === "bigint" && !Number.isSafeInteger(Number(v))) return false;
    flat.push(Number(v));
    return true;
  };
  if (!walk(value, 0)) return undefined;
  return { kind: "tensor", dtype: "float64", dims, data: Float64Array.from(flat), soft: true };
}

/** A value of a table (JSON, CSV, Parquet): numbers and lists of them, text, bytes, or `{ bytes, path }` as data sets hold images. */
export function valueItem(value: unknown, label: string): Item | undefined {
  if (typeof value === "string") return { kind: "text", text: value };
  if (value instanceof Date) return { kind: "text", text: value.toISOString() };
  if (value instanceof Uint8Array) return bytesItem(value, label);
  if (typeof value === "object" && value !== null && "bytes" in value && value.bytes instanceof Uint8Array)
    return bytesItem(value.bytes, "path" in value && typeof value.path === "string" ? value.path : label);
  return nested(value);
}

function bytesItem(bytes: Uint8Array, path: string): Item {
  return { kind: "file", path, bytes: async () => bytes };
}

export function describeValue(value: unknown): string {
  if (typeof value === "string") return "text";
  const item = valueItem(value, "");
  if (item === undefined) return value === null || value === undefined ? "nothing" : "a record";
  return item.kind === "tensor" ? (item.dims.length === 0 ? "number" : `numbers[${item.dims.join(",")}]`) : "bytes";
}
