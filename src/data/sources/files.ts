import { readFile as readFileAsync, stat } from "node:fs/promises";
import { isAbsolute, join, relative, resolve, sep } from "node:path";
import { glob } from "tinyglobby";
import type { Hasher } from "../../io/hash.ts";
import { fileSource } from "../../io/source.ts";
import type { FileItem } from "../item.ts";
import { HASH_WHOLE } from "./types.ts";

export interface FileEntry {
  readonly path: string;
  /** Relative to the root, with `/`. */
  readonly name: string;
  readonly sizeBytes: number;
}

/** Files under a folder or matching a pattern, sorted by name (code units, so that every machine has the same order). */
export async function listFiles(root: string, patterns: readonly string[]): Promise<FileEntry[]> {
  const found = await glob([...patterns], { cwd: root, onlyFiles: true, dot: false, followSymbolicLinks: true, expandDirectories: false });
  const names = found.map((f) => (isAbsolute(f) ? relative(root, f) : f).split(sep).join("/")).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  return Promise.all(
    names.map(async (name) => {
      const path = join(root, name);
      return { path, name, sizeBytes: (await stat(path)).size };
    }),
  );
}

/** `images/*.jpg` → the folder in front of the first wildcard, and the rest. */
export function splitPattern(pattern: string, folder: string): { readonly root: string; readonly rest: string } {
  const parts = pattern.split("/");
  const at = parts.findIndex((p) => /[*?{}[\]]/.test(p));
  const head = at < 0 ? parts.slice(0, -1) : parts.slice(0, at);
  return { root: resolve(folder, head.join("/") || (pattern.startsWith("/") ? "/" : ".")), rest: parts.slice(head.length).join("/") };
}

export function isPattern(s: string): boolean {
  return /[*?{}[\]]/.test(s);
}

export function fileItem(path: string): FileItem {
  return { kind: "file", path, bytes: () => readFileAsync(path) };
}

/** Names and sizes, and the content too as long as that is quick. */
export function digestFiles(h: Hasher, files: readonly FileEntry[]): void {
  const total = files.reduce((a, f) => a + f.sizeBytes, 0);
  for (const f of files) {
    h.update(`${f.name}\0${f.sizeBytes}\0`);
    if (total <= HASH_WHOLE) digestFile(h, f.path);
  }
}

const PIECE = 1 << 22;

export function digestFile(h: Hasher, path: string): void {
  const s = fileSource(path);
  for (let at = 0; at < s.size; at += PIECE) h.update(s.read(at, Math.min(PIECE, s.size - at)));
}
