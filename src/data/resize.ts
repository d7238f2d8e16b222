export type Kernel = "nearest" | "bilinear" | "bicubic" | "lanczos3";

interface Filter {
  readonly support: number;
  weight(x: number): number;
}
const FILTERS: Readonly<Record<Exclude<Kernel, "nearest">, Filter>> = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  // Keys 1981 with a = -1/2.
  bicubic: {
    support: 2,
    weight(x) {
      const a = Math.abs(x);
      if (a < 1) return (1.5 * a - 2.5) * a * a + 1;
      return a < 2 ? ((-0.5 * a + 2.5) * a - 4) * a + 2 : 0;
    },
  },
  lanczos3: { support: 3, weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
};
function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/** For each output position the first input position and the weights from there on (they sum to 1). */
interface Taps {
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly weights: Float64Array; // [size, most]
  readonly most: number;
}

function tapsOf(from: number, to: number, kernel: Exclude<Kernel, "nearest">, antialias: boolean): Taps {
  const scale = from / to;
  const f = FILTERS[kernel];
  const stretch = antialias ? Math.max(scale, 1) : 1;
  const support = f.support * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const weights = new Float64Array(to * most);
  for (let o = 0; o < to; o++) {
    const center = (o + 0.5) * scale;
    const lo = Math.max(0, Math.trunc(center - support + 0.5));
    const hi = Math.min(from, Math.trunc(center + support + 0.5));
    let sum = 0;
    for (let i = lo; i < hi; i++) {
      const w = f.weight((i + 0.5 - center) / stretch);
      weights[o * most + i - lo] = w;
      sum += w;
    }
    for (let i = 0; i < hi - lo; i++) weights[o * most + i] = weights[o * most + i]! / sum;
    first[o] = lo;
    count[o] = hi - lo;
  }
  return { first, count, weights, most };
}

/** Weights of 8-bit images in fixed point, as Pillow has them: a pass then agrees with Pillow's bit for bit. */
const BITS = 22;

/**
 * Resizes an image [h, w, c], rows first, then columns, pixel centres at half integers. `antialias` widens the kernel when shrinking
 * (Pillow's way); without it, neighbours of the centre are all that counts (OpenCV's way). 8-bit images round after each pass.
 */
export function resizeImage<T extends Uint8Array | Float32Array>(
  image: T,
  from: { readonly width: number; readonly height: number; readonly channels: number },
  to: { readonly width: number; readonly height: number },
  kernel: Kernel = "bilinear",
  antialias = true,
): T {
  const { width, height, channels } = from;
  if (width === to.width && height === to.height) return image;
  const make = (n: number): T => (image instanceof Uint8Array ? new Uint8Array(n) : new Float32Array(n)) as T;
  if (kernel === "nearest") return nearestNeighbour(image, from, to, make(to.width * to.height * channels));
  const rows =
    width === to.width
      ? image
      : pass(image, make(height * to.width * channels), tapsOf(width, to.width, kernel, antialias), {
          lines: height,
          lineFrom: width * channels,
          lineTo: to.width * channels,
          step: channels,
          inner: channels,
        });
  if (height === to.height) return rows;
  // One "line" holds the whole image: positions are rows, and each row is copied through as `inner` elements.
  return pass(rows, make(to.height * to.width * channels), tapsOf(height, to.height, kernel, antialias), {
    lines: 1,
    lineFrom: 0,
    lineTo: 0,
    step: to.width * channels,
    inner: to.width * channels,
  });
}

interface Walk {
  readonly lines: number;
  readonly lineFrom: number;
  readonly lineTo: number;
  /** Elements between neighbouring positions, of input and output alike. */
  readonly step: number;
  readonly inner: number;
}

function pass<T extends Uint8Array | Float32Array>(x: T, y: T, t: Taps, w: Walk): T {
  if (x instanceof Uint8Array) {
    const k = Float64Array.from(t.weights, (v) => Math.trunc(v * 2 ** BITS + (v < 0 ? -0.5 : 0.5)));
    passFixed(x, y as Uint8Array, t, k, w);
  } else passFloat(x, y as Float32Array, t, w);
  return y;
}

// Twice the same loop, so that each stays monomorphic.
function passFixed(x: Uint8Array, y: Uint8Array, t: Taps, k: Float64Array, w: Walk): void {
  const size = t.first.length;
  for (let line = 0; line < w.lines; line++) {
    for (let o = 0; o < size; o++) {
      const from = line * w.lineFrom + t.first[o]! * w.step;
      const to = line * w.lineTo + o * w.step;
      const n = t.count[o]!;
      const at = o * t.most;
      for (let c = 0; c < w.inner; c++) {
        let s = 2 ** (BITS - 1);
        for (let i = 0, p = from + c; i < n; i++, p += w.step) s += x[p]! * k[at + i]!;
        // Sums stay below 2^53: the product of doubles is exact, and so is the shift.
        const v = Math.floor(s / 2 ** BITS);
        y[to + c] = Math.min(255, Math.max(0, v));
      }
    }
  }
}

function passFloat(x: Float32Array, y: Float32Array, t: Taps, w: Walk): void {
  const k = t.weights;
  const size = t.first.length;
  for (let line = 0; line < w.lines; line++) {
    for (let o = 0; o < size; o++) {
      const from = line * w.lineFrom + t.first[o]! * w.step;
      const to = line * w.lineTo + o * w.step;
      const n = t.count[o]!;
      const at = o * t.most;
      for (let c = 0; c < w.inner; c++) {
        let s = 0;
        for (let i = 0, p = from + c; i < n; i++, p += w.step) s += x[p]! * k[at + i]!;
        y[to + c] = s;
      }
    }
  }
}

function nearestNeighbour<T extends Uint8Array | Float32Array>(
  image: T,
  from: { readonly width: number; readonly height: number; readonly channels: number },
  to: { readonly width: number; readonly height: number },
  out: T,
): T {
  const c = from.channels;
  let at = 0;
  for (let y = 0; y < to.height; y++) {
    const sy = Math.min(from.height - 1, Math.floor(((y + 0.5) * from.height) / to.height));
    for (let x = 0; x < to.width; x++) {
      const sx = Math.min(from.width - 1, Math.floor(((x + 0.5) * from.width) / to.width));
      for (let k = 0; k < c; k++) out[at++] = image[(sy * from.width + sx) * c + k]!;
    }
  }
  return out;
}
