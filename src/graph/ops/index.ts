import { intAttr } from "../attr.ts";
import { type ConstantView, constantOf } from "../constant.ts";
import type { Node, Value } from "../ir.ts";
import { MICROSOFT } from "./microsoft.ts";
import { isMicrosoftOp, isOnnxOp } from "./names.ts";
import { ONNX } from "./onnx.ts";
import type { Row, Trait, WeightAxes } from "./row.ts";

export { MICROSOFT_OPS, type MicrosoftOp, ONNX_OPS, type OnnxOp } from "./names.ts";
export type { Row, Trait } from "./row.ts";

/** A weight of one node: a constant operand. `constant.root` is what the file stores; axes are those of the operand at the node. */
export interface Weight extends WeightAxes {
  readonly input: number;
  readonly kind: "product" | "table" | "recurrent" | "scale";
  readonly value: Value;
  readonly constant: ConstantView;
  /** Conv, ConvTranspose: groups; else 1. */
  readonly groups: number;
}

/** The row of an operator, resolved for one node. */
export interface OpFacts {
  readonly trait: Trait;
  /** For float operators: why. */
  readonly why: string | undefined;
  /** Inputs with the activations the trait speaks of; constant weights are not among them. Left-out inputs are not listed. */
  readonly data: readonly number[];
  /** Outputs with such data. */
  readonly outputs: readonly number[];
  /** Constant weights: at most one for a product (the most usual operand), two for LSTM, GRU, RNN. */
  readonly weights: readonly Weight[];
  /** The bias input when the node has one. */
  readonly bias: number | undefined;
  readonly elementwise: boolean;
  readonly monotone: "up" | "down" | undefined;
  /** Where every output lies, whatever the inputs. */
  readonly bounds: readonly [number, number] | undefined;
  readonly random: boolean;
}

/** The row of an operator; undefined for custom operators. */
export function rowOf(n: Node): Row | undefined {
  if (n.domain === "" || n.domain === "ai.onnx") {
    if (isOnnxOp(n.op)) return ONNX[n.op];
    return isMicrosoftOp(n.op) ? MICROSOFT[n.op] : undefined; // onnxruntime itself writes some contrib operators into ai.onnx
  }
  if (n.domain === "com.microsoft" && isMicrosoftOp(n.op)) return MICROSOFT[n.op];
  return undefined;
}

/** The trait alone: cheaper than all facts. */
export function traitOf(n: Node): Trait | undefined {
  const row = rowOf(n);
  return typeof row?.trait === "function" ? row.trait(n) : row?.trait;
}

/** What is known about a node; undefined for operators of custom domains. */
export function opFacts(n: Node): OpFacts | undefined {
  const row = rowOf(n);
  if (!row) return undefined;
  const trait = typeof row.trait === "function" ? row.trait(n) : row.trait;
  const weights = weightsOf(n, row, trait);
  const present = (list: readonly number[] | "all", of: readonly (Value | undefined)[]) =>
    (list === "all" ? of.map((_, i) => i) : list).filter((i) => of[i] !== undefined);
  return {
    trait,
    why: row.why,
    data: present(row.data, n.inputs).filter((i) => !weights.some((w) => w.input === i)),
    outputs: present(row.outputs, n.outputs),
    weights,
    bias: row.bias !== undefined && n.inputs[row.bias] ? row.bias : undefined,
    elementwise: row.elementwise ?? false,
    monotone: row.monotone,
    bounds: row.bounds,
    random: row.random ?? false,
  };
}

function weightsOf(n: Node, row: Row, trait: Trait): Weight[] {
  const out: Weight[] = [];
  for (const w of row.weights ?? []) {
    const value = n.inputs[w.input];
    const constant = constantOf(value);
    if (!value || !constant) continue;
    const groups = row.bias !== undefined && w.kind === "product" ? intAttr(n, "group", 1) : 1;
    out.push({ input: w.input, kind: w.kind, value, constant, groups, ...w.axes(n, constant.shape.length) });
    if (w.kind === "product" && trait === "compute") break; // a product of two constants has one weight
  }
  return out;
}
