import { readdirSync, rmSync, statSync } from "node:fs";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";

/** For the folders that do not touch node:* themselves. */
export function folderOf(path: string): string {
  return dirname(resolve(path));
}
export function fileNameOf(path: string): string {
  return basename(path);
}
/** An absolute part starts anew: paths in a config are looked up from its folder, unless they say otherwise. */
export function joinPath(...parts: string[]): string {
  const from = parts.findLastIndex((p) => isAbsolute(p));
  return join(...parts.slice(Math.max(0, from)));
}
/** Names in a folder, sorted; none when the folder cannot be read. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}
export function removeFile(path: string): void {
  rmSync(path, { force: true });
}

export function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}
