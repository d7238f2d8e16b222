import { QcError } from "../../diagnostics.ts";
import { readFile } from "../../io/source.ts";
import type { Fields, Item } from "../item.ts";
import { digestFile } from "./files.ts";
import type { Source } from "./types.ts";
import { describeValue, valueItem } from "./values.ts";

type Row = Readonly<Record<string, unknown>>;

/** One row a sample: `.jsonl` (an object a line) or `.csv` (a header line, then values). */
export async function openTable(path: string): Promise<Source> {
  const text = new TextDecoder().decode(readFile(path));
  const rows = path.endsWith(".csv") ? await parseCsv(text, path) : parseJsonLines(text, path);
  return tableSource(path, rows);
}

function parseJsonLines(text: string, path: string): Row[] {
  const out: Row[] = [];
  text.split("\n").forEach((line, i) => {
    if (line.trim() === "") return;
    try {
      const row: unknown = JSON.parse(line);
      if (typeof row !== "object" || row === null || Array.isArray(row)) throw new Error("no object");
      out.push(row as Row);
    } catch (e) {
      throw new QcError({ code: "data/sample-unreadable", set: path, sample: `line ${i + 1}`, detail: (e as Error).message }, { cause: e });
    }
  });
  return out;
}

async function parseCsv(text: string, path: string): Promise<Row[]> {
  const { parse } = await import("csv-parse/sync");
  try {
    const rows = parse(text, { columns: true, skip_empty_lines: true, bom: true, trim: true }) as Record<string, string>[];
    // A column is numeric when every value is.
    const columns = Object.keys(rows[0] ?? {}).filter((c) => rows.every((r) => r[c] !== "" && Number.isFinite(Number(r[c]))));
    for (const r of rows as Record<string, unknown>[]) for (const c of columns) r[c] = Number(r[c]);
    return rows;
  } catch (e) {
    throw new QcError({ code: "data/sample-unreadable", set: path, sample: "the table", detail: (e as Error).message }, { cause: e });
  }
}

function tableSource(path: string, rows: readonly Row[]): Source {
  const keys = Object.keys(rows[0] ?? {});
  return {
    label: path,
    size: rows.length,
    fields: new Map(keys.map((k) => [k, describeValue(rows[0]![k])])),
    main: keys.length === 1 ? keys[0] : undefined,
    id: (i) => String(i),
    record: (i, wanted) => itemsOf(rows[i]!, wanted, `${path}:${i}`),
    scalars: (field) => scalarsOf(rows.map((r) => r[field])),
    digest: (h) => digestFile(h, path),
  };
}

function itemsOf(row: Row, wanted: readonly string[], label: string): Fields {
  const out: Record<string, Item> = {};
  for (const name of wanted) {
    const item = valueItem(row[name], label);
    if (item !== undefined) out[name] = item;
  }
  return out;
}

function scalarsOf(values: readonly unknown[]): readonly (number | string)[] | undefined {
  const plain = values.map((v) => (typeof v === "bigint" || typeof v === "boolean" ? Number(v) : v));
  return plain.every((v) => typeof v === "number" || typeof v === "string") ? plain : undefined;
}

/** One row a sample; a row group is read when a sample of it is asked for, and kept until another is. */
export async function openParquet(path: string): Promise<Source> {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } = await import("hyparquet");
  const { compressors } = await import("hyparquet-compressors");
  const bad = (e: unknown) =>
    new QcError({ code: "data/sample-unreadable", set: path, sample: "the table", detail: (e as Error).message }, { cause: e });
  try {
    const file = await asyncBufferFromFile(path);
    const metadata = await parquetMetadataAsync(file);
    const read = (rowStart: number, rowEnd: number, columns?: string[]) =>
      parquetReadObjects({ file, metadata, compressors, rowStart, rowEnd, utf8: false, ...(columns ? { columns } : {}) }) as Promise<Row[]>;
    const groups: { readonly start: number; readonly end: number }[] = [];
    for (const g of metadata.row_groups) {
      const start = groups.at(-1)?.end ?? 0;
      groups.push({ start, end: start + Number(g.num_rows) });
    }
    const size = groups.at(-1)?.end ?? 0;
    const first = size === 0 ? {} : (await read(0, 1))[0]!;
    const keys = Object.keys(first);
    const columns = new Map<string, readonly (number | string)[]>();
    let held: { readonly key: string; readonly rows: Promise<Row[]> } | undefined;
    const group = (i: number, wanted: readonly string[]) => {
      const g = groups.findIndex((x) => i < x.end);
      const key = `${g}\0${wanted.join("\0")}`;
      if (held?.key !== key) held = { key, rows: read(groups[g]!.start, groups[g]!.end, [...wanted]) };
      return { rows: held.rows, at: i - groups[g]!.start };
    };
    return {
      label: path,
      size,
      fields: new Map(keys.map((k) => [k, describeValue(first[k])])),
      main: keys.length === 1 ? keys[0] : undefined,
      id: (i) => String(i),
      async record(i, wanted) {
        const { rows, at } = group(i, wanted);
        return itemsOf((await rows)[at]!, wanted, `${path}:${i}`);
      },
      scalars: (field) => columns.get(field),
      digest: (h) => digestFile(h, path),
      /** Small scalar columns (labels) are read whole, for stratified draws. */
      async prepare(wanted) {
        for (const c of wanted) {
          const kind = typeof first[c];
          if (kind !== "number" && kind !== "bigint" && kind !== "string" && kind !== "boolean") continue;
          const all = scalarsOf((await read(0, size, [c])).map((r) => r[c]));
          if (all !== undefined) columns.set(c, all);
        }
      },
    };
  } catch (e) {
    if (e instanceof QcError) throw e;
    throw bad(e);
  }
}
