import { Random } from "../data/random.ts";
import type { Sample } from "../data/types.ts";
import type { Feeds, Tensor } from "../runtime/types.ts";
import { type Augmentation, augment, fittingAugmentations } from "./augment.ts";
import type { Targets } from "./labels.ts";
import type { QatOptions } from "./options.ts";
import { batchOf } from "./shapes.ts";

export interface BatchSource {
  readonly samples: readonly Sample[];
  readonly labels: Targets | undefined;
  /** Samples in a batch. */
  readonly size: number;
}

/** Batch of a step: a shuffled pass over the samples after another, changed by augmentation; both follow from seed and step alone. */
export function batches(o: Pick<QatOptions, "seed" | "augment">, d: BatchSource): (step: number) => Promise<Feeds> {
  const n = d.samples.length;
  let epoch = -1;
  let order: number[] = [];
  return async (step) => {
    const picked: number[] = [];
    for (let i = 0; i < d.size; i++) {
      const at = step * d.size + i;
      const e = Math.floor(at / n);
      if (e !== epoch) {
        epoch = e;
        order = new Random(o.seed * 1_000_003 + e).shuffle(Array.from({ length: n }, (_, k) => k));
      }
      picked.push(order[at % n]!);
    }
    const feeds: Record<string, Tensor> = {};
    for (const [name, tensor] of Object.entries(batchOf(picked.map((i) => d.samples[i]!)))) {
      const kinds: readonly Augmentation[] = o.augment === "auto" ? fittingAugmentations(tensor.dims, d.labels !== undefined) : o.augment;
      feeds[name] = augment(tensor, kinds, (o.seed ^ 0x5bd1e995) + step * 2 + 1);
    }
    if (d.labels) feeds["labels"] = labelFeed(d.labels, picked);
    return feeds;
  };
}

function labelFeed(t: Targets, picked: readonly number[]): Tensor {
  if (t.kind === "classes") return { dtype: "int64", dims: [picked.length], data: BigInt64Array.from(picked, (i) => t.of[i]!) };
  const data = new Float32Array(picked.length * t.each);
  picked.forEach((i, at) => {
    data.set(t.of.subarray(i * t.each, (i + 1) * t.each), at * t.each);
  });
  return { dtype: "float32", dims: t.shape, data };
}
