import { readdirSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { QcError } from "../../diagnostics.ts";
import type { SetConfig } from "../config.ts";
import type { Role } from "../types.ts";
import { openArrays, openSampleFiles, openTestData } from "./arrays.ts";
import { type FileEntry, isPattern, listFiles, splitPattern } from "./files.ts";
import { IMAGE_FILES, imageSource } from "./images.ts";
import type { Source } from "./types.ts";

export interface OpenContext {
  readonly set: string;
  readonly folder: string;
  readonly config: Pick<SetConfig, "text" | "audio" | "source">;
  /** Names of the graph's inputs, in order (ONNX test data counts them). */
  readonly inputs: readonly string[];
}

/** Opens what `source:` names: one source, several one after the other, or one for each role. */
export async function openSource(c: OpenContext): Promise<Source> {
  const { source } = c.config;
  if (typeof source === "string") return openOne(source, c);
  if (Array.isArray(source)) return join(await all(source as readonly string[], c));
  const parts: { readonly source: Source; readonly role: Role }[] = [];
  for (const role of ["calibrate", "select", "heldOut"] as const) {
    const named = (source as { readonly [R in Role]?: string | readonly string[] })[role];
    if (named === undefined) continue;
    for (const s of await all(typeof named === "string" ? [named] : named, c)) parts.push({ source: s, role });
  }
  return join(
    parts.map((p) => p.source),
    parts.map((p) => p.role),
  );
}

function all(names: readonly string[], c: OpenContext): Promise<Source[]> {
  return Promise.all(names.map((n) => openOne(n, c)));
}

async function openOne(name: string, c: OpenContext): Promise<Source> {
  if (isPattern(name)) {
    const { root, rest } = splitPattern(name, c.folder);
    return openFiles(name, root, await listFiles(root, [rest]), c);
  }
  const path = resolve(c.folder, name);
  const kind = statSync(path, { throwIfNoEntry: false });
  if (kind === undefined) throw new QcError({ code: "io/not-found", path });
  if (kind.isDirectory()) return openFolder(name, path, c);
  if (/\.(npz|npy)$/.test(path)) return openArrays(path);
  const unknown = () => new QcError({ code: "data/unknown-form", set: name, why: `files of the kind "${basename(path)}" are not read` });
  const opened = await openByExtension(path, c);
  if (opened === undefined) throw unknown();
  return opened;
}

async function openByExtension(path: string, c: OpenContext): Promise<Source | undefined> {
  const file: FileEntry = { path, name: basename(path), sizeBytes: statSync(path).size };
  const extension = path.slice(path.lastIndexOf(".") + 1).toLowerCase();
  const { text } = c.config;
  if (["jsonl", "ndjson", "csv", "parquet"].includes(extension)) {
    const { openParquet, openTable } = await import("./table.ts");
    const table = await (extension === "parquet" ? openParquet(path) : openTable(path));
    if (text === undefined) return table;
    const { textSource } = await import("./text.ts");
    return textSource(table, path, c.folder, text);
  }
  if (extension === "txt") {
    if (text === undefined) throw new QcError({ code: "data/needs-set-file", set: path, kind: "text" });
    const { textSource } = await import("./text.ts");
    return textSource(undefined, path, c.folder, text);
  }
  if (["mjs", "js", "cjs"].includes(extension)) {
    const { openModule } = await import("./module.ts");
    return openModule(path);
  }
  if (extension === "wav") return openAudio(path, [file], c);
  if (IMAGE_FILES.includes(extension)) return imageSource(path, [file]);
  return undefined;
}

async function openAudio(label: string, files: readonly FileEntry[], c: OpenContext): Promise<Source> {
  const { audioSource } = await import("./audio.ts");
  return audioSource(label, files, c.config.audio ?? {});
}

async function openFolder(name: string, path: string, c: OpenContext): Promise<Source> {
  const entries = readdirSync(path, { withFileTypes: true });
  if (entries.some((e) => e.isDirectory() && /^test_data_set_\d+$/.test(e.name))) return openTestData(path, c.inputs);
  if (entries.some((e) => e.isFile() && /\.np[yz]$/.test(e.name))) return openSampleFiles(path, ["*.npz", "*.npy"]);
  const files = await listFiles(path, ["**/*"]);
  return openFiles(name, path, files, c);
}

async function openFiles(name: string, root: string, files: readonly FileEntry[], c: OpenContext): Promise<Source> {
  const extensionOf = (f: FileEntry) => f.name.slice(f.name.lastIndexOf(".") + 1).toLowerCase();
  const has = (list: readonly string[]) => files.filter((f) => list.includes(extensionOf(f)));
  if (has(["npz", "npy"]).length > 0)
    return openSampleFiles(
      root,
      has(["npz", "npy"]).map((f) => escapePattern(f.name)),
    );
  const pictures = has(IMAGE_FILES);
  if (pictures.length > 0) return imageSource(name, pictures);
  const waves = has(["wav"]);
  if (waves.length > 0) return openAudio(name, waves, c);
  if (files.length === 0) throw new QcError({ code: "data/no-samples", set: name });
  const kinds = [...new Set(files.map(extensionOf))].slice(0, 5).join(", ");
  throw new QcError({ code: "data/unknown-form", set: name, why: `it holds files of these kinds only: ${kinds}` });
}

function escapePattern(name: string): string {
  return name.replace(/[*?{}[\]()!]/g, "\\$&");
}

/** Sources one after the other; ids get the source in front when several give the same. */
function join(parts: readonly Source[], roles?: readonly Role[]): Source {
  if (parts.length === 1 && roles === undefined) return parts[0]!;
  const first = parts[0];
  if (first === undefined) throw new QcError({ code: "data/no-samples", set: "source" });
  const starts: number[] = [];
  let size = 0;
  for (const p of parts) {
    starts.push(size);
    size += p.size;
  }
  const find = (i: number): readonly [Source, number, number] => {
    let k = parts.length - 1;
    while (starts[k]! > i) k--;
    return [parts[k]!, i - starts[k]!, k];
  };
  const shared = new Set<string>();
  const seen = new Set<string>();
  for (const p of parts) {
    const own = new Set(Array.from({ length: p.size }, (_, i) => p.id(i)));
    for (const id of own) (seen.has(id) ? shared : seen).add(id);
  }
  const sequences = parts.some((p) => p.sequences !== undefined)
    ? parts.flatMap((p, k) => Array.from({ length: p.size }, (_, i) => starts[k]! + (p.sequences?.[i] ?? i)))
    : undefined;
  return {
    label: parts.map((p) => p.label).join(" + "),
    size,
    fields: new Map(parts.flatMap((p) => [...p.fields])),
    main: first.main,
    id(i) {
      const [p, at, k] = find(i);
      const id = p.id(at);
      return shared.has(id) ? `${roles?.[k] ?? k}/${id}` : id;
    },
    record(i, wanted) {
      const [p, at] = find(i);
      return p.record(at, wanted);
    },
    file(i) {
      const [p, at] = find(i);
      return p.file?.(at);
    },
    scalars(field) {
      const lists = parts.map((p) => p.scalars?.(field));
      return lists.every((l) => l !== undefined) ? lists.flat() : undefined;
    },
    roles:
      roles === undefined
        ? parts.some((p) => p.roles)
          ? parts.flatMap((p) => p.roles ?? new Array(p.size).fill(undefined))
          : undefined
        : parts.flatMap((p, k) => new Array<Role>(p.size).fill(roles[k]!)),
    sequences,
    labelOf(i) {
      const [p, at] = find(i);
      return p.labelOf?.(at);
    },
    metric: async () => first.metric?.(),
    digest(h) {
      for (const p of parts) p.digest(h);
    },
    async prepare(wanted) {
      await Promise.all(parts.map((p) => p.prepare?.(wanted)));
    },
  };
}
