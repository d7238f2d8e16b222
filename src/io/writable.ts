import { accessSync, constants, realpathSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";

/** Why a file could not be written at `path`; undefined: it could. Looks before hours of work are done for nothing; changes nothing. */
export function unwritableReason(path: string): string | undefined {
  const target = resolve(path);
  if (statOf(target)?.isDirectory()) return "it is a folder";
  let folder = dirname(target);
  for (;;) {
    const stat = statOf(folder);
    if (stat !== undefined) {
      if (!stat.isDirectory()) return `"${folder}" is not a folder`;
      break;
    }
    const up = dirname(folder);
    if (up === folder) return "no folder above it exists";
    folder = up;
  }
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    return undefined;
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code;
    return code === "EROFS" ? "the file system is read-only" : `no permission to write in "${folder}"`;
  }
}

function statOf(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined; // ENOTDIR: a part of the path above is a file, found on the way up
  }
}

/** Do both paths name one file, through links as well? */
export function isSameFile(a: string, b: string): boolean {
  const real = (p: string) => {
    try {
      return realpathSync(p);
    } catch {
      return resolve(p);
    }
  };
  return real(a) === real(b);
}
