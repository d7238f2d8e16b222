import type { CodebookDType } from "../quant/codebook.ts";
import type { IntDType } from "../quant/dtype.ts";
import type { Granularity } from "../quant/granularity.ts";
import type { WeightForm } from "./types.ts";

export const TARGET_NAMES = ["portable", "ort-cpu", "ort-cuda", "ort-webgpu", "tensorrt"] as const;
export type TargetName = (typeof TARGET_NAMES)[number];

export type ActivationDType = "uint4" | "uint8" | "int8" | "uint16" | "int16" | "float8e4m3fn" | "float4e2m1";

/** Conditions on a node for a row to hold. All that are given must hold. */
export interface RowCondition {
  /** First opset (of the domain) in which the quantized form exists. */
  readonly opset?: number;
  /** Attributes that must have one of these values; `null` stands for "absent". */
  readonly attrs?: Readonly<Record<string, readonly (number | string | null)[]>>;
}

/** A way to store a weight. */
export interface WeightRow {
  readonly dtype: IntDType | "float8e4m3fn" | "float4e2m1" | CodebookDType;
  readonly per: readonly Granularity["kind"][];
  readonly blockSizes?: readonly number[];
  /** Blocks must be whole: the size divides the axis, or ("or-one") one block holds all of it. */
  readonly wholeBlocks?: "exact" | "or-one";
  /** Blocks along the axis there must be at least. */
  readonly leastBlocks?: number;
  readonly symmetricOnly?: true;
  readonly form: WeightForm;
  /** The data input is quantized too (static or dynamic); false: weight-only. */
  readonly withActivation: boolean;
  /** The data input is in blocks of the weight's size along its last axis, and has one of these ranks. */
  readonly activationRanks?: readonly number[];
}

/** Where the quantized kernel loses against the float one, as measured. */
export interface SlowForm {
  /** Products with fewer input channels a group (groups of one input channel aside) … */
  readonly inputChannelsBelow?: number;
  /** … and sums shorter than this: with longer ones the product outweighs gathering its input. */
  readonly sumsBelow?: number;
  /** Groups of one input channel, their number no multiple of this, behind a float value: staying float saves a conversion. */
  readonly depthwiseMultipleOf?: number;
  readonly source: string;
}

/** What a target does at some operators. Every claim has a source: a documentation page, a kernel file, an issue, or an experiment. */
export interface TargetRow {
  readonly ops: readonly string[];
  readonly domain?: string;
  readonly when?: RowCondition;
  /** Activation storage that has a kernel (or that the builder takes) at the data inputs. Empty: weight-only. */
  readonly activation: readonly ActivationDType[];
  /**
   * Which data inputs are quantized. "all": every float data input. "one-side": of a sum of two branches, the branch that is not the
   * output of a compute node that fuses with the sum. Default "all".
   */
  readonly inputs?: "all" | "one-side";
  /** For "one-side": the operators that fuse with the sum. */
  readonly fusesWith?: readonly string[];
  /**
   * "same": input and output share parameters (data movement). "own": the output is quantized with its own. "wanted": own, when somebody
   * downstream reads codes. "absorbed": the node vanishes into the Q behind it. "none": stays float.
   */
  readonly output: "none" | "own" | "wanted" | "same" | "absorbed";
  readonly weight: readonly WeightRow[];
  readonly slow?: SlowForm;
  readonly source: string;
}

/**
 * Where Q/DQ pairs go.
 *  compute-inputs  at the inputs of operators with weights (and what the rows add), outputs stay float
 *  fused-regions   inputs and outputs, so that whole regions run on codes
 *  weights-only    never on activations
 */
export type Placement = "compute-inputs" | "fused-regions" | "weights-only";

export interface TargetNote {
  readonly rule: string;
  readonly text: string;
  readonly source: string;
}

export interface Target {
  readonly name: TargetName;
  readonly version: string | undefined; // "8.6", "10", "11"
  readonly arch: string | undefined; // "sm89"
  readonly opset: { readonly min: number; readonly max: number; readonly emit: (need: Need) => number };
  readonly irVersion: { readonly max: number };
  readonly placement: Placement;
  /** Activations: uint8 with any zero point, or symmetric int8 with zero point 0. */
  readonly activation: { readonly dtype: "uint8" | "int8"; readonly symmetric: boolean };
  readonly weightNarrow: boolean;
  readonly bias: "float" | "int32";
  /** Values joined by data movement must share parameters. */
  readonly tieMovement: boolean;
  /** Operators of other domains that the target has. */
  readonly domains: readonly string[];
  readonly rows: readonly TargetRow[];
  readonly notes: readonly TargetNote[];
  /** Types that the target has in other versions or on other devices, and where. */
  readonly gates?: readonly { readonly dtype: string; readonly why: string }[];
}

/** What a plan needs of the opset. */
export interface Need {
  readonly blocks: boolean;
  readonly fourBit: boolean;
  readonly sixteenBit: boolean;
  readonly float8: boolean;
  readonly float4: boolean;
}

export const NO_NEED: Need = { blocks: false, fourBit: false, sixteenBit: false, float8: false, float4: false };

/**
 * The lowest opset whose QuantizeLinear/DequantizeLinear have what is needed (onnx/defs/quantization/old.cc): 13 per-axis int8,
 * 19 float8, 21 4 and 16 bit and blocks, 23 float4.
 */
export function lowestOpset(need: Need): number {
  if (need.float4) return 23;
  if (need.blocks || need.fourBit || need.sixteenBit) return 21;
  return need.float8 ? 19 : 13;
}

/** The IR version that a default opset came with (onnx/helper.py VERSION_TABLE); 13 for anything newer. */
export function irVersionOf(opset: number): number {
  const table: readonly (readonly [number, number])[] = [
    [9, 4],
    [10, 5],
    [11, 6],
    [14, 7],
    [18, 8],
    [20, 9],
    [22, 10],
    [23, 11],
    [24, 12],
  ];
  for (const [top, ir] of table) if (opset <= top) return ir;
  return 13;
}

/** `tensorrt@8.6:sm89`: the spelling that `targetOf` reads. */
export function printTarget(t: Pick<Target, "name" | "version" | "arch">): string {
  return t.name + (t.version ? `@${t.version}` : "") + (t.arch ? `:${t.arch}` : "");
}
