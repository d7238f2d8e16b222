import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { QcError } from "../../diagnostics.ts";
import { numbers } from "../item.ts";
import type { BoxLabel, Metric, MetricResult, Sample } from "../types.ts";
import { bootstrapInterval } from "./statistics.ts";
import { fail, type MetricContext, type MetricRow, memo, type Outputs, outputOf } from "./types.ts";

/** A found object; corners relative to the image: x1, y1, x2, y2. */
export interface Detection {
  readonly class: number;
  readonly score: number;
  readonly box: readonly [number, number, number, number];
}
type Decode = (outputs: Outputs, sample: Sample) => readonly Detection[];

interface MapOptions {
  readonly decoder?: string;
  readonly boxes?: string;
  readonly scores?: string;
  readonly form?: "xyxy" | "cxcywh" | "yxyx";
  readonly background?: boolean;
  readonly size?: readonly [number, number];
  readonly threshold?: number;
  readonly nms?: number;
  readonly most?: number;
  readonly iou?: "50" | "50-95";
}

/** 0.50, 0.55, …, 0.95 (COCO). */
const LEVELS = Array.from({ length: 10 }, (_, i) => 0.5 + 0.05 * i);

const map: MetricRow = {
  schema: {
    type: "object",
    properties: {
      decoder: {
        type: "string",
        description: "module with `export function decode(outputs, sample)` → [{ class, score, box: [x1, y1, x2, y2] }]",
      },
      boxes: { type: "string", description: "without a decoder: output [1, n, 4]" },
      scores: { type: "string", description: "without a decoder: output [1, n, classes]" },
      form: { enum: ["xyxy", "cxcywh", "yxyx"] },
      background: { type: "boolean", description: "the first class of `scores` is the background" },
      size: {
        type: "array",
        items: { type: "number" },
        minItems: 2,
        maxItems: 2,
        description: "[width, height] that box coordinates count (1, 1)",
      },
      threshold: { type: "number", description: "least score (0.05)" },
      nms: { type: "number", description: "drop a box that overlaps a better one of its class by more (IoU; 0.45); 1: keep all" },
      most: { type: "integer", minimum: 1, description: "boxes kept of an image (100)" },
      iou: { enum: ["50", "50-95"], description: "overlap that counts as found (50)" },
    },
    additionalProperties: false,
  },
  help: "mean average precision of boxes, % (COCO's 101 recall levels); `more` has both overlaps",
  async make(o: MapOptions, context: MetricContext): Promise<Metric> {
    const decode = o.decoder === undefined ? plainDecoder(o) : await moduleDecoder(resolve(context.folder, o.decoder));
    const matched = memo((outputs, sample) => matchAll(keepBest(decode(outputs, sample), o), truthOf(sample)));
    return {
      name: "map",
      unit: "%",
      better: "higher",
      start() {
        const all: ImageMatch[] = [];
        return {
          add: (outputs, sample) => void all.push(matched(outputs, sample)),
          result(): MetricResult {
            const at = LEVELS.map((_, k) => averagePrecision(all, k));
            const [map50, map5095] = [100 * at[0]!, (100 * at.reduce((a, b) => a + b, 0)) / at.length];
            const wide = o.iou === "50-95";
            return {
              value: wide ? map5095 : map50,
              n: all.length,
              perSample: undefined,
              more: { map50, map5095 },
              get interval() {
                const levels = wide ? LEVELS.map((_, k) => k) : [0];
                const i = bootstrapInterval(
                  all.length,
                  (times) => levels.reduce((s, k) => s + averagePrecision(all, k, times), 0) / levels.length,
                  wide ? 100 : 200,
                );
                return i && ([100 * i[0], 100 * i[1]] as const);
              },
            } as MetricResult;
          },
        };
      },
    };
  },
};

async function moduleDecoder(path: string): Promise<Decode> {
  let m: { readonly decode?: Decode };
  try {
    m = (await import(pathToFileURL(path).href)) as typeof m;
  } catch (e) {
    throw new QcError({ code: "data/module", module: path, detail: (e as Error).message }, { cause: e });
  }
  if (typeof m.decode !== "function") throw fail("map", `"${path}" exports no function \`decode\``);
  return m.decode;
}

/** Boxes and scores as two outputs (SSD and its kin). */
function plainDecoder(o: MapOptions): Decode {
  const { boxes, scores, form = "xyxy", size = [1, 1] } = o;
  if (boxes === undefined || scores === undefined) throw fail("map", "it needs a `decoder` module, or the outputs `boxes` and `scores`");
  return (outputs) => {
    const b = numbers(outputOf("map", outputs, boxes));
    const t = outputOf("map", outputs, scores);
    const s = numbers(t);
    const classes = t.dims[t.dims.length - 1]!;
    const skip = o.background ? 1 : 0;
    const found: Detection[] = [];
    for (let i = 0; i < b.length / 4; i++)
      for (let c = skip; c < classes; c++) {
        const score = s[i * classes + c]!;
        if (score >= (o.threshold ?? 0.05)) found.push({ class: c - skip, score, box: cornersOf(b, 4 * i, form, size) });
      }
    return found;
  };
}

function cornersOf(b: ArrayLike<number>, at: number, form: "xyxy" | "cxcywh" | "yxyx", size: readonly [number, number]): Detection["box"] {
  const [p, q, r, s] = [b[at]!, b[at + 1]!, b[at + 2]!, b[at + 3]!];
  const [x1, y1, x2, y2] = form === "xyxy" ? [p, q, r, s] : form === "yxyx" ? [q, p, s, r] : [p - r / 2, q - s / 2, p + r / 2, q + s / 2];
  return [x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1]];
}

export function iouOf(a: Detection["box"], b: Detection["box"]): number {
  const w = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const h = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const both = w * h;
  const either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both;
  return either > 0 ? both / either : 0;
}

/** The best boxes of an image, by falling score, those that repeat a better one of their class left out. */
function keepBest(found: readonly Detection[], o: MapOptions): Detection[] {
  const sorted = found.filter((d) => d.score >= (o.threshold ?? 0.05)).sort((a, b) => b.score - a.score);
  const limit = o.nms ?? 0.45;
  const kept: Detection[] = [];
  const byClass = new Map<number, Detection[]>();
  for (const d of sorted) {
    if (kept.length >= (o.most ?? 100)) break;
    const same = byClass.get(d.class) ?? [];
    if (limit < 1 && same.some((k) => iouOf(k.box, d.box) > limit)) continue;
    kept.push(d);
    byClass.set(d.class, [...same, d]);
  }
  return kept;
}

interface Truth {
  readonly class: number;
  readonly box: Detection["box"];
}

function truthOf(sample: Sample): Truth[] {
  const l = sample.label;
  if (!Array.isArray(l) || !l.every((b) => typeof b === "object" && b !== null && "cx" in b))
    throw fail("map", `sample "${sample.id}" has no boxes as labels; see \`labels: { boxes: … }\``);
  return (l as readonly BoxLabel[]).map((b) => ({ class: b.class, box: [b.cx - b.w / 2, b.cy - b.h / 2, b.cx + b.w / 2, b.cy + b.h / 2] }));
}

/** Of one image: every kept box with, per overlap level, whether it found an object; and how many objects there are per class. */
interface ImageMatch {
  readonly boxes: readonly { readonly class: number; readonly score: number; readonly hits: number }[];
  readonly objects: ReadonlyMap<number, number>;
}

/** Greedy by score: a box takes the free object of its class that it overlaps most, if enough. `hits` has one bit per level. */
function matchAll(found: readonly Detection[], truth: readonly Truth[]): ImageMatch {
  const objects = new Map<number, number>();
  for (const t of truth) objects.set(t.class, (objects.get(t.class) ?? 0) + 1);
  const hits = new Array<number>(found.length).fill(0);
  LEVELS.forEach((level, k) => {
    const used = new Array<boolean>(truth.length).fill(false);
    found.forEach((d, i) => {
      let best = -1;
      let most = 0;
      truth.forEach((t, j) => {
        if (used[j] || t.class !== d.class) return;
        const v = iouOf(d.box, t.box);
        if (v > most) {
          most = v;
          best = j;
        }
      });
      if (best < 0 || most < level) return;
      used[best] = true;
      hits[i] = hits[i]! | (1 << k);
    });
  });
  return { boxes: found.map((d, i) => ({ class: d.class, score: d.score, hits: hits[i]! })), objects };
}

/** Mean over the classes that occur of the mean precision at recall 0, 0.01, …, 1 (precision made falling). */
function averagePrecision(images: readonly ImageMatch[], level: number, times?: Uint32Array): number {
  const objects = new Map<number, number>();
  const rows = new Map<number, { score: number; hit: number; w: number }[]>();
  images.forEach((image, i) => {
    const w = times?.[i] ?? 1;
    if (w === 0) return;
    for (const [c, n] of image.objects) objects.set(c, (objects.get(c) ?? 0) + w * n);
    for (const b of image.boxes) {
      const row = { score: b.score, hit: (b.hits >> level) & 1, w };
      const list = rows.get(b.class);
      if (list === undefined) rows.set(b.class, [row]);
      else list.push(row);
    }
  });
  if (objects.size === 0) return Number.NaN;
  let sum = 0;
  for (const [c, total] of objects) {
    const list = (rows.get(c) ?? []).sort((a, b) => b.score - a.score);
    const recall: number[] = [];
    const precision: number[] = [];
    let [tp, n] = [0, 0];
    for (const r of list) {
      tp += r.hit * r.w;
      n += r.w;
      recall.push(tp / total);
      precision.push(tp / n);
    }
    for (let i = precision.length - 2; i >= 0; i--) precision[i] = Math.max(precision[i]!, precision[i + 1]!);
    let ap = 0;
    for (let k = 0, i = 0; k <= 100; k++) {
      while (i < recall.length && recall[i]! < k / 100 - 1e-12) i++;
      ap += precision[i] ?? 0;
    }
    sum += ap / 101;
  }
  return sum / objects.size;
}

export const BOXES = { map } as const satisfies Record<string, MetricRow>;
