import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { nearest } from "../diagnostics/nearest.ts";
import { QcError } from "../diagnostics.ts";
import { readFile } from "../io/source.ts";
import { elementCount } from "../quant/dtype.ts";
import { runSteps } from "./bind.ts";
import type { SetConfig } from "./config.ts";
import type { Fields, Item } from "./item.ts";
import type { Source } from "./sources/types.ts";
import { compileSteps } from "./steps/index.ts";
import type { BoxLabel, Label } from "./types.ts";

export interface Labels {
  /** Fields that they are made from. */
  readonly fields: readonly string[];
  /** Class index of every sample, when that needs no sample loaded. */
  classes(): readonly (number | undefined)[] | undefined;
  of(index: number, id: string, fields: Fields): Promise<Label | undefined>;
}

/** What the metric compares with: a field, with steps or without; or boxes in text files beside the images. */
export function openLabels(set: string, folder: string, source: Source, config: SetConfig): Labels {
  const spec = typeof config.labels === "string" ? { from: config.labels } : config.labels;
  if (spec === undefined) return { fields: [], classes: () => source.classes?.(), of: async (index) => source.labelOf?.(index) };
  if (spec.boxes !== undefined) {
    const pattern = spec.boxes;
    return { fields: ["name"], classes: () => undefined, of: async (_, id, fields) => boxesOf(set, folder, pattern, id, fields) };
  }
  const from = spec.from ?? source.main;
  const have = [...source.fields.keys()];
  if (from === undefined || !source.fields.has(from)) {
    const near = nearest(from ?? "", have);
    throw new QcError({ code: "data/no-such-field", set, field: from ?? "labels", have, ...(near === undefined ? {} : { nearest: near }) });
  }
  const names = classNames(source, from, config.classes);
  const steps = compileSteps(spec.steps ?? [], folder);
  return {
    fields: [from],
    classes() {
      if (steps.length > 0) return undefined;
      const all = source.scalars?.(from);
      if (all === undefined) return undefined;
      const found = all.map((v) => (typeof v === "number" ? (Number.isInteger(v) ? v : undefined) : names?.get(v)));
      // Values that are all different are no classes (regression targets, ids).
      return new Set(found).size * 2 > found.length && found.length > 2 ? undefined : found;
    },
    async of(_, id, fields) {
      const item = fields[from];
      return item === undefined ? undefined : labelOf(set, id, await runSteps(set, id, steps, item), names);
    },
  };
}

/** Texts become indices: in the order of `classes:`, else sorted. */
function classNames(source: Source, from: string, given: readonly string[] | undefined): ReadonlyMap<string, number> | undefined {
  if (given !== undefined) return new Map(given.map((n, i) => [n, i]));
  const all = source.scalars?.(from);
  if (all === undefined || !all.every((v) => typeof v === "string")) return undefined;
  return new Map([...new Set(all as readonly string[])].sort().map((n, i) => [n, i]));
}

function labelOf(set: string, id: string, item: Item, names: ReadonlyMap<string, number> | undefined): Label {
  if (item.kind === "file") throw new QcError({ code: "data/labels", set, detail: `sample "${id}": a file; decode it by \`steps:\`` });
  if (item.kind === "text" || item.dtype === "string") {
    const text = item.kind === "text" ? item.text : String(item.data[0]);
    if (names === undefined) return text;
    const index = names.get(text);
    if (index === undefined)
      throw new QcError({ code: "data/labels", set, detail: `sample "${id}" has the class "${text}", which \`classes:\` does not list` });
    return index;
  }
  if (elementCount(item.dims) === 1 && item.dims.length <= 1) return Number(item.data[0]);
  return { dtype: item.dtype, dims: item.dims, data: item.data };
}

/** A text file of `class cx cy w h` for the image `{name}`; no file means no object. */
function boxesOf(set: string, folder: string, pattern: string, id: string, fields: Fields): BoxLabel[] {
  const name = fields["name"]?.kind === "text" ? fields["name"].text : id;
  const base = name.slice(name.lastIndexOf("/") + 1);
  const path = resolve(folder, pattern.includes("{name}") ? pattern.replaceAll("{name}", base) : `${pattern}/${base}.txt`);
  if (!existsSync(path)) return [];
  const rows = new TextDecoder()
    .decode(readFile(path))
    .split("\n")
    .filter((l) => l.trim() !== "");
  return rows.map((line, i) => {
    const [cls, cx, cy, w, h] = line.trim().split(/\s+/).map(Number);
    if (![cls, cx, cy, w, h].every((v) => v !== undefined && Number.isFinite(v)))
      throw new QcError({ code: "data/labels", set, detail: `"${path}", line ${i + 1}: five numbers are expected (class cx cy w h)` });
    return { class: cls!, cx: cx!, cy: cy!, w: w!, h: h! };
  });
}
