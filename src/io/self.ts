import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { extname, join, relative, resolve, sep } from "node:path";
import { hasher } from "./hash.ts";

/** The folder that holds this program's code: `dist`, or `src` in tests. */
const HERE = resolve(import.meta.dirname, "..");
const ENGINE = "onnxruntime-node/package.json";

/** Version of the engine's package, without loading the engine. */
export function engineVersion(): string {
  return (createRequire(import.meta.url)(ENGINE) as { version: string }).version;
}

let known: string | undefined;

/**
 * SHA-256 of the code that runs: every module of this program by name and content, and the engine's version. Two versions that could give
 * other bytes never share it, released or not.
 */
export function codeHash(): string {
  if (known !== undefined) return known;
  const h = hasher();
  const extension = extname(import.meta.filename);
  const files = readdirSync(HERE, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile() && extname(e.name) === extension)
    .map((e) => join(e.parentPath, e.name))
    .sort();
  for (const f of files) {
    const text = readFileSync(f);
    h.update(`${relative(HERE, f).split(sep).join("/")}\0${text.length}\0`);
    h.update(text);
  }
  h.update(`\0onnxruntime ${engineVersion()}`);
  known = h.digest();
  return known;
}
