import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readdirSync, renameSync, rmSync, statSync, writeSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { QcError } from "../diagnostics.ts";

export type Chunks = Uint8Array | string | Iterable<Uint8Array>;

/**
 * Writes a file whole or not at all: a temporary file in the same folder, fsync, rename, fsync of the folder. When anything fails
 * (a full disk, an interrupt between chunks), the file that was there before stays.
 */
export function writeAtomic(path: string, chunks: Chunks): void {
  const set = new OutputSet();
  try {
    set.write(path, chunks);
    set.commit();
  } finally {
    set.discard();
  }
}

/**
 * Several files that belong together. `write` fills temporary files; `commit` renames them in the order of writing, so the file that
 * names the others comes last and never names what is not there. `discard` removes what was not committed (safe after commit).
 */
export class OutputSet {
  readonly #pending: { path: string; readonly temporary: string }[] = [];

  /** `rename` on the result changes where the file goes (same folder), for names that depend on the content. */
  write(path: string, chunks: Chunks): { rename(path: string): void } {
    const target = resolve(path);
    const temporary = temporaryOf(target);
    attempt(path, () => makeFolder(dirname(target)));
    removeStale(target);
    const entry = { path: target, temporary };
    this.#pending.push(entry);
    const fd = attempt(path, () => openSync(temporary, "wx", 0o644));
    try {
      if (typeof chunks === "string") writeAll(fd, path, new TextEncoder().encode(chunks));
      else if (chunks instanceof Uint8Array) writeAll(fd, path, chunks);
      else for (const c of chunks) writeAll(fd, path, c);
      attempt(path, () => fsyncSync(fd));
    } finally {
      closeSync(fd);
    }
    return {
      rename: (to) => {
        if (dirname(resolve(to)) !== dirname(target)) throw new Error("internal: an output must stay in its folder");
        entry.path = resolve(to);
      },
    };
  }

  commit(): void {
    while (this.#pending.length > 0) {
      const { path, temporary } = this.#pending[0]!;
      attempt(path, () => renameSync(temporary, path));
      // Before the next rename: the order must hold on the disk as well.
      syncFolder(dirname(path));

      this.#pending.shift();
    }
  }

  discard(): void {
    for (const { temporary } of this.#pending) rmSync(temporary, { force: true });
    this.#pending.length = 0;
  }
}

/** Like mkdirSync with `recursive`, which in Node 20 never returns where a file system answers ENOENT (/proc). */
function makeFolder(path: string): void {
  try {
    mkdirSync(path);
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    if (code === "EEXIST" && statSync(path).isDirectory()) return;
    if (code !== "ENOENT" || dirname(path) === path || existsSync(dirname(path))) throw e;
    makeFolder(dirname(path));
    mkdirSync(path);
  }
}

const SUFFIX = ".qc-tmp";
let counter = 0;

function temporaryOf(path: string): string {
  return join(dirname(path), `.${basename(path)}.${process.pid}.${counter++}${SUFFIX}`);
}

/** Removes temporary files for this target that a killed process left. Writing does it for its own target. */
export function removeStale(path: string): void {
  const head = `.${basename(path)}.`;
  let names: string[];
  try {
    names = readdirSync(dirname(path));
  } catch {
    return;
  }
  for (const name of names) {
    if (!name.startsWith(head) || !name.endsWith(SUFFIX)) continue;
    const [pid, n, ...rest] = name.slice(head.length, -SUFFIX.length).split(".");
    if (rest.length > 0 || !/^\d+$/.test(pid ?? "") || !/^\d+$/.test(n ?? "") || isAlive(Number(pid))) continue;
    rmSync(join(dirname(path), name), { force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (e) {
    return (e as NodeJS.ErrnoException).code === "EPERM";
  }
}

function writeAll(fd: number, path: string, bytes: Uint8Array): void {
  let done = 0;
  while (done < bytes.byteLength) {
    const from = done;
    done += attempt(path, () => writeSync(fd, bytes, from, Math.min(bytes.byteLength - from, 1 << 30)));
  }
}

/** A rename is on the disk only when the folder is. Some file systems cannot sync a folder; then the rename is all there is. */
function syncFolder(folder: string): void {
  try {
    const fd = openSync(folder, "r");
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch {
    // not supported here
  }
}

function attempt<T>(path: string, f: () => T): T {
  try {
    return f();
  } catch (e) {
    throw new QcError({ code: "io/write-failed", path, message: (e as Error).message }, { cause: e });
  }
}
