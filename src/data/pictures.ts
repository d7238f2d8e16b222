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

/**
 * The sample's picture in grey, `edge` × `edge`, by averages over cells weighted with the area that each pixel shares with the cell, without a
 * border of `crop` of each side; undefined when no feed is an image. A cell smaller than a pixel is one pixel wide around its middle.
 */
export function grayOf(sample: Sample, edge: number, crop = 0): Float32Array | undefined {
  const p = pixelsOf(sample);
  if (p === undefined) return undefined;
  const rows = cellsOf(p.height, edge, crop);
  const columns = cellsOf(p.width, edge, crop);
  const out = new Float32Array(edge * edge);
  for (let y = 0; y < edge; y++)
    for (let x = 0; x < edge; x++) {
      const [r, c] = [rows[y]!, columns[x]!];
      let sum = 0;
      for (let a = 0; a < r.shares.length; a++)
        for (let b = 0; b < c.shares.length; b++) {
          const share = r.shares[a]! * c.shares[b]!;
          const at = ((r.first + a) * p.width + c.first + b) * p.channels;
          for (let k = 0; k < p.channels; k++) sum += share * p.data[at + k]!;
        }
      out[y * edge + x] = sum / p.channels;
    }
  return out;
}

/** Along one axis: the first pixel of each cell, and the share of the cell that it and the next ones fill. */
function cellsOf(size: number, edge: number, crop: number): readonly { readonly first: number; readonly shares: readonly number[] }[] {
  const cell = ((1 - 2 * crop) * size) / edge;
  const width = Math.max(1, cell);
  return Array.from({ length: edge }, (_, i) => {
    const middle = crop * size + (i + 0.5) * cell;
    const low = Math.max(0, Math.min(size - 1, middle - width / 2));
    const high = Math.min(size, Math.max(middle + width / 2, low + Number.EPSILON * size));
    const first = Math.floor(low);
    const shares: number[] = [];
    for (let v = first; v < high; v++) shares.push((Math.min(high, v + 1) - Math.max(low, v)) / (high - low));
    return { first, shares };
  });
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
