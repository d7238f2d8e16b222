import type { Node } from "../ir.ts";

/**
 * What quantization means for an operator:
 * `compute` products summed over K: worth integer arithmetic · `same-scale` moves or selects elements: input and output share one scale ·
 * `clamp` like same-scale, and absorbed by the range of its input · `rescale` linear or piecewise linear: 8 bit in, 8 bit out is sound ·
 * `float` stays float (see `why`) · `recurrent` LSTM, GRU, RNN · `integer` shapes, indices, logic: no float data ·
 * `source` makes values without float inputs · `control` holds subgraphs · `container` sequences, optionals, maps, strings ·
 * `quantized` a quantized operator already.
 */
export type Trait =
  | "compute"
  | "same-scale"
  | "clamp"
  | "rescale"
  | "float"
  | "recurrent"
  | "integer"
  | "source"
  | "control"
  | "container"
  | "quantized";

/** How a weight lies in memory. Axes count from 0; `channel` undefined: no axis of outputs. */
export interface WeightAxes {
  readonly channel: number | undefined;
  readonly reduce: readonly number[];
}

export interface WeightRow {
  readonly input: number;
  readonly kind: "product" | "table" | "recurrent" | "scale";
  /** Axes given the node and the weight's rank. */
  axes(n: Node, rank: number): WeightAxes;
}

/** One operator. Everything here is data about the operator itself, nothing about a target. */
export interface Row {
  readonly trait: Trait | ((n: Node) => Trait);
  /** Inputs that carry the float data the trait speaks of; "all": variadic. For `same-scale`, all of them share the output's scale. */
  readonly data: readonly number[] | "all";
  /** Outputs that carry such data; "all": variadic. */
  readonly outputs: readonly number[] | "all";
  /** Inputs that may be constant weights, most usual first. */
  readonly weights?: readonly WeightRow[];
  readonly bias?: number;
  /** Output element i depends on the (broadcast) input elements i alone. */
  readonly elementwise?: boolean;
  /** For unary elementwise operators: order is kept ("up") or reversed ("down"). */
  readonly monotone?: "up" | "down";
  /** The outputs lie in [min, max] whatever the inputs: a range that needs no data (probabilities). */
  readonly bounds?: readonly [number, number];
  /** Different outputs for equal inputs: never folded. */
  readonly random?: boolean;
  /** Why a float operator is not quantized. */
  readonly why?: string;
}
type Extra = Omit<Partial<Row>, "trait">;

export const same = (data: Row["data"] = [0], extra: Extra = {}): Row => ({ trait: "same-scale", data, outputs: [0], ...extra });
export const clamp = (extra: Extra = {}): Row => ({ trait: "clamp", data: [0], outputs: [0], elementwise: true, monotone: "up", ...extra });
export const rescale = (data: Row["data"] = [0], extra: Extra = {}): Row => ({ trait: "rescale", data, outputs: [0], ...extra });
export const stay = (why: string, extra: Extra = {}): Row => ({ trait: "float", data: [0], outputs: [0], why, ...extra });
/** A unary nonlinear function: an 8-bit lookup table could hold it, no integer arithmetic does. */
export const curve = (monotone?: "up" | "down"): Row => ({
  trait: "float",
  data: [0],
  outputs: [0],
  elementwise: true,
  why: "a nonlinear function",
  ...(monotone && { monotone }),
});
export const integer = (extra: Extra = {}): Row => ({ trait: "integer", data: [], outputs: [], ...extra });
export const source = (extra: Extra = {}): Row => ({ trait: "source", data: [], outputs: [0], ...extra });
export const control = (): Row => ({ trait: "control", data: [], outputs: [] });
export const container = (): Row => ({ trait: "container", data: [], outputs: [] });
export const quantized = (extra: Extra = {}): Row => ({ trait: "quantized", data: [], outputs: [], ...extra });
export const compute = (data: readonly number[], weights: readonly WeightRow[], bias?: number, extra: Extra = {}): Row => ({
  trait: "compute",
  data,
  outputs: [0],
  weights,
  ...(bias !== undefined && { bias }),
  ...extra,
});
export const recurrent = (extra: Extra = {}): Row => ({
  trait: "recurrent",
  data: [0],
  outputs: "all",
  // W [directions, gates·hidden, input], R [directions, gates·hidden, hidden]: one output a row.
  weights: [1, 2].map((input) => ({ input, kind: "recurrent" as const, axes: () => ({ channel: 1, reduce: [2] }) })),
  bias: 3,
  ...extra,
});

export const range = (from: number, to: number): number[] => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);

/** Conv weight [M, C/group, k…]. */
export const convWeight = (input = 1): WeightRow => ({
  input,
  kind: "product",
  axes: (_, rank) => ({ channel: 0, reduce: range(1, rank) }),
});
/** ConvTranspose weight [C, M/group, k…]: with groups, axis 1 is shared by them. */
export const deconvWeight = (): WeightRow => ({
  input: 1,
  kind: "product",
  axes: (_, rank) => ({ channel: 1, reduce: [0, ...range(2, rank)] }),
});
/** Right operand of a product, […, K, N] or, transposed, […, N, K]; a vector [K] has no output axis. */
export const rightOperand = (input: number, transposed: (n: Node) => boolean): WeightRow => ({
  input,
  kind: "product",
  axes: (n, rank) => {
    if (rank < 2) return { channel: undefined, reduce: [0] };
    return transposed(n) ? { channel: rank - 2, reduce: [rank - 1] } : { channel: rank - 1, reduce: [rank - 2] };
  },
});
/** Left operand, […, M, K] or, transposed, […, K, M]. */
export const leftOperand = (input: number, transposed: (n: Node) => boolean): WeightRow => ({
  input,
  kind: "product",
  axes: (n, rank) => {
    if (rank < 2) return { channel: undefined, reduce: [0] };
    return transposed(n) ? { channel: rank - 1, reduce: [rank - 2] } : { channel: rank - 2, reduce: [rank - 1] };
  },
});
