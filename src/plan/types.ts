import type { CodebookDType } from "../quant/codebook.ts";
import type { IntDType } from "../quant/dtype.ts";
import type { Granularity } from "../quant/granularity.ts";
import type { HalfDType } from "../quant/half.ts";

/** How one value is stored. `narrow`: signed types leave out their lowest code. */
export interface Scheme {
  readonly dtype: IntDType | "float8e4m3fn" | "float16" | "bfloat16" | "float4e2m1" | CodebookDType;
  readonly symmetric: boolean;
  readonly narrow: boolean;
  readonly granularity: Granularity;
  /** Fewer bits than the type has: its larger codes are not used. 7 in int8 keeps sums of two products within 16 bits. */
  readonly bits?: number;
}

/** A reference into `plan.tensors`: the name of a `.npy` in the zip. */
export interface TensorRef {
  readonly tensor: string;
}
/** A list of one stands for all channels or blocks. */
export type Numbers = readonly number[] | TensorRef;

export type Consumers = "all" | readonly { readonly node: string; readonly input: number }[];

/**
 * One quantized value. Keyed by value and consumers: a residual Add quantizes one side only, a tied tensor feeds embedding and head.
 * `static`: Q and DQ with fixed parameters on an activation (float4 in blocks: of the tensor; its blocks have theirs computed at run time).
 * `weight`: a constant stored as codes with a DQ. `dynamic`: parameters computed at run time. `cast`: stored in another float type.
 */
export type Site =
  | (SiteBase & {
      readonly kind: "static";
      readonly scale: Numbers;
      readonly zeroPoint: Numbers;
      readonly range?: { readonly min: number; readonly max: number };
    })
  | (SiteBase & {
      readonly kind: "weight";
      readonly scale: Numbers;
      readonly zeroPoint: Numbers;
      /** Codes when they are not round-to-nearest of the (replaced) weight. */
      readonly codes?: TensorRef;
      /** A second scale, of the whole tensor: a block's scale is `scale · tensorScale` (NVFP4, whose `scale` holds values of float8). */
      readonly tensorScale?: number;
      /** Of MatMulNBits: its attribute of that name (1: float32 … 4: int8). Absent: not written, the kernel chooses. */
      readonly accuracyLevel?: number;
      /** How the target stores it: DequantizeLinear, MatMulNBits, GatherBlockQuantized … Default "qdq". */
      readonly form?: WeightForm;
    })
  | (SiteBase & {
      readonly kind: "dynamic";
      /** Absent: one scale for the whole value. "token": one for each row along the last axis. */
      readonly per?: "token";
    })
  | (SiteBase & { readonly kind: "cast" });

/**
 * How a target stores a weight.
 *  qdq              codes and a DequantizeLinear
 *  qdq-requantized  codes, dequantized, then Q/DQ to int8 per channel (4-bit storage, 8-bit arithmetic; blocks keep their scales)
 *  qdq-cast         4-bit codes, cast to int8, and a DequantizeLinear of int8: the engine folds the cast while it loads
 *  gather-codes     a table: Gather on the codes, then the rows' scales
 *  matmul-integer   DynamicQuantizeLinear on the other operand, MatMulInteger, scales
 *  matmul-integer-tokens   the same with a scale for each row of the other operand, in standard operators
 *  matmul-nbits, matmul-bnb4, gather-block, dynamic-lstm   the operators MatMulNBits, MatMulBnb4, GatherBlockQuantized, DynamicQuantizeLSTM
 *                   of com.microsoft
 *  nvfp4, mxfp8     TensorRT's block formats, both operands quantized (see quant/blockfloat.ts)
 */
export const WEIGHT_FORMS = [
  "qdq",
  "qdq-requantized",
  "qdq-cast",
  "gather-codes",
  "matmul-integer",
  "matmul-integer-tokens",
  "matmul-nbits",
  "matmul-bnb4",
  "gather-block",
  "dynamic-lstm",
  "nvfp4",
  "mxfp8",
] as const;
export type WeightForm = (typeof WEIGHT_FORMS)[number];

interface SiteBase {
  /** Value name in the prepared graph. Values of subgraphs are written `node/attribute/…/value` (see `pathOf`). */
  readonly value: string;
  readonly consumers: Consumers;
  readonly scheme: Scheme;
  readonly because: string;
}

/** A node left in float, and why. Every float node that could have been quantized has one. */
export interface Skip {
  readonly node: string;
  readonly op: string;
  readonly code: SkipCode;
  readonly detail: string;
}
export const SKIP_CODES = {
  "op-is-float": "the operator has no quantized form here",
  "not-constant-weight": "the weight is computed at run time",
  "target-forbids": "the target rejects this scheme at this node",
  "target-slow": "the target runs it slower quantized",
  "no-stats": "no statistics for an input of this node",
  "not-reached": "the calibration samples never ran this node",
  user: "left out by --skip, or pinned by --scheme",
  budget: "float meets the budget better",
  "range-unsound": "an 8-bit range over this value destroys what it carries",
  region: "part of a region that stays whole (normalization, softmax, GELU)",
  "custom-op": "an operator of a custom domain passes through",
  "rolled-back": "quantized it made the output worse",
  dtype: "its type is not float32",
  shape: "its shape does not fit the scheme",
} as const;
export type SkipCode = keyof typeof SKIP_CODES;

/** A constant of the prepared graph with a new content (bias correction, equalization, learned weights). */
export interface Replacement {
  readonly value: string;
  readonly tensor: TensorRef;
  readonly because: string;
}

/** A tensor multiplied in at a value (smoothing that could not be folded): `value / by` before, weights times `by` (in `replacements`). */
export interface Insertion {
  readonly value: string;
  readonly consumers: Consumers;
  readonly op: "Mul";
  readonly by: TensorRef;
  readonly because: string;
}

/** One optimising step and what it did on `select`: kept only when it helped. */
export interface StepRecord {
  readonly step: string;
  readonly before: number;
  readonly after: number;
  readonly unit: "dB";
  readonly kept: boolean;
  readonly layers?: number;
  readonly seconds?: number;
  readonly detail?: string;
  /** Of a step that was kept: what it did for each layer or value. */
  readonly gains?: readonly StepGain[];
}

/**
 * How much of a layer's own noise a step took away. Rounding and bias: distance of the layer's output from that of the best float layer
 * behind the same quantized prefix, before ÷ after. Ranges: noise at the network's outputs from this value alone, to first order.
 */
export interface StepGain {
  /** A node, or a value of the prepared graph. */
  readonly at: string;
  readonly gainDb: number;
}

/** What a layer would gain from more bits; ranked, best gain per byte first. */
export interface Revert {
  readonly node: string;
  readonly to: "a16" | "w8" | "float";
  readonly gainDb: number;
  readonly costBytes: number;
}

/**
 * What becomes of everything that is not stored as codes: a 16-bit float type, but for the values listed, which stay float32 with the nodes
 * that make or read them. Inputs and outputs of the graph keep float32.
 */
export interface Rest {
  readonly to: HalfDType;
  readonly keep: readonly { readonly value: string; readonly because: string }[];
}

/** Channels taken out before anything else: everything behind this in the plan is about what is left. */
export interface Pruned {
  /** Channels that can only go together: one list of values (or of the weights that make them), how many there were and are. */
  readonly groups: readonly { readonly of: readonly string[]; readonly channels: number; readonly kept: number }[];
  /** Constants of the prepared graph with fewer channels. */
  readonly constants: readonly { readonly value: string; readonly tensor: TensorRef }[];
  readonly because: string;
}

/** What will be done, as data. Lowering adds no policy: two equal plans give byte-equal models. */
export interface Plan {
  readonly schema: "qc.plan/1";
  readonly tool: string;
  readonly model: { readonly structure: string; readonly weights: string };
  readonly prepare: string;
  readonly target: string;
  readonly recipe: string;
  readonly calibrator?: string;
  readonly seed: number;
  /** Opset and IR of the output. */
  readonly opset: number;
  readonly irVersion: number;
  readonly sites: readonly Site[];
  readonly skips: readonly Skip[];
  readonly replacements: readonly Replacement[];
  readonly insertions: readonly Insertion[];
  readonly steps: readonly StepRecord[];
  readonly reverts: readonly Revert[];
  /** Absent: it stays float32. */
  readonly rest?: Rest;
  /** By a cost table, named by its hash: what a run of the float model and of this plan should take. */
  readonly time?: {
    readonly source: "onnxruntime" | "tensorrt";
    readonly table: string;
    readonly floatMs: number;
    readonly predictedMs: number;
  };
  /** Node patterns → schemes that were asked for. Edited by hand, they are what a search that starts from this plan keeps. */
  readonly schemes?: Readonly<Record<string, string>>;
  /** Absent: every channel is there. */
  readonly pruned?: Pruned;
  readonly stats?: { readonly sha256: string; readonly samples: number };
  readonly tensors?: { readonly file: string; readonly sha256: string };
}

/** A plan in memory: the document and the arrays its `TensorRef`s name. */
export interface PlanBundle {
  readonly plan: Plan;
  readonly tensors: ReadonlyMap<string, import("../graph/tensor.ts").TensorData>;
}
