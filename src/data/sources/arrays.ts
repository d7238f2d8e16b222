import { QcError } from "../../diagnostics.ts";
import { readTensorProto } from "../../graph/onnx/index.ts";
import { type NdArray, type NpyFile, openNpy } from "../../io/npy.ts";
import { openNpz } from "../../io/npz.ts";
import { fileSource, readFile } from "../../io/source.ts";
import { ARRAYS, describe, dropFirst, type Fields, type Item, isPlain, numbers, type TensorItem, tensorItem } from "../item.ts";
import { digestFile, digestFiles, type FileEntry, listFiles } from "./files.ts";
import type { Source } from "./types.ts";

/** Form 1: a `.npz` with one row a sample in every array, or one `.npy`. */
export function openArrays(path: string): Source {
  const arrays = new Map<string, NpyFile>();
  const npz = path.endsWith(".npz") ? openNpz(fileSource(path)) : undefined;
  if (npz === undefined) arrays.set("x", openNpy(fileSource(path)));
  else for (const name of npz.names) arrays.set(name, npz.array(name)!);
  const rows = [...arrays].filter(([, a]) => a.shape.length > 0);
  const size = rows[0]?.[1].shape[0] ?? 0;
  const odd = [...arrays].filter(([, a]) => a.shape[0] !== size);
  if (odd.length > 0) {
    const list = [...arrays].map(([n, a]) => `${n} ${describe(a.dtype, a.shape)}`).join(", ");
    throw new QcError({
      code: "data/unknown-form",
      set: path,
      why: `its arrays differ in their first axis, which counts samples: ${list}`,
    });
  }
  return {
    label: path,
    size,
    fields: new Map([...arrays].map(([n, a]) => [n, describe(a.dtype, a.shape.slice(1))])),
    main: arrays.size === 1 ? [...arrays.keys()][0] : undefined,
    strict: true,
    id: (i) => String(i),
    record(i, wanted) {
      const out: Record<string, Item> = {};
      for (const name of wanted) {
        const a = arrays.get(name);
        if (a !== undefined) out[name] = dropFirst(a.rows(i, 1));
      }
      return out;
    },
    scalars(field) {
      const a = arrays.get(field);
      return a === undefined ? undefined : scalarsOf(a);
    },
    digest(h) {
      if (npz === undefined) return digestFile(h, path);
      // The directory of the zip has a checksum of each array: no need to read hundreds of megabytes to tell two sets apart.
      for (const [name, e] of npz.files) h.update(`${name}\0${e.size}\0${e.crc}\0`);
    },
    async prepare(wanted) {
      await npz?.prepare(wanted);
    },
  };
}

function scalarsOf(a: NpyFile): readonly (number | string)[] | undefined {
  if (a.shape.slice(1).some((d) => d !== 1)) return undefined;
  const all: NdArray = a.all();
  return Array.isArray(all.data) ? all.data : Array.from(numbers(all));
}

/** Form 2: a folder of `.npz` or `.npy` files, one sample each; shapes may differ. */
export async function openSampleFiles(root: string, patterns: readonly string[]): Promise<Source> {
  const files = await listFiles(root, patterns);
  const load = (f: FileEntry, wanted?: readonly string[]): Record<string, TensorItem> => {
    if (f.path.endsWith(".npy")) return { x: tensorItem(openNpy(fileSource(f.path)).all()) };
    const z = openNpz(fileSource(f.path));
    const names = wanted?.filter((n) => z.names.includes(n)) ?? z.names;
    return Object.fromEntries(names.map((n) => [n, tensorItem(z.array(n)!.all())]));
  };
  return oneFileEach(root, files, load);
}

/** Form 2: folders `test_data_set_N` with `input_M.pb`, as the ONNX model zoo has them. The files have the inputs' names, or their order. */
export async function openTestData(root: string, inputs: readonly string[]): Promise<Source> {
  const files = await listFiles(root, ["test_data_set_*/input_*.pb"]);
  const folders = new Map<string, FileEntry[]>();
  const number = (name: string) => Number(/(\d+)(?:\.pb)?$/.exec(name)?.[1] ?? 0);
  for (const f of files) {
    const folder = f.name.slice(0, f.name.indexOf("/"));
    folders.set(folder, [...(folders.get(folder) ?? []), f]);
  }
  const names = [...folders.keys()].sort((a, b) => number(a) - number(b));
  const sets: FileEntry[] = names.map((name) => ({ name, path: `${root}/${name}`, sizeBytes: 0 }));
  const load = (f: FileEntry): Record<string, TensorItem> => {
    const out: Record<string, TensorItem> = {};
    for (const part of folders.get(f.name) ?? []) {
      const { name, data } = readTensorProto(readFile(part.path), part.path);
      const key = name !== "" && inputs.includes(name) ? name : (inputs[number(part.name)] ?? part.name);
      out[key] = tensorItem(tensorOf(data));
    }
    return out;
  };
  return { ...oneFileEach(root, sets, load), digest: (h) => digestFiles(h, files) };
}

function oneFileEach(
  root: string,
  files: readonly FileEntry[],
  load: (f: FileEntry, wanted?: readonly string[]) => Record<string, TensorItem>,
): Source {
  const first = files[0] === undefined ? {} : load(files[0]);
  const keys = Object.keys(first);
  return {
    label: root,
    size: files.length,
    fields: new Map(Object.entries(first).map(([n, t]) => [n, describe(t.dtype, t.dims)])),
    main: keys.length === 1 ? keys[0] : undefined,
    strict: true,
    id: (i) => files[i]!.name,
    record: (i, wanted): Fields => load(files[i]!, wanted),
    file: (i) => files[i]!.path,
    digest: (h) => digestFiles(h, files),
  };
}

type View = {
  new (b: ArrayBufferLike, o: number, n: number): Exclude<TensorItem["data"], string[]>;
  readonly BYTES_PER_ELEMENT: number;
};

/** An ONNX tensor as a run-time tensor; types without a plain array stay bytes and are refused when they meet an input. */
export function tensorOf(t: import("../../graph/tensor.ts").TensorData): NdArray {
  if (t.dtype === "string") return { dtype: "string", shape: t.shape, data: (t.strings?.() ?? []).map((b) => new TextDecoder().decode(b)) };
  const Data: View = isPlain(t.dtype) ? ARRAYS[t.dtype] : Uint8Array;
  const b = t.bytes();
  const aligned = b.byteOffset % Data.BYTES_PER_ELEMENT === 0 ? b : b.slice();
  return {
    dtype: t.dtype,
    shape: t.shape,
    data: new Data(aligned.buffer, aligned.byteOffset, aligned.byteLength / Data.BYTES_PER_ELEMENT),
  };
}
