import type { FileItem, Item, TensorItem } from "../item.ts";
import { type Kernel, resizeImage } from "../resize.ts";
import { transpose } from "./numeric.ts";
import { type Run, StepError, type StepRow, tensorOf } from "./types.ts";

/** An image in memory: [height, width, channels], 8 bit or float32. */
interface Image extends TensorItem {
  readonly data: Uint8Array | Float32Array;
}
const size = { type: "integer", minimum: 1, maximum: 32768 } as const;

/** Images come decoded (rows of an array) or encoded (files); an encoded one is decoded by the first image step that needs it. */
async function imageOf(item: Item): Promise<Image> {
  const t = item.kind === "file" ? await decode(item, false) : tensorOf(item);
  if (t.layout === "chw") throw new StepError("the image is channels-first already; put `layout` behind the other image steps");
  if (t.dims.length === 2) return imageOf({ ...t, dims: [...t.dims, 1] });
  if (t.dims.length !== 3) throw new StepError(`an image has shape [height, width, channels], this is [${t.dims.join(",")}]`);
  if (!(t.data instanceof Uint8Array) && !(t.data instanceof Float32Array))
    throw new StepError(`images are uint8 or float32, this is ${t.dtype}`);
  return { ...t, data: t.data, layout: "hwc" };
}
const make = (like: Uint8Array | Float32Array, n: number) => (like instanceof Uint8Array ? new Uint8Array(n) : new Float32Array(n));

/** 8-bit RGB; transparency is dropped, grey is spread to three channels. */
async function decode(item: FileItem, exif: boolean): Promise<TensorItem> {
  const { default: sharp } = await import("sharp");
  sharp.cache(false); // every image is read once: a cache only grows
  try {
    const image = sharp(await item.bytes(), { failOn: "error", sequentialRead: true });
    const { data, info } = await (exif ? image.rotate() : image)
      .toColourspace("srgb")
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return { kind: "tensor", dtype: "uint8", dims: [info.height, info.width, info.channels], data: bytes, layout: "hwc" };
  } catch (e) {
    throw new StepError(`"${item.path}" is no image that can be decoded: ${(e as Error).message.replace(/\s+/g, " ")}`);
  }
}

interface Resize {
  readonly width?: number;
  readonly height?: number;
  readonly shorter?: number;
  readonly mode?: "stretch" | "inside" | "crop" | "pad";
  readonly kernel?: Kernel;
  readonly antialias?: boolean;
  readonly fill?: number;
}

function resized(x: Image, width: number, height: number, a: Resize): Image {
  const [h, w, c] = x.dims as [number, number, number];
  const data = resizeImage(x.data, { width: w, height: h, channels: c }, { width, height }, a.kernel, a.antialias ?? true);
  return { ...x, dims: [height, width, c], data };
}

function resize(a: Resize): Run {
  const { width, height, shorter, mode = "stretch" } = a;
  if (shorter === undefined ? width === undefined || height === undefined : width !== undefined || height !== undefined)
    throw new StepError("give width and height, or shorter alone");
  return async (item) => {
    const x = await imageOf(item);
    const [h, w] = x.dims as [number, number];
    if (shorter !== undefined) {
      // As torchvision rounds: the longer side is cut down.
      return w <= h ? resized(x, shorter, Math.trunc((shorter * h) / w), a) : resized(x, Math.trunc((shorter * w) / h), shorter, a);
    }
    if (mode === "stretch") return resized(x, width!, height!, a);
    const scale = mode === "crop" ? Math.max(width! / w, height! / h) : Math.min(width! / w, height! / h);
    const to = (n: number, limit: number) => {
      const r = Math.max(1, Math.round(n * scale));
      return mode === "crop" ? Math.max(r, limit) : Math.min(r, limit);
    };
    const y = resized(x, to(w, width!), to(h, height!), a);
    return mode === "inside" ? y : place(y, width!, height!, "center", a.fill ?? 0);
  };
}

type At = "center" | "top-left" | readonly [number, number];

/** The window [width, height] of an image; where it lies outside, `fill`. Odd differences put the smaller part first. */
function place(x: Image, width: number, height: number, at: At, fill: number): Image {
  const [h, w, c] = x.dims as [number, number, number];
  const left = at === "center" ? Math.floor((w - width) / 2) : at === "top-left" ? 0 : at[0];
  const top = at === "center" ? Math.floor((h - height) / 2) : at === "top-left" ? 0 : at[1];
  const out = make(x.data, width * height * c).fill(fill);
  const from = Math.max(0, left);
  const to = Math.min(w, left + width);
  for (let y = Math.max(0, top); y < Math.min(h, top + height); y++) {
    if (to <= from) break;
    out.set(x.data.subarray((y * w + from) * c, (y * w + to) * c), ((y - top) * width + from - left) * c);
  }
  return { ...x, dims: [height, width, c], data: out };
}

const WINDOW = {
  anyOf: [
    size,
    {
      type: "object",
      properties: {
        width: size,
        height: size,
        at: {
          anyOf: [{ enum: ["center", "top-left"] }, { type: "array", items: { type: "integer", minimum: 0 }, minItems: 2, maxItems: 2 }],
        },
        fill: { type: "number" },
      },
      required: ["width", "height"],
      additionalProperties: false,
    },
  ],
} as const;
type Window = number | { readonly width: number; readonly height: number; readonly at?: At; readonly fill?: number };
const windowOf = (a: Window) => (typeof a === "number" ? { width: a, height: a } : a);

export const IMAGE = {
  decode: {
    schema: { anyOf: [{ type: "null" }, { type: "object", properties: { exif: { type: "boolean" } }, additionalProperties: false }] },
    help: "file → 8-bit RGB [h, w, 3]; `exif: true` turns it upright",
    make(a: { readonly exif?: boolean } | null) {
      return (item) => (item.kind === "file" ? decode(item, a?.exif ?? false) : tensorOf(item));
    },
  },
  resize: {
    schema: {
      type: "object",
      properties: {
        width: size,
        height: size,
        shorter: size,
        mode: { enum: ["stretch", "inside", "crop", "pad"] },
        kernel: { enum: ["nearest", "bilinear", "bicubic", "lanczos3"] },
        antialias: { type: "boolean" },
        fill: { type: "number" },
      },
      additionalProperties: false,
    },
    help: "stretch; or keep the aspect: inside, crop (cover, then cut), pad (letterbox); `shorter` sets the shorter side",
    make: resize,
  },
  crop: {
    schema: WINDOW,
    help: "cuts a window: at the centre, the top left, or [x, y]",
    make(a: Window) {
      const { width, height, at = "center" } = windowOf(a) as Exclude<Window, number>;
      return async (item) => {
        const x = await imageOf(item);
        if (x.dims[0]! < height || x.dims[1]! < width)
          throw new StepError(`the image is ${x.dims[1]}×${x.dims[0]}, smaller than the window ${width}×${height}; resize or pad first`);
        return place(x, width, height, at, 0);
      };
    },
  },
  pad: {
    schema: WINDOW,
    help: "adds a border up to this size",
    make(a: Window) {
      const { width, height, at = "center", fill = 0 } = windowOf(a) as Exclude<Window, number>;
      return async (item) => {
        const x = await imageOf(item);
        if (x.dims[0]! > height || x.dims[1]! > width)
          throw new StepError(`the image is ${x.dims[1]}×${x.dims[0]}, larger than ${width}×${height}`);
        if (typeof at !== "string") return place(x, width, height, [-at[0], -at[1]], fill);
        return place(x, width, height, at, fill);
      };
    },
  },
  channels: {
    schema: { enum: ["rgb", "bgr", "gray"] },
    help: "order of the channels; gray is 0.299 R + 0.587 G + 0.114 B",
    make(order: "rgb" | "bgr" | "gray") {
      return async (item) => channels(await imageOf(item), order);
    },
  },
  layout: {
    schema: { enum: ["nchw", "nhwc"] },
    help: "channels first or last",
    make(order: "nchw" | "nhwc") {
      return async (item) => {
        const t = item.kind === "file" ? await decode(item, false) : tensorOf(item);
        if (t.dims.length !== 3) throw new StepError(`an image has three dimensions, this is [${t.dims.join(",")}]`);
        if (order === "nchw") return t.layout === "chw" ? t : { ...transpose(t, [2, 0, 1]), layout: "chw" };
        return t.layout === "chw" ? { ...transpose(t, [1, 2, 0]), layout: "hwc" } : { ...t, layout: "hwc" };
      };
    },
  },
} as const satisfies Record<string, StepRow>;

function channels(x: Image, order: "rgb" | "bgr" | "gray"): Image {
  const [h, w, c] = x.dims as [number, number, number];
  if (order === "rgb" && c === 3) return x;
  if (c === 1 && order !== "gray") {
    const out = make(x.data, 3 * h * w);
    for (let i = 0; i < h * w; i++) out.fill(x.data[i]!, 3 * i, 3 * i + 3);
    return { ...x, dims: [h, w, 3], data: out };
  }
  if (c === 1) return x;
  if (c !== 3) throw new StepError(`the image has ${c} channels; 1 or 3 are expected`);
  const out = make(x.data, (order === "gray" ? 1 : 3) * h * w);
  const bytes = x.data instanceof Uint8Array;
  for (let i = 0; i < h * w; i++) {
    const r = x.data[3 * i]!;
    const g = x.data[3 * i + 1]!;
    const b = x.data[3 * i + 2]!;
    if (order === "gray") {
      // ITU-R 601; for 8 bit in 16-bit fixed point with rounding, as Pillow has it.
      out[i] = bytes ? (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16 : 0.299 * r + 0.587 * g + 0.114 * b;
    } else {
      out[3 * i] = b;
      out[3 * i + 1] = g;
      out[3 * i + 2] = r;
    }
  }
  return { ...x, dims: [h, w, order === "gray" ? 1 : 3], data: out };
}
