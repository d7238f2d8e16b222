import { hasher } from "../../io/hash.ts";
import { DTYPES } from "../../quant/dtype.ts";
import type { Attr } from "../attr.ts";
import type { Graph, Model } from "../ir.ts";
import type { TensorData } from "../tensor.ts";
import { encodeModel } from "./write.ts";

/**
 * What binds stats and plans to their source: `structure` is the SHA-256 of the model without the elements of its tensors,
 * `weights` that of the elements (with type and shape), in the order of the file. Two trainings of one network share the structure.
 */
export interface ModelHashes {
  readonly structure: string;
  readonly weights: string;
}

export function modelHashes(model: Model): ModelHashes {
  const structure = hasher();
  for (const c of encodeModel(model, { withoutData: true }).chunks()) structure.update(c);
  const weights = hasher();
  for (const t of tensorsOf(model)) {
    weights.update(`${DTYPES[t.dtype].code}[${t.shape.join(",")}]`);
    if (t.dtype === "string")
      for (const s of t.strings!()) {
        weights.update(`${s.length}:`);
        weights.update(s);
      }
    else weights.update(t.bytes());
  }
  return { structure: structure.digest(), weights: weights.digest() };
}

function* tensorsOf(model: Model): Generator<TensorData> {
  yield* inGraph(model.graph);
  for (const f of model.functions) {
    yield* inGraph(f.body);
    for (const a of f.attributeDefaults.values()) yield* inAttr(a);
  }
}

function* inGraph(g: Graph): Generator<TensorData> {
  for (const n of g.nodes) for (const a of n.attrs.values()) yield* inAttr(a);
  for (const v of g.initializers) {
    if (v.sparse === undefined) yield v.data!;
    else yield* [v.sparse.values, v.sparse.indices];
  }
}

function* inAttr(a: Attr): Generator<TensorData> {
  if (a.kind === "tensor") yield a.value;
  else if (a.kind === "tensors") yield* a.value;
  else if (a.kind === "graph") yield* inGraph(a.value);
  else if (a.kind === "graphs") for (const g of a.value) yield* inGraph(g);
  else if (a.kind === "sparse") yield* [a.value.values, a.value.indices];
  else if (a.kind === "sparses") for (const s of a.value) yield* [s.values, s.indices];
}
