import { onnx } from "onnx-proto";

/**
 * A model as another decoder sees it, with tensors in one layout, so that two files of one meaning compare equal. The conversions here
 * are written from onnx.proto and share nothing with the reader under test.
 */
export function judge(bytes: Uint8Array): unknown {
  const m = onnx.ModelProto.decode(bytes);
  const o = onnx.ModelProto.toObject(m, { longs: String, bytes: String, defaults: false, arrays: true }) as Plain;
  dropDefaults(o);
  o["opsetImport"] = list(o["opsetImport"]).map((x) => [domain(x["domain"]), x["version"]]);
  o["graph"] = graph(o["graph"] as Plain);
  for (const f of list(o["functions"])) {
    f["node"] = list(f["node"]).map(node);
    f["opsetImport"] = list(f["opsetImport"]).map((x) => [domain(x["domain"]), x["version"]]);
  }
  return o;
}

type Plain = Record<string, unknown>;
const list = (x: unknown) => (x ?? []) as Plain[];
const domain = (d: unknown) => (d === undefined || d === "ai.onnx" ? "" : d);

/** proto2 writers may spell defaults out. */
function dropDefaults(o: Plain): void {
  for (const k of ["producerName", "producerVersion", "domain", "docString", "name"]) if (o[k] === "") delete o[k];
  for (const k of ["modelVersion"]) if (String(o[k]) === "0") delete o[k];
}

function graph(g: Plain): Plain {
  const constants = new Map(list(g["initializer"]).map((t) => [t["name"], tensor(t)]));
  dropDefaults(g);
  // A TypeProto without content says what an absent one says.
  for (const v of [...list(g["input"]), ...list(g["output"]), ...list(g["valueInfo"])])
    if (v["type"] !== undefined && Object.keys(v["type"] as Plain).length === 0) delete v["type"];
  // Initializers and value_info are sets; the type of a constant is that of its data.
  g["initializer"] = [...constants].sort(byName);
  const known = new Set<unknown>(list(g["node"]).flatMap((n) => (n["output"] as string[] | undefined) ?? []));
  const outputs = new Set(list(g["output"]).map((v) => v["name"]));
  g["valueInfo"] = list(g["valueInfo"])
    .filter((v) => known.has(v["name"]) && !outputs.has(v["name"]) && v["type"] !== undefined)
    .map((v): [unknown, unknown] => [v["name"], v])
    .sort(byName);
  g["node"] = list(g["node"]).map(node);
  return g;
}
const byName = (a: readonly [unknown, unknown], b: readonly [unknown, unknown]) => (String(a[0]) < String(b[0]) ? -1 : 1);

function node(n: Plain): Plain {
  dropDefaults(n);
  n["domain"] = domain(n["domain"]);
  for (const a of list(n["attribute"])) {
    dropDefaults(a);
    if (a["t"]) a["t"] = tensor(a["t"] as Plain);
    if (a["tensors"]) a["tensors"] = list(a["tensors"]).map(tensor);
    if (a["g"]) a["g"] = graph(a["g"] as Plain);
    if (a["graphs"]) a["graphs"] = list(a["graphs"]).map(graph);
    if (a["type"] === undefined || a["type"] === 0) throw new Error("an attribute without type");
    // A value that is the default may be left out.
    if (a["type"] === 2) a["i"] ??= "0";
    if (a["type"] === 1) a["f"] ??= 0;
    if (a["type"] === 3) a["s"] ??= "";
  }
  return n;
}

function tensor(t: Plain): Plain {
  const dims = (t["dims"] as string[]).map(Number);
  const code = t["dataType"] as number;
  const head = { name: t["name"] ?? "", dims, code, doc: t["docString"] || undefined };
  if (code === 8) return { ...head, strings: (t["stringData"] as string[] | undefined) ?? [] };
  const raw = t["rawData"] as string | undefined;
  if (raw !== undefined && raw.length > 0) return { ...head, raw };
  const f = numbers(t["floatData"]).map(Number);
  const d = numbers(t["doubleData"]).map(Number);
  const i32 = numbers(t["int32Data"]).map(Number);
  const i64 = numbers(t["int64Data"]).map(BigInt);
  const u64 = numbers(t["uint64Data"]).map(BigInt);
  const bytes = layout(code, { f, d, i32, i64, u64 });
  return { ...head, raw: Buffer.from(bytes).toString("base64") };
}
const numbers = (x: unknown) => (x ?? []) as (number | string)[];

interface Typed {
  readonly f: readonly number[];
  readonly d: readonly number[];
  readonly i32: readonly number[];
  readonly i64: readonly bigint[];
  readonly u64: readonly bigint[];
}
function layout(code: number, t: Typed): Uint8Array {
  const arrayOf = (): { readonly buffer: ArrayBuffer } => {
    switch (code) {
      case 1:
      case 14:
        return Float32Array.from(t.f);
      case 11:
      case 15:
        return Float64Array.from(t.d);
      case 7:
        return BigInt64Array.from(t.i64);
      case 13:
        return BigUint64Array.from(t.u64);
      case 12:
        return Uint32Array.from(t.u64, Number);
      case 6:
        return Int32Array.from(t.i32);
      case 4:
      case 5:
      case 10:
      case 16:
        return Uint16Array.from(t.i32);
      default:
        return Uint8Array.from(t.i32);
    }
  };
  return new Uint8Array(arrayOf().buffer);
}
