import type { DataSet, Sample } from "./types.ts";

const EDGE = 96;

/** Small pictures of samples, as data URLs: of the image file it came from, or of a feed with one, three or four channels. */
export async function picturesOf(data: DataSet, ids: readonly string[], among: readonly number[]): Promise<ReadonlyMap<string, string>> {
  const out = new Map<string, string>();
  const wanted = new Set(ids);
  for (const index of among) {
    if (out.size === wanted.size) break;
    const sample = await data.sample(index);
    if (!wanted.has(sample.id)) continue;
    const url = await pictureOf(sample);
    if (url === undefined) continue;
    out.set(sample.id, url);
  }
  return out;
}

export async function pictureOf(sample: Sample): Promise<string | undefined> {
  const { default: sharp } = await import("sharp");
  const small = { width: EDGE, height: EDGE, fit: "inside", kernel: "nearest" } as const;
  try {
    if (sample.file !== undefined && /\.(jpe?g|png|webp|gif|tiff?|avif)$/i.test(sample.file)) {
      const jpeg = await sharp(sample.file)
        .resize({ ...small, kernel: "lanczos3" })
        .jpeg({ quality: 70 })
        .toBuffer();
      return `data:image/jpeg;base64,${jpeg.toString("base64")}`;
    }
    const p = pixelsOf(sample);
    if (p === undefined) return undefined;
    const jpeg = await sharp(p.data, { raw: { width: p.width, height: p.height, channels: p.channels } })
      .resize(small)
      .jpeg({ quality: 80 })
      .toBuffer();
    return `data:image/jpeg;base64,${jpeg.toString("base64")}`;
  } catch {
    // A file that sharp cannot read has no picture; the sample's name is shown.
    return undefined;
  }
}

/** The sample's picture in grey, `edge` × `edge`, by averages over cells, without a border of `crop` of each side; undefined when no feed is an image. */
export function grayOf(sample: Sample, edge: number, crop = 0): Float32Array | undefined {
  const p = pixelsOf(sample);
  if (p === undefined) return undefined;
  const out = new Float32Array(edge * edge);
  const [top, left] = [crop * p.height, crop * p.width];
  const [height, width] = [p.height - 2 * top, p.width - 2 * left];
  for (let y = 0; y < edge; y++)
    for (let x = 0; x < edge; x++) {
      const [y0, x0] = [top + (y * height) / edge, left + (x * width) / edge];
      const [y1, x1] = [Math.max(y0 + 1, top + ((y + 1) * height) / edge), Math.max(x0 + 1, left + ((x + 1) * width) / edge)];
      let sum = 0;
      let n = 0;
      for (let yy = Math.floor(y0); yy < Math.min(p.height, Math.ceil(y1)); yy++)
        for (let xx = Math.floor(x0); xx < Math.min(p.width, Math.ceil(x1)); xx++)
          for (let k = 0; k < p.channels; k++, n++) sum += p.data[(yy * p.width + xx) * p.channels + k]!;
      out[y * edge + x] = sum / n;
    }
  return out;
}

/** The first feed that looks like an image, spread over 0…255: what the network sees, up to brightness. */
function pixelsOf(
  sample: Sample,
): { readonly data: Uint8Array; readonly width: number; readonly height: number; readonly channels: 1 | 3 } | undefined {
  for (const t of Object.values(sample.feeds)) {
    const [n, a, b, c] = t.dims;
    if (t.dims.length !== 4 || n !== 1 || Array.isArray(t.data) || t.dtype === "float16") continue;
    const first = a === 1 || a === 3;
    if (!first && c !== 1 && c !== 3) continue;
    const [channels, height, width] = first ? ([a === 1 ? 1 : 3, b!, c!] as const) : ([c === 1 ? 1 : 3, a!, b!] as const);
    if (height < 8 || width < 8) continue;
    let lo = Infinity;
    let hi = -Infinity;
    for (let i = 0; i < t.data.length; i++) {
      const v = Number(t.data[i]);
      if (v < lo) lo = v;
      if (v > hi) hi = v;
    }
    const scale = hi > lo ? 255 / (hi - lo) : 0;
    const data = new Uint8Array(height * width * channels);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        for (let k = 0; k < channels; k++) {
          const from = first ? (k * height + y) * width + x : (y * width + x) * channels + k;
          data[(y * width + x) * channels + k] = (Number(t.data[from]) - lo) * scale;
        }
    return { data, width, height, channels };
  }
  return undefined;
}
