import type { PlanBundle } from "../plan/types.ts";
import { bitsOf } from "../quant/codebook.ts";
import type { Augmentation } from "./augment.ts";
import { OPTIMIZERS, type Optimizer } from "./optimizer.ts";
import type { Trained } from "./student.ts";

export interface QatOptions {
  /** Updates of the parameters. 0: the plan comes back as it was. */
  readonly steps: number;
  readonly batch: number;
  /** Batches whose gradients are averaged for one update. */
  readonly accumulate: number;
  readonly optimizer: Optimizer;
  /** Peak learning rate, in code units of a weight per step. */
  readonly rate: number;
  /** Rates of the groups of parameters, relative to `rate`. 0: frozen. */
  readonly trained: Trained;
  /** Part of the steps over which the rate rises. */
  readonly warmup: number;
  readonly temperature: number;
  /** Weight of the KL term beside the relative error of the outputs, and of the mean relative error of block outputs. */
  readonly distill: number;
  readonly features: number;
  /** Most block outputs that are compared. */
  readonly blocks: number;
  /** Weight of the task loss on labels (cross-entropy, or squared error); 0: no labels are read. */
  readonly labels: number;
  /** Pull of latent weights to their codes, relative to the first loss; grows from 0 along a cosine (Nagel et al. 2022). */
  readonly damping: number;
  /** Decay of the moving average of parameters that is judged and kept; 0: none. */
  readonly ema: number;
  readonly augment: "auto" | readonly Augmentation[];
  /** Updates between two judgements on `select`; stop after `patience` of them without a better one (0: never). */
  readonly judgeEvery: number;
  readonly patience: number;
  /** Updates in one run of the engine. */
  readonly chunk: number;
  readonly seed: number;
  /** Threads of the engine. Results are bound to this number: sums are split by it. */
  readonly threads: number;
}

/** Steps of activations below 8 bits are coarse: where they lie is learned too. */
export function trainedFor(bundle: PlanBundle): Trained {
  const coarse = bundle.plan.sites.some((s) => s.kind === "static" && bitsOf(s.scheme.dtype) < 8);
  return coarse ? { ...QAT_DEFAULTS.trained, activationScales: QAT_DEFAULTS.trained.weightScales } : QAT_DEFAULTS.trained;
}

export const QAT_DEFAULTS: QatOptions = {
  steps: 400,
  batch: 32,
  accumulate: 1,
  optimizer: OPTIMIZERS.adam,
  rate: 0.002,
  trained: { weights: 1, weightScales: 0.1, activationScales: 0, biases: 0.1 },
  warmup: 0.05,
  temperature: 1,
  distill: 1,
  features: 0.5,
  blocks: 4,
  labels: 0,
  damping: 0,
  ema: 0.98,
  augment: "auto",
  judgeEvery: 50,
  patience: 0,
  chunk: 10,
  seed: 0,
  threads: 1,
};
