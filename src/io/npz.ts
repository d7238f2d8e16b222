import { type NdArray, type NpyFile, openNpy, writeNpy } from "./npy.ts";
import type { ByteSource } from "./source.ts";
import { openZip, writeZip, type ZipEntry, type ZipInput } from "./zip.ts";

/** A `.npz`: arrays by name, each opened when asked for. */
export interface Npz {
  readonly label: string;
  /** Without the `.npy`, in file order. */
  readonly names: readonly string[];
  /** undefined when there is no such array. */
  array(name: string): NpyFile | undefined;
  /** Unpacks the compressed arrays of these names in the thread pool; reading them then does not block. */
  prepare(names: readonly string[]): Promise<void>;
  /** Other files in the zip (a manifest). */
  readonly files: ReadonlyMap<string, ZipEntry>;
}

export function openNpz(source: ByteSource): Npz {
  const files = openZip(source);
  const entries = new Map([...files].filter(([n]) => n.endsWith(".npy")).map(([n, e]) => [n.slice(0, -4), e]));
  const opened = new Map<string, NpyFile>();
  return {
    label: source.label,
    names: [...entries.keys()],
    array(name) {
      const entry = entries.get(name);
      if (entry === undefined) return undefined;
      let a = opened.get(name);
      if (a === undefined) opened.set(name, (a = openNpy(entry)));
      return a;
    },
    async prepare(names) {
      await Promise.all(names.map((n) => entries.get(n)?.prepare()));
    },
    files,
  };
}

/** The `.npz` of these arrays, in order, as pieces; `numpy.load` opens it. `files` go in front (a manifest). */
export function writeNpz(
  arrays: Iterable<readonly [string, NdArray]>,
  options: { readonly deflate?: boolean; readonly files?: readonly ZipInput[] } = {},
): Uint8Array[] {
  const entries: ZipInput[] = [...(options.files ?? [])];
  for (const [name, a] of arrays) entries.push({ name: `${name}.npy`, bytes: writeNpy(a) });
  return writeZip(entries, options);
}
