import protobuf from "protobufjs/minimal.js";

/** Protobuf by hand, for files that no exporter writes: protobufjs' writer, independent of the one under test. */
export type Field = readonly [number, "int" | "bytes" | "float" | "double", number | bigint | string | Uint8Array | Field[]];

export function message(fields: readonly Field[]): Uint8Array {
  const w = protobuf.Writer.create();
  for (const [no, kind, value] of fields) {
    if (kind === "int") {
      w.uint32(no * 8);
      const b = BigInt.asUintN(64, BigInt(value as number | bigint));
      w.uint64(protobuf.util.Long ? protobuf.util.Long.fromString(b.toString(), true) : Number(b));
    } else if (kind === "float") w.uint32(no * 8 + 5).float(value as number);
    else if (kind === "double") w.uint32(no * 8 + 1).double(value as number);
    else {
      const b =
        typeof value === "string" ? new TextEncoder().encode(value) : value instanceof Uint8Array ? value : message(value as Field[]);
      w.uint32(no * 8 + 2).bytes(b);
    }
  }
  return w.finish();
}

export const node = (op: string, inputs: string[], outputs: string[], ...rest: Field[]): Field => [
  1,
  "bytes",
  [...inputs.map((x): Field => [1, "bytes", x]), ...outputs.map((x): Field => [2, "bytes", x]), [4, "bytes", op], ...rest],
];
export const input = (name: string): Field => [11, "bytes", [[1, "bytes", name]]];
export const output = (name: string): Field => [12, "bytes", [[1, "bytes", name]]];
export const initializer = (...fields: Field[]): Field => [5, "bytes", fields];
export const opset = (version: number): Field => [8, "bytes", [[2, "int", version]]];
export const graphField = (...fields: Field[]): Field => [7, "bytes", fields];

/** A model around the fields of a graph. */
export function modelOf(...graph: Field[]): Uint8Array {
  return message([[1, "int", 10], graphField(...graph), opset(21)]);
}

/** Packed varints. */
export function varints(...xs: (number | bigint)[]): Uint8Array {
  const out: number[] = [];
  for (const x of xs) {
    let b = BigInt.asUintN(64, BigInt(x));
    while (b >= 128n) {
      out.push(Number(b & 127n) | 128);
      b >>= 7n;
    }
    out.push(Number(b));
  }
  return Uint8Array.from(out);
}
