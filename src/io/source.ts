import { closeSync, constants, fstatSync, openSync, readSync, realpathSync, type Stats, statSync } from "node:fs";
import { isAbsolute, relative, resolve, sep } from "node:path";
import { QcError } from "../diagnostics.ts";

/** Random access to bytes that do not change while they are used. */
export interface ByteSource {
  readonly size: number;
  /** For messages. */
  readonly label: string;
  /** `length` bytes from `offset`; throws when they are not all there. The caller must not write to the result. */
  read(offset: number, length: number): Uint8Array;
}

export function memorySource(bytes: Uint8Array, label = "bytes"): ByteSource {
  return {
    size: bytes.byteLength,
    label,
    read(offset, length) {
      inside(bytes.byteLength, offset, length, label);
      return bytes.subarray(offset, offset + length);
    },
  };
}

/** Closes the descriptors of sources that nobody holds any more. */
const closer = new FinalizationRegistry<number>((fd) => {
  try {
    closeSync(fd);
  } catch {
    // closed already
  }
});

/**
 * A regular file. It is opened once and stays open while the source lives, so that a file swapped underneath (an output that replaces
 * its own input) does not mix with what was there. Each read allocates exactly its result.
 */
export function fileSource(path: string): ByteSource {
  const fd = openRegular(path, path);
  const size = fstatSync(fd).size;
  const source: ByteSource = {
    size,
    label: path,
    read(offset, length) {
      inside(size, offset, length, path);
      return readAt(fd, path, offset, length);
    },
  };
  closer.register(source, fd);
  return source;
}

/** The whole file in one buffer, read once. */
export function readFile(path: string, most = Number.MAX_SAFE_INTEGER): Uint8Array {
  const fd = openRegular(path, path);
  try {
    const size = fstatSync(fd).size;
    if (size > most) throw new QcError({ code: "io/limit", file: path, limit: "bytes", most, got: size, at: "the file" });
    return readAt(fd, path, 0, size);
  } finally {
    closeSync(fd);
  }
}

/**
 * The data file that a model in `folder` names by `location`. Refused: absolute paths, `..`, links that leave the folder, and whatever
 * is no regular file. A model from a stranger must not make us read other files of this machine.
 */
export function externalSource(folder: string, location: string): ByteSource {
  const refuse = (why: string) => new QcError({ code: "io/escape", location, folder, why });
  if (location === "" || location.includes("\0")) throw refuse("the path is empty or holds a zero byte");
  if (isAbsolute(location) || /^[A-Za-z]:|^[\\/]/.test(location)) throw refuse("the path is absolute");
  if (location.split(/[\\/]/).includes("..")) throw refuse('the path holds ".."');
  const path = resolve(folder, location);
  let real: string;
  let root: string;
  try {
    root = realpathSync(folder);
    real = realpathSync(path);
  } catch (e) {
    throw openError(path, e);
  }
  const rel = relative(root, real);
  if (rel === "" || rel === ".." || rel.startsWith(`..${sep}`) || isAbsolute(rel)) throw refuse("it leads out of the folder");
  return fileSource(real);
}

function inside(size: number, offset: number, length: number, label: string): void {
  if (!(Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0 && offset + length <= size))
    throw new QcError({
      code: "io/malformed",
      file: label,
      at: "the end",
      offset: size,
      detail: `${length} bytes wanted from byte ${offset}, the file has ${size}`,
    });
}

function openRegular(path: string, label: string): number {
  try {
    // First stat: opening a pipe or a device can block or have effects.
    const kind = kindOf(statSync(path));
    if (kind !== undefined) throw new QcError({ code: "io/not-a-file", path: label, is: kind });
    const fd = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    const now = kindOf(fstatSync(fd));
    if (now !== undefined) {
      closeSync(fd);
      throw new QcError({ code: "io/not-a-file", path: label, is: now });
    }
    return fd;
  } catch (e) {
    throw openError(label, e);
  }
}

function kindOf(s: Stats): string | undefined {
  if (s.isFile()) return undefined;
  if (s.isDirectory()) return "a folder";
  if (s.isFIFO()) return "a pipe";
  if (s.isSocket()) return "a socket";
  return "a device";
}

function openError(path: string, e: unknown): QcError {
  if (e instanceof QcError) return e;
  const code = (e as NodeJS.ErrnoException).code;
  if (code === "ENOENT" || code === "ENOTDIR") return new QcError({ code: "io/not-found", path }, { cause: e });
  return new QcError({ code: "io/unreadable", path, message: (e as Error).message }, { cause: e });
}

/** One call of the operating system reads at most 2^31 - 1 bytes. */
const MOST_AT_ONCE = 1 << 30;

function readAt(fd: number, path: string, offset: number, length: number): Uint8Array {
  let out: Uint8Array;
  try {
    // Not zeroed: every byte is written below or the read fails.
    const b = Buffer.allocUnsafeSlow(length);
    out = new Uint8Array(b.buffer, b.byteOffset, length);
    let done = 0;
    while (done < length) {
      const n = readSync(fd, out, done, Math.min(length - done, MOST_AT_ONCE), offset + done);
      if (n === 0) throw new Error(`the file ends at byte ${offset + done}`);
      done += n;
    }
  } catch (e) {
    throw openError(path, e);
  }
  return out;
}
