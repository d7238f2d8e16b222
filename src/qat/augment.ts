import { Random } from "../data/random.ts";
import type { Tensor } from "../runtime/types.ts";

/** Changes to inputs that keep what a sample is. Labels stay valid for the first four; mixing needs a teacher's answer. */
export const AUGMENTATIONS = ["flip", "shift", "jitter", "noise", "mixup", "cutmix"] as const;
export type Augmentation = (typeof AUGMENTATIONS)[number];

/** Where rows, columns and channels of a batch lie. */
interface Image {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  readonly rowStride: number;
  readonly columnStride: number;
  readonly channelStride: number;
}

/** A batch [N, C, H, W] or [N, H, W, C] of colour images, by its shape; undefined: something else. */
export function imageOf(dims: readonly number[]): Image | undefined {
  if (dims.length !== 4) return undefined;
  const [, a, b, c] = dims as [number, number, number, number];
  if (a === 3 && b > 3 && c > 3) return { channels: 3, height: b, width: c, channelStride: b * c, rowStride: c, columnStride: 1 };
  if (c === 3 && a > 3 && b > 3) return { height: a, width: b, channels: 3, rowStride: b * 3, columnStride: 3, channelStride: 1 };
  return undefined;
}

/** What fits an input: colour images are flipped, shifted, jittered and mixed; anything else gets noise and is mixed. */
export function fittingAugmentations(dims: readonly number[], labelled: boolean): readonly Augmentation[] {
  const keep: Augmentation[] = imageOf(dims) ? ["flip", "shift", "jitter"] : ["noise"];
  return labelled ? keep : [...keep, "mixup"];
}

/**
 * A changed copy of a batch [N, …]. Every draw comes from `seed` alone.
 * flip: left to right, half of the samples · shift: by up to an eighth of each side, edges repeated · jitter: each channel times 0.9…1.1,
 * plus up to a tenth of the sample's deviation · noise: Gaussian, 2 % of the sample's deviation · mixup: λx + (1−λ)x' with the next sample,
 * λ in ½…1 (Zhang et al. 2018), a third of the batches · cutmix: a rectangle of the next sample, a third of the batches (Yun et al. 2019).
 */
export function augment(t: Tensor, kinds: readonly Augmentation[], seed: number): Tensor {
  if (t.dtype !== "float32" || kinds.length === 0) return t;
  const r = new Random(seed);
  const n = t.dims[0]!;
  const each = t.data.length / n;
  const source = t.data as Float32Array;
  const out = source.slice();
  const image = imageOf(t.dims);
  const normal = () => Math.sqrt(-2 * Math.log(1 - r.float())) * Math.cos(2 * Math.PI * r.float());
  for (let i = 0; i < n; i++) {
    const x = out.subarray(i * each, (i + 1) * each);
    if (image) {
      const flip = kinds.includes("flip") && r.float() < 0.5;
      const dy = kinds.includes("shift") ? r.below(2 * Math.floor(image.height / 8) + 1) - Math.floor(image.height / 8) : 0;
      const dx = kinds.includes("shift") ? r.below(2 * Math.floor(image.width / 8) + 1) - Math.floor(image.width / 8) : 0;
      if (flip || dx !== 0 || dy !== 0) move(source.subarray(i * each, (i + 1) * each), x, image, flip, dx, dy);
    }
    if (kinds.includes("jitter") || kinds.includes("noise")) {
      const deviation = deviationOf(x);
      if (kinds.includes("jitter") && image) {
        for (let c = 0; c < image.channels; c++) {
          const gain = 0.9 + 0.2 * r.float();
          const shift = (r.float() - 0.5) * 0.2 * deviation;
          for (let y = 0; y < image.height; y++)
            for (let k = 0; k < image.width; k++) {
              const at = y * image.rowStride + k * image.columnStride + c * image.channelStride;
              x[at] = x[at]! * gain + shift;
            }
        }
      }
      if (kinds.includes("noise")) for (let k = 0; k < each; k++) x[k] = x[k]! + 0.02 * deviation * normal();
    }
  }
  const mix = r.float();
  if (n > 1 && kinds.includes("mixup") && mix < 1 / 3) {
    const plain = out.slice();
    for (let i = 0; i < n; i++) {
      const lambda = 0.5 + 0.5 * r.float();
      const other = ((i + 1) % n) * each;
      for (let k = 0; k < each; k++) out[i * each + k] = lambda * plain[i * each + k]! + (1 - lambda) * plain[other + k]!;
    }
  } else if (n > 1 && image && kinds.includes("cutmix") && mix < 2 / 3) {
    const plain = out.slice();
    const h = 1 + r.below(Math.max(1, image.height >> 1));
    const w = 1 + r.below(Math.max(1, image.width >> 1));
    const top = r.below(image.height - h + 1);
    const left = r.below(image.width - w + 1);
    for (let i = 0; i < n; i++) {
      const other = ((i + 1) % n) * each;
      for (let y = top; y < top + h; y++)
        for (let k = left; k < left + w; k++)
          for (let c = 0; c < image.channels; c++) {
            const at = y * image.rowStride + k * image.columnStride + c * image.channelStride;
            out[i * each + at] = plain[other + at]!;
          }
    }
  }
  return { ...t, data: out };
}

function move(from: Float32Array, to: Float32Array, m: Image, flip: boolean, dx: number, dy: number): void {
  for (let y = 0; y < m.height; y++) {
    const sy = Math.max(0, Math.min(m.height - 1, y + dy));
    for (let k = 0; k < m.width; k++) {
      const moved = Math.max(0, Math.min(m.width - 1, k + dx));
      const sx = flip ? m.width - 1 - moved : moved;
      for (let c = 0; c < m.channels; c++)
        to[y * m.rowStride + k * m.columnStride + c * m.channelStride] =
          from[sy * m.rowStride + sx * m.columnStride + c * m.channelStride]!;
    }
  }
}

function deviationOf(x: Float32Array): number {
  let sum = 0;
  let square = 0;
  for (let i = 0; i < x.length; i++) {
    sum += x[i]!;
    square += x[i]! * x[i]!;
  }
  const mean = sum / x.length;
  return Math.sqrt(Math.max(0, square / x.length - mean * mean));
}
