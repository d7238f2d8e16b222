import { Builder, ByteBuffer } from "flatbuffers";
import { QcError } from "../diagnostics.ts";
import { writeAtomic } from "../io/atomic.ts";
import { fileNameOf } from "../io/path.ts";
import { readFile } from "../io/source.ts";
import type { Range, Stats } from "./types.ts";

/**
 * Calibration tables of other tools. A range is one number in all but one of them, the largest magnitude, so [-a, a] comes back.
 *
 *  tensorrt         text; `TRT-8600-EntropyCalibration2`, then `name: ` and a / 127 as the 8 hex digits of a big-endian float32
 *  ort-json         onnxruntime.quantization.write_calibration_table: TensorData with `lowest` and `highest`
 *  ort-cache        the same call's text: `name a`, sorted by name
 *  ort-flatbuffers  the same call's `TrtTable { dict: [KeyValue { key: string; value: string }] }`, last name first
 *
 * onnxruntime writes max(highest, lowest) where its readers want a magnitude; here max(|lowest|, |highest|) is written.
 */
export const TABLE_FORMATS = ["tensorrt", "ort-json", "ort-cache", "ort-flatbuffers"] as const;
export type TableFormat = (typeof TABLE_FORMATS)[number];
export interface CalibrationTable {
  readonly format: TableFormat;
  readonly ranges: ReadonlyMap<string, Range>;
}

/** What TensorRT 8.6's IInt8EntropyCalibrator2 reads; a newer version, another algorithm or none is ignored without a word. */
const HEADER = "TRT-8600-EntropyCalibration2";
/** The codes on one side of a symmetric int8 range. */
const CODES = 127;
const LARGEST_TABLE = 2 ** 28;

const magnitude = (r: Range): number => Math.fround(Math.max(Math.abs(r.min), Math.abs(r.max)));

/** `x.json`, `x.flatbuffers`, `x.txt` (onnxruntime's text), anything else TensorRT's. */
export function tableFormatOf(path: string): TableFormat {
  const ending = /\.([^.]+)$/.exec(fileNameOf(path))?.[1]?.toLowerCase();
  if (ending === "json") return "ort-json";
  if (ending === "flatbuffers") return "ort-flatbuffers";
  return ending === "txt" ? "ort-cache" : "tensorrt";
}

export function writeTable(ranges: ReadonlyMap<string, Range>, path: string): TableFormat {
  const format = tableFormatOf(path);
  writeAtomic(path, encodeTable(ranges, format));
  return format;
}

/** Equal ranges give equal bytes: names are sorted by code unit. */
export function encodeTable(ranges: ReadonlyMap<string, Range>, format: TableFormat): Uint8Array {
  const rows = [...ranges].sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [name] of rows) if (/[\r\n]/.test(name)) throw new QcError({ code: "calibrate/table-name", name });
  const text = (s: string) => new TextEncoder().encode(s);
  switch (format) {
    case "tensorrt":
      return text(`${HEADER}\n${rows.map(([name, r]) => `${name}: ${hexOf(magnitude(r) / CODES)}\n`).join("")}`);
    case "ort-cache":
      return text(rows.map(([name, r]) => `${name} ${decimal(magnitude(r))}\n`).join(""));
    case "ort-json":
      return text(`{${rows.map(([name, r]) => `${JSON.stringify(name)}: ${tensorData(r)}`).join(", ")}}`);
    case "ort-flatbuffers":
      return flatbuffers(rows.map(([name, r]) => [name, decimal(magnitude(r))] as const));
    default:
      return format satisfies never;
  }
}

export function readTable(path: string): CalibrationTable {
  return decodeTable(readFile(path, LARGEST_TABLE), path);
}

/** Tells the form from the content. Throws `calibrate/bad-table`. */
export function decodeTable(bytes: Uint8Array, path: string): CalibrationTable {
  const bad = (reason: string) => new QcError({ code: "calibrate/bad-table", path, reason });
  const start = new TextDecoder().decode(bytes.subarray(0, 4));
  const format = start === "TRT-" ? "tensorrt" : start.startsWith("{") ? "ort-json" : bytes.includes(0) ? "ort-flatbuffers" : "ort-cache";
  let rows: (readonly [string, Range])[];
  try {
    rows =
      format === "ort-flatbuffers"
        ? pairsOf(bytes).map(([k, v]) => [k, symmetric(Number(v))] as const)
        : READERS[format](new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (e) {
    throw bad(e instanceof Error ? e.message : String(e));
  }
  if (rows.length === 0) throw bad("it has no entry");
  for (const [name, r] of rows)
    if (!(Number.isFinite(r.min) && r.min <= r.max && Number.isFinite(r.max))) throw bad(`no range at "${name}"`);
  return { format, ranges: new Map(rows) };
}

const symmetric = (a: number): Range => ({ min: -Math.abs(a), max: Math.abs(a) });
const lines = (text: string) => text.split(/\r?\n/).filter((l) => l.trim() !== "");

const READERS: Readonly<Record<Exclude<TableFormat, "ort-flatbuffers">, (text: string) => (readonly [string, Range])[]>> = {
  // Names may hold ": ", so the last one counts.
  tensorrt: (text) =>
    lines(text)
      .slice(1)
      .map((l) => {
        const m = /^(.*):\s*([0-9a-fA-F]{8})$/.exec(l);
        if (!m) throw new Error(`no scale in "${l.slice(0, 80)}"`);
        return [m[1]!, symmetric(Math.fround(floatOf(m[2]!) * CODES))];
      }),
  "ort-cache": (text) =>
    lines(text).map((l) => {
      const m = /^(.*) (\S+)$/.exec(l);
      if (!m || m[2] === "") throw new Error(`no value in "${l.slice(0, 80)}"`);
      return [m[1]!, symmetric(Number(m[2]))];
    }),
  "ort-json": (text) =>
    Object.entries(JSON.parse(text) as Record<string, unknown>).map(([name, v]) => [
      name,
      { min: numberIn(v, "lowest", name), max: numberIn(v, "highest", name) },
    ]),
};

/** `{"lowest": {"data": -2.5, …}}`; older versions write `[lowest, highest]`. */
function numberIn(v: unknown, key: "lowest" | "highest", name: string): number {
  const at: unknown = Array.isArray(v) ? v[key === "lowest" ? 0 : 1] : isRecord(v) ? v[key] : undefined;
  let data: unknown = isRecord(at) ? at["data"] : at;
  while (Array.isArray(data) && data.length === 1) data = data[0];
  if (typeof data !== "number") throw new Error(`"${name}" has no ${key}`);
  return data;
}
const isRecord = (x: unknown): x is Record<string, unknown> => typeof x === "object" && x !== null && !Array.isArray(x);

function tensorData(r: Range): string {
  const array = (x: number) => `{"data": ${decimal(Math.fround(x))}, "dtype": "float32", "CLS": "numpy.array"}`;
  return `{"lowest": ${array(r.min)}, "highest": ${array(r.max)}, "CLS": "TensorData"}`;
}

/** As Python prints it: whole numbers have a point, so that they come back as floats. */
function decimal(x: number): string {
  if (Object.is(x, -0)) return "-0.0";
  const s = String(x);
  if (/^-?[0-9]+$/.test(s)) return `${s}.0`;
  return s.replace(/e([-+])([0-9])$/, "e$10$2");
}

function hexOf(x: number): string {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, x);
  return view.getUint32(0).toString(16).padStart(8, "0");
}
function floatOf(hex: string): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, Number.parseInt(hex, 16));
  return view.getFloat32(0);
}

/** table KeyValue { key: string; value: string; }  table TrtTable { dict: [KeyValue]; }  root_type TrtTable; */
function flatbuffers(rows: readonly (readonly [string, string])[]): Uint8Array {
  const b = new Builder(1024);
  const offsets = rows.map(([k, v]) => {
    const key = b.createString(k);
    const value = b.createString(v);
    b.startObject(2);
    b.addFieldOffset(0, key, 0);
    b.addFieldOffset(1, value, 0);
    return b.endObject();
  });
  b.startVector(4, offsets.length, 4);
  for (const o of offsets) b.addOffset(o);
  const dict = b.endVector();
  b.startObject(1);
  b.addFieldOffset(0, dict, 0);
  b.finish(b.endObject());
  return b.asUint8Array();
}

function pairsOf(bytes: Uint8Array): [string, string][] {
  const b = new ByteBuffer(bytes);
  const inside = (at: number): number => {
    if (!(at >= 4 && at + 4 <= bytes.length)) throw new Error(`an offset leads outside: ${at}`);
    return at;
  };
  /** Where field `index` of the table at `table` is; 0: not there. */
  const field = (table: number, index: number): number => {
    const vtable = inside(table - b.readInt32(inside(table)));
    const slot = 4 + 2 * index;
    return slot < b.readInt16(vtable) ? b.readInt16(vtable + slot) : 0;
  };
  const string = (table: number, index: number): string => {
    const f = field(table, index);
    if (f === 0) throw new Error("an entry without key or value");
    const at = inside(table + f);
    const start = inside(at + b.readInt32(at));
    const length = b.readInt32(start);
    if (!(length >= 0 && start + 4 + length <= bytes.length)) throw new Error("a string leads outside");
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(start + 4, start + 4 + length));
  };
  if (bytes.length < 8) throw new Error("too short");
  const root = inside(b.readInt32(0));
  const f = field(root, 0);
  if (f === 0) return [];
  const vector = inside(root + f + b.readInt32(inside(root + f)));
  const n = b.readInt32(vector);
  if (!(n >= 0 && vector + 4 + 4 * n <= bytes.length)) throw new Error("the list leads outside");
  return Array.from({ length: n }, (_, i) => {
    const at = vector + 4 + 4 * i;
    const entry = inside(at + b.readInt32(at));
    return [string(entry, 0), string(entry, 1)];
  });
}

/** A table as statistics of extremes, for planning: one element seen of each value. */
export function statsOfTable(table: CalibrationTable, of: Pick<Stats, "model" | "prepare">): Stats {
  const values = new Map(
    [...table.ranges].map(([name, r]) => [name, { name, count: 1, zeros: 0, nan: 0, inf: 0, ...r, hist: undefined, runs: 1 }]),
  );
  return { schema: "qc.stats/1", ...of, samples: 0, sampleKeys: [], values };
}
