import type { IntDType } from "../quant/dtype.ts";
import type { Granularity } from "../quant/granularity.ts";
import type { WeightForm } from "./types.ts";

export type TargetName = "portable" | "ort-cpu" | "ort-cuda" | "ort-webgpu" | "tensorrt";

/** What a target does at some operators. Every claim has a source: a documentation page, a kernel file, an issue, or an experiment. */
export interface TargetRow {
  readonly ops: readonly string[];
  /** Activation storage that has a kernel (or that the builder takes) at the data inputs. Empty: weight-only. */
  readonly activation: readonly ("uint8" | "int8" | "uint16" | "int16" | "float8e4m3fn" | "float4e2m1")[];
  /** "same": input and output share parameters (data movement). "own": the output is quantized with its own. "none": stays float. */
  readonly output: "none" | "own" | "same";
  readonly weight: readonly {
    readonly dtype: IntDType | "float8e4m3fn" | "float4e2m1";
    readonly per: readonly Granularity["kind"][];
    readonly blockSizes?: readonly number[];
    readonly symmetricOnly?: true;
    readonly form: WeightForm;
    readonly withActivation: boolean;
  }[];
  readonly source: string;
}

/** Where Q/DQ pairs go. */
export type Placement = "compute-inputs" | "fused-regions" | "weights-only";

export interface Target {
  readonly name: TargetName;
  readonly version: string | undefined; // "8.6", "10", "11"
  readonly arch: string | undefined; // "sm89"
  readonly opset: { readonly min: number; readonly max: number; readonly emit: (need: Need) => number };
  readonly placement: Placement;
  /** Activations: uint8 with any zero point, or symmetric int8 with zero point 0. */
  readonly activation: { readonly dtype: "uint8" | "int8"; readonly symmetric: boolean };
  readonly weightNarrow: boolean;
  readonly bias: "float" | "int32";
  readonly rows: readonly TargetRow[];
  readonly notes: readonly { readonly rule: string; readonly text: string; readonly source: string }[];
}

/** What a plan needs of the opset. */
export interface Need {
  readonly blocks: boolean;
  readonly fourBit: boolean;
  readonly sixteenBit: boolean;
  readonly float8: boolean;
  readonly float4: boolean;
}
