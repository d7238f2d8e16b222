import { LIMITS } from "../../io/limits.ts";
import { DTYPES, type DType, dtypeOf } from "../../quant/dtype.ts";
import type { Dim, ValueType } from "../types.ts";
import type { Sink } from "./sink.ts";
import type { Wire } from "./wire.ts";

/** Thrown inside when a type says more than ValueType can; the caller keeps the bytes. */
class Unrepresentable extends Error {}

/** TypeProto. What the union cannot say (a newer element type, unknown fields) is kept as bytes. undefined: no type given. */
export function readType(w: Wire): ValueType | undefined {
  try {
    return parse(w, 0);
  } catch (e) {
    if (!(e instanceof Unrepresentable)) throw e;
    return { kind: "opaque", bytes: w.buf.subarray(w.start, w.end) };
  }
}

function parse(w: Wire, depth: number): ValueType | undefined {
  if (depth > LIMITS.typeDepth) w.place.limit("typeDepth", depth);
  let type: ValueType | undefined;
  let denotation: string | undefined;
  while (w.next()) {
    switch (w.field) {
      case 1:
        type = tensor(w.message(), "tensor");
        break;
      case 8:
        type = tensor(w.message(), "sparse");
        break;
      case 4:
        type = { kind: "sequence", elem: element(w.message(), depth) };
        break;
      case 9:
        type = { kind: "optional", elem: element(w.message(), depth) };
        break;
      case 5:
        type = map(w.message(), depth);
        break;
      case 6:
        denotation = w.text();
        break;
      default:
        throw new Unrepresentable();
    }
  }
  if (denotation === undefined) return type;
  if (type === undefined || type.kind === "opaque") throw new Unrepresentable();
  return { ...type, denotation };
}

function element(w: Wire, depth: number): ValueType | undefined {
  let elem: ValueType | undefined;
  while (w.next()) {
    if (w.field !== 1) throw new Unrepresentable();
    elem = parse(w.message(), depth + 1);
  }
  return elem;
}

function map(w: Wire, depth: number): ValueType {
  let key: DType | undefined;
  let elem: ValueType | undefined;
  while (w.next()) {
    if (w.field === 1) key = dtype(w);
    else if (w.field === 2) elem = parse(w.message(), depth + 1);
    else throw new Unrepresentable();
  }
  return { kind: "map", key, elem };
}

function dtype(w: Wire): DType | undefined {
  const code = w.int32();
  const d = dtypeOf(code);
  if (d === undefined && code !== 0) throw new Unrepresentable();
  return d;
}

function tensor(w: Wire, kind: "tensor" | "sparse"): ValueType {
  let elem: DType | undefined;
  let shape: Dim[] | undefined;
  let words: (string | undefined)[] | undefined;
  while (w.next()) {
    if (w.field === 1) elem = dtype(w);
    else if (w.field === 2) {
      shape ??= [];
      const s = w.message();
      while (s.next()) {
        if (s.field !== 1) throw new Unrepresentable();
        w.place.limit("rank", shape.length + 1);
        const [dim, word] = dimension(s.message());
        if (word !== undefined) (words ??= [])[shape.length] = word;
        shape.push(dim);
      }
    } else throw new Unrepresentable();
  }
  const extras = words && { dimDenotations: Array.from({ length: shape!.length }, (_, i) => words[i]) };
  return kind === "tensor" ? { kind, elem, shape, ...extras } : { kind, elem, shape, ...extras };
}

function dimension(w: Wire): [Dim, string | undefined] {
  let dim: Dim;
  let word: string | undefined;
  while (w.next()) {
    if (w.field === 1) dim = w.safe("dimension");
    else if (w.field === 2) dim = w.text();
    else if (w.field === 3) word = w.text();
    else throw new Unrepresentable();
  }
  return [dim, word];
}

/** Writes the fields of a TypeProto into an open message. */
export function writeType(s: Sink, t: ValueType): void {
  switch (t.kind) {
    case "opaque":
      s.raw(t.bytes);
      return;
    case "tensor":
      s.message(1, () => writeTensorType(s, t));
      break;
    case "sparse":
      if (t.denotation !== undefined) s.text(6, t.denotation);
      s.message(8, () => writeTensorType(s, t));
      return;
    case "sequence":
      s.message(4, () => writeElem(s, 1, t.elem));
      break;
    case "map":
      s.message(5, () => {
        if (t.key !== undefined) s.int(1, DTYPES[t.key].code);
        writeElem(s, 2, t.elem);
      });
      break;
    case "optional":
      if (t.denotation !== undefined) s.text(6, t.denotation);
      s.message(9, () => writeElem(s, 1, t.elem));
      return;
    default:
      t satisfies never;
  }
  if (t.denotation !== undefined) s.text(6, t.denotation);
}

function writeElem(s: Sink, field: number, t: ValueType | undefined): void {
  if (t !== undefined) s.message(field, () => writeType(s, t));
}

function writeTensorType(s: Sink, t: ValueType & { readonly kind: "tensor" | "sparse" }): void {
  if (t.elem !== undefined) s.int(1, DTYPES[t.elem].code);
  const { shape } = t;
  if (shape === undefined) return;
  s.message(2, () => {
    for (let i = 0; i < shape.length; i++) {
      const d = shape[i];
      s.message(1, () => {
        if (typeof d === "number") s.int(1, d);
        else if (d !== undefined) s.text(2, d);
        const word = t.dimDenotations?.[i];
        if (word !== undefined) s.text(3, word);
      });
    }
  });
}
