import type { Tensor } from "../../runtime/types.ts";
import { numbers } from "../item.ts";
import type { Metric, MetricResult, Sample } from "../types.ts";
import { meanSquare, rate } from "./classify.ts";
import { mean, meanInterval } from "./statistics.ts";
import { argmax, fail, type MetricRow, memo, OUTPUT, type Outputs, outputOf, rowsOf, tensorLabel } from "./types.ts";

interface PixelOptions {
  readonly output?: string;
  readonly scale?: number;
  readonly peak?: number;
  readonly round?: boolean;
  readonly shave?: number;
}
const PIXELS = {
  ...OUTPUT,
  peak: { type: "number", exclusiveMinimum: 0, description: "largest value of a pixel (1)" },
  scale: { type: "number", description: "the output is multiplied by this first (1)" },
  round: { type: "boolean", description: "then rounded and limited to 0 … peak, as an image is stored" },
  shave: { type: "integer", minimum: 0, description: "pixels left out at each border" },
} as const;

interface Plane {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  /** Element of (channel, y, x). */
  at(c: number, y: number, x: number): number;
}

/** The last three axes as an image: channels last when that axis is the short one. */
function planeOf(name: string, t: Tensor, map: (v: number) => number): Plane {
  const x = numbers(t);
  const [a = 1, b = 1, c = 1] = t.dims.slice(-3);
  if (a * b * c !== x.length) throw fail(name, `one image is expected, not shape [${t.dims.join(",")}]`);
  return c <= a && c <= 4
    ? { height: a, width: b, channels: c, at: (k, y, i) => map(x[(y * b + i) * c + k]!) }
    : { height: b, width: c, channels: a, at: (k, y, i) => map(x[(k * b + y) * c + i]!) };
}

function images(name: string, o: PixelOptions, outputs: Outputs, sample: Sample): readonly [Plane, Plane] {
  const peak = o.peak ?? 1;
  const scale = o.scale ?? 1;
  const stored = (v: number) => Math.min(peak, Math.max(0, Math.round(v * scale)));
  const got = planeOf(name, outputOf(name, outputs, o.output), o.round ? stored : (v) => v * scale);
  const want = planeOf(name, tensorLabel(name, sample), (v) => v);
  if (got.height !== want.height || got.width !== want.width || got.channels !== want.channels)
    throw fail(
      name,
      `output ${got.height}×${got.width}×${got.channels} and label ${want.height}×${want.width}×${want.channels} of sample "${sample.id}" differ`,
    );
  return [got, want];
}

/** Metrics that are means of one number a sample. */
function perSampleMean(name: string, unit: Metric["unit"], better: Metric["better"], value: (o: Outputs, s: Sample) => number): Metric {
  const once = memo(value);
  return {
    name,
    unit,
    better,
    start() {
      const perSample: number[] = [];
      return {
        add: (outputs, sample) => void perSample.push(once(outputs, sample)),
        result: () => {
          const interval = meanInterval(perSample);
          return { value: mean(perSample), n: perSample.length, perSample: [...perSample], ...(interval ? { interval } : {}) };
        },
      };
    },
  };
}

const psnr: MetricRow = {
  schema: { type: "object", properties: PIXELS, additionalProperties: false },
  help: "10·log10(peak² / mean squared error), dB, mean over the images",
  make(o: PixelOptions) {
    const peak = o.peak ?? 1;
    return perSampleMean("psnr", "dB", "higher", (outputs, sample) => {
      const [a, b] = images("psnr", o, outputs, sample);
      const s = o.shave ?? 0;
      let sum = 0;
      let n = 0;
      for (let c = 0; c < a.channels; c++)
        for (let y = s; y < a.height - s; y++) for (let x = s; x < a.width - s; x++, n++) sum += (a.at(c, y, x) - b.at(c, y, x)) ** 2;
      // Equal images would be infinitely good and swamp the mean: 100 dB is below the error of float32.
      return Math.min(100, 10 * Math.log10((peak * peak * n) / sum));
    });
  },
};

/** 11-tap Gaussian, σ = 1.5. */
const GAUSS = (() => {
  const g = Array.from({ length: 11 }, (_, i) => Math.exp(-((i - 5) ** 2) / (2 * 1.5 * 1.5)));
  const s = g.reduce((a, b) => a + b, 0);
  return g.map((v) => v / s);
})();

const ssim: MetricRow = {
  schema: { type: "object", properties: PIXELS, additionalProperties: false },
  help: "structural similarity (Wang et al. 2004): 11×11 Gaussian window, mean over channels and images",
  make(o: PixelOptions) {
    const peak = o.peak ?? 1;
    return perSampleMean("ssim", "", "higher", (outputs, sample) => {
      const [a, b] = images("ssim", o, outputs, sample);
      return ssimOf(a, b, peak, o.shave ?? 0);
    });
  },
};

/**
 * (2·μx·μy + C1)(2·σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)), C1 = (0.01·peak)², C2 = (0.03·peak)², averaged over all places where
 * the window fits.
 */
function ssimOf(a: Plane, b: Plane, peak: number, shave: number): number {
  const [h, w] = [a.height - 2 * shave, a.width - 2 * shave];
  if (h < 11 || w < 11) throw fail("ssim", `images of ${w}×${h} are smaller than its window (11×11)`);
  const [c1, c2] = [(0.01 * peak) ** 2, (0.03 * peak) ** 2];
  let sum = 0;
  let n = 0;
  for (let c = 0; c < a.channels; c++) {
    // Five filtered maps, rows first: x, y, x², y², xy.
    const rows = Array.from({ length: 5 }, () => new Float64Array(h * (w - 10)));
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w - 10; x++) {
        const acc = [0, 0, 0, 0, 0];
        for (let k = 0; k < 11; k++) {
          const p = a.at(c, y + shave, x + k + shave);
          const q = b.at(c, y + shave, x + k + shave);
          const g = GAUSS[k]!;
          acc[0]! += g * p;
          acc[1]! += g * q;
          acc[2]! += g * p * p;
          acc[3]! += g * q * q;
          acc[4]! += g * p * q;
        }
        for (let m = 0; m < 5; m++) rows[m]![y * (w - 10) + x] = acc[m]!;
      }
    for (let y = 0; y < h - 10; y++)
      for (let x = 0; x < w - 10; x++, n++) {
        const m = [0, 0, 0, 0, 0];
        for (let k = 0; k < 11; k++) for (let j = 0; j < 5; j++) m[j]! += GAUSS[k]! * rows[j]![(y + k) * (w - 10) + x]!;
        const [mx, my] = [m[0]!, m[1]!];
        const [vx, vy, vxy] = [m[2]! - mx * mx, m[3]! - my * my, m[4]! - mx * my];
        sum += ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2));
      }
  }
  return sum / n;
}

const mse: MetricRow = {
  schema: {
    type: "object",
    properties: { ...OUTPUT, input: { type: "string", description: "compare with this input instead of the label" } },
    additionalProperties: false,
  },
  help: "mean squared difference from the label",
  make(o: { readonly output?: string; readonly input?: string }) {
    return perSampleMean("mse", "", "lower", (outputs, sample) => {
      const got = outputOf("mse", outputs, o.output);
      const want = o.input === undefined ? labelArray(sample) : sample.feeds[o.input] && numbers(sample.feeds[o.input]!);
      if (want === undefined) throw fail("mse", `sample "${sample.id}" has no input "${o.input}"`);
      const x = numbers(got);
      if (x.length !== want.length) throw fail("mse", `sample "${sample.id}": ${x.length} outputs, ${want.length} labels`);
      return meanSquare(x, want);
    });
  },
};

function labelArray(sample: Sample): ArrayLike<number> {
  const l = sample.label;
  if (typeof l === "number") return [l];
  if (Array.isArray(l) && l.every((v) => typeof v === "number")) return l as readonly number[];
  return numbers(tensorLabel("mse", sample));
}

function referenceOf(name: string, reference: Outputs | undefined): Outputs {
  if (reference === undefined) throw fail(name, "it compares with the float model, whose outputs are not at hand here");
  return reference;
}

const sqnr: MetricRow = {
  schema: { type: "object", properties: OUTPUT, additionalProperties: false },
  help: "10·log10(Σx² / Σ(x − y)²) against the float model, dB",
  unlabelled: true,
  make(o: { readonly output?: string }): Metric {
    return {
      name: "sqnr",
      unit: "dB",
      better: "higher",
      needsReference: true,
      start() {
        let signal = 0;
        let noise = 0;
        let n = 0;
        return {
          add(outputs, _sample, reference) {
            const y = numbers(outputOf("sqnr", outputs, o.output));
            const x = numbers(outputOf("sqnr", referenceOf("sqnr", reference), o.output));
            for (let i = 0; i < x.length; i++) {
              signal += x[i]! ** 2;
              noise += (x[i]! - y[i]!) ** 2;
            }
            n++;
          },
          result: (): MetricResult => ({
            value: noise === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(signal / noise),
            n,
            perSample: undefined,
          }),
        };
      },
    };
  },
};

const agreement: MetricRow = {
  schema: { type: "object", properties: OUTPUT, additionalProperties: false },
  help: "largest element at the same place as in the float model, %",
  unlabelled: true,
  make(o: { readonly output?: string }): Metric {
    return {
      name: "agreement",
      unit: "%",
      better: "higher",
      needsReference: true,
      start() {
        const perSample: number[] = [];
        return {
          add(outputs, _sample, reference) {
            const a = rowsOf(outputOf("agreement", outputs, o.output));
            const b = rowsOf(outputOf("agreement", referenceOf("agreement", reference), o.output));
            let same = 0;
            for (let r = 0; r < a.rows; r++) if (argmax(a.x, r * a.columns, a.columns) === argmax(b.x, r * b.columns, b.columns)) same++;
            perSample.push(same / a.rows);
          },
          result: () => rate(perSample),
        };
      },
    };
  },
};

export const COMPARE = { psnr, ssim, mse, sqnr, agreement } as const satisfies Record<string, MetricRow>;
