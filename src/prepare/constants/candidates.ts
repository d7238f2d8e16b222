import { constantOf } from "../../graph/constant.ts";
import type { Model, Node, Value } from "../../graph/ir.ts";
import { rowOf, traitOf } from "../../graph/ops/index.ts";
import { asIntegers } from "../../graph/tensor.ts";
import { allGraphs, nodeKey } from "../../graph/walk.ts";
import { DTYPES, type DType, elementCount } from "../../quant/dtype.ts";

/** Elements that a value inside the folding session may have: a bound on memory for hostile graphs (256 MiB of float32). */
const MOST_ELEMENTS = 2 ** 26;
/** Bytes by which a view of a stored constant (Cast, Transpose, Reshape …) may exceed it: scalars pass. */
const VIEW_MAY_GROW = 64;

/** Bytes when every dimension is a number. */
export function bytesOf(dtype: DType, dims: readonly (number | string)[]): number | undefined {
  return dims.every((d) => typeof d === "number" && d >= 0)
    ? Math.ceil((elementCount(dims as number[]) * DTYPES[dtype].bits) / 8)
    : undefined;
}

/** Types that cross the runtime's border. */
export const CARRIED = new Set<DType>([
  "float32",
  "float64",
  "float16",
  "int8",
  "uint8",
  "int16",
  "uint16",
  "int32",
  "uint32",
  "int64",
  "uint64",
  "bool",
]);
/** Operators that can make much from little; they fold only when the result's size is plain beforehand. */
const GROWING = new Set([
  "ConstantOfShape",
  "Expand",
  "Tile",
  "Range",
  "OneHot",
  "EyeLike",
  "Pad",
  "Resize",
  "Upsample",
  "BlackmanWindow",
  "HammingWindow",
  "HannWindow",
  "MelWeightMatrix",
  "CenterCropPad",
  "Col2Im",
  "DFT",
  "STFT",
]);

export interface Candidates {
  readonly nodes: readonly Node[];
  readonly refused: { readonly node: string; readonly why: string }[];
}

export function candidates(model: Model): Candidates {
  const nodes: Node[] = [];
  const refused: { node: string; why: string }[] = [];
  /** Upper bound of the elements of each constant value. */
  const bound = new Map<Value, number>();
  const boundOf = (v: Value) => bound.get(v) ?? (v.isConstant && CARRIED.has(v.data!.dtype) ? elementCount(v.data!.shape) : undefined);
  for (const g of allGraphs(model.graph)) {
    for (const n of g.nodes) {
      const inputs = n.inputs.filter((v) => v !== undefined);
      if (inputs.length === 0 || n.outputs.some((o) => o?.isOutput) || n.subgraphs.length > 0) continue;
      const counts = inputs.map(boundOf);
      if (counts.some((c) => c === undefined) || !mayFold(n)) continue;
      const kept = keptView(n);
      if (kept !== undefined) {
        if (kept !== "") refused.push({ node: nodeKey(n), why: kept });
        continue;
      }
      const most = mostElements(n, counts as number[]);
      if (most === undefined || most > MOST_ELEMENTS) {
        refused.push({
          node: nodeKey(n),
          why: most === undefined ? "the size of its result is not known beforehand" : "its result may be too large",
        });
        continue;
      }
      for (const o of n.outputs) if (o) bound.set(o, most);
      nodes.push(n);
    }
  }
  return { nodes, refused };
}

function mayFold(n: Node): boolean {
  const row = rowOf(n);
  const trait = traitOf(n);
  if (!row || row.random || n.domain !== "" || trait === "control" || trait === "container" || trait === "quantized") return false;
  return n.op !== "Constant" && n.op !== "Dropout";
}

/**
 * A view of a stored constant (Cast, Transpose, Reshape …) that would make the file larger is left alone: "" says so without a refusal,
 * since consumers look through it. Known without running anything, so that big weights never enter the session.
 */
function keptView(n: Node): string | undefined {
  const out = n.outputs[0];
  const view = out && constantOf(out);
  if (!view || view.chain.length === 0) return undefined;
  const size = bytesOf(view.dtype, view.shape)!;
  const freed =
    view.root.uses.length === 1 && view.chain.every((c) => c === n || c.outputs[0]!.uses.length === 1) ? view.root.data!.byteLength : 0;
  return size > freed + VIEW_MAY_GROW ? "" : undefined;
}

function mostElements(n: Node, counts: readonly number[]): number | undefined {
  if (GROWING.has(n.op)) return grown(n);
  if (n.op === "Concat") return counts.reduce((a, b) => a + b, 0);
  if (rowOf(n)!.elementwise && n.inputs.every((v) => !v || v.isConstant)) {
    const shapes = n.inputs.filter((v) => v !== undefined).map((v) => v.data!.shape);
    const rank = Math.max(...shapes.map((s) => s.length));
    let most = 1;
    for (let i = 1; i <= rank; i++) most *= Math.max(...shapes.map((s) => s[s.length - i] ?? 1));
    return most;
  }
  if (traitOf(n) === "same-scale" && n.op !== "Where" && !n.op.startsWith("Gather")) return counts[0];
  return counts.reduce((a, b) => a * Math.max(1, b), 1);
}

/** The size of a growing operator's result when a constant tells it. */
function grown(n: Node): number | undefined {
  const ints = (i: number) => (n.inputs[i]?.isConstant && n.inputs[i].data!.dtype === "int64" ? asIntegers(n.inputs[i].data!) : undefined);
  const product = (list: readonly number[] | undefined) => list?.reduce((a, b) => a * Math.max(1, Math.abs(b)), 1);
  const own = n.inputs[0]?.isConstant ? elementCount(n.inputs[0].data!.shape) : undefined;
  switch (n.op) {
    case "ConstantOfShape":
      return product(ints(0));
    case "Expand":
    case "Tile": {
      const p = product(ints(1));
      return own === undefined || p === undefined ? undefined : own * p;
    }
    case "EyeLike":
      return own;
    case "Range": {
      const [a, b, c] = [0, 1, 2].map((i) => ints(i)?.[0]);
      return a === undefined || b === undefined || !c ? undefined : Math.max(0, Math.ceil((b - a) / c));
    }
    case "Pad": {
      const pads = ints(1);
      const shape = n.inputs[0]?.isConstant ? n.inputs[0].data!.shape : undefined;
      if (!pads || !shape || pads.length !== 2 * shape.length) return undefined;
      return shape.reduce((a, d, i) => a * Math.max(0, d + pads[i]! + pads[i + shape.length]!), 1);
    }
    default:
      return undefined;
  }
}
