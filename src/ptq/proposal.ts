import type { Model, Node, Use, Value } from "../graph/ir.ts";
import type { OpFacts, Weight } from "../graph/ops/index.ts";
import type { TensorData } from "../graph/tensor.ts";
import type { ValueType } from "../graph/types.ts";
import type { Recipe } from "../plan/recipes/index.ts";
import type { LayerScheme } from "../plan/schemes.ts";
import type { Target } from "../plan/target.ts";
import type { Pruned, Scheme, Skip, WeightForm } from "../plan/types.ts";

/** A network with channels taken out: what the plan says of it, and its constants. */
export interface PrunedNetwork {
  readonly pruned: Pruned;
  readonly tensors: ReadonlyMap<string, TensorData>;
}

export interface ProposeInput {
  /** The prepared graph. */
  readonly model: Model;
  /** Types of the prepared graph's values by path. */
  readonly types: ReadonlyMap<string, ValueType>;
  readonly target: Target;
  readonly recipe: Recipe;
  /** Patterns of nodes to leave in float. */
  readonly skip?: readonly string[];
  /** Nodes (by path) that stay float for a reason found elsewhere: budget, rolled back, unsound ranges. */
  readonly floats?: ReadonlyMap<string, Pick<Skip, "code" | "detail">>;
  /** Nodes (by path) with a scheme of their own. */
  readonly schemes?: ReadonlyMap<string, LayerScheme>;
  /** What `model` is without; written into the plan. */
  readonly pruned?: PrunedNetwork;
  /** The same as they were asked for, by pattern; written into the plan. */
  readonly pins?: Readonly<Record<string, string>>;
  /** A cost table says what is slow: the target's rules of thumb about slow forms do not apply. */
  readonly measured?: boolean;
  /** Hashes of the source model and the version of the prepare rules, written into the plan. */
  readonly source?: { readonly structure: string; readonly weights: string };
  readonly prepare?: string;
  readonly tool?: string;
  readonly seed?: number;
}

/** An activation to quantize: a value and the uses that read codes. */
export interface ActivationSite {
  readonly value: Value;
  readonly path: string;
  /** "all": every use, and the graph output when it is one. */
  readonly uses: "all" | readonly Use[];
  readonly scheme: Scheme;
  /** Sites of one group share scale and zero point. */
  readonly group: number;
  readonly because: string;
  /** Dynamic: parameters are computed while running. */
  readonly dynamic: boolean;
  readonly per?: "token";
}

/** A constant to store as codes. `weight` describes it at its first consumer; `shape` and axes in `scheme` are those of `value`. */
export interface WeightSite {
  readonly value: Value;
  readonly path: string;
  readonly uses: readonly Use[];
  /** The operators that the weight belongs to (behind a Transpose, not the Transpose). */
  readonly nodes: readonly Node[];
  readonly scheme: Scheme;
  readonly form: WeightForm;
  readonly shape: readonly number[];
  /** The elements of `value`, row-major. */
  float32(): Float32Array;
  readonly because: string;
}

export interface Proposal {
  readonly input: ProposeInput;
  readonly activations: readonly ActivationSite[];
  readonly weights: readonly WeightSite[];
  readonly skips: readonly Skip[];
  /** Paths of the values whose statistics are needed. */
  readonly values: readonly string[];
  /** Nodes with quantized activations, by path: what reads codes. */
  readonly quantized: ReadonlySet<string>;
}

/** A compute node that will be quantized on both sides. */
export interface ComputeNode {
  readonly node: Node;
  readonly facts: OpFacts;
  readonly weight: Weight;
}
