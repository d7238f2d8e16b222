import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { expect, test } from "vitest";

const src = resolve(import.meta.dirname, "../src");
/** Build order. A folder imports itself and folders before it; names in one row never import each other. */
const ROWS = [
  ["diagnostics"],
  ["quant"],
  ["io"],
  ["graph"],
  ["runtime"],
  ["data"],
  ["prepare"],
  ["grad"],
  ["plan"],
  ["export"],
  ["calibrate"],
  ["ptq"],
  ["qat", "mixed"],
  ["verify"],
  ["."],
  ["cli"],
];
const NODE_FOLDERS = new Set(["io", "runtime", "data", "cli"]);
const rowOf = new Map(ROWS.flatMap((names, row) => names.map((name) => [name, row] as const)));
const folderOf = (file: string) => relative(src, file).split("/").slice(0, -1)[0] ?? ".";
const files = readdirSync(src, { recursive: true, withFileTypes: true })
  .filter((e) => e.isFile() && e.name.endsWith(".ts"))
  .map((e) => join(e.parentPath, e.name));

function* edges(): Generator<{ from: string; to: string }> {
  for (const from of files) {
    for (const [, to] of readFileSync(from, "utf8").matchAll(/(?:from|import)\s*\(?\s*["'](\.[^"']+)["']/g))
      yield { from, to: resolve(dirname(from), to!) };
  }
}

test("src folders import only folders before them", () => {
  const all = [...edges()];
  expect(all.length, "no import found: the pattern is broken").toBeGreaterThan(20);
  const unknown = new Set(
    all
      .flatMap(({ from, to }) => [from, to])
      .map(folderOf)
      .filter((name) => !rowOf.has(name)),
  );
  expect([...unknown], "a folder without a row").toEqual([]);
  const wrong = all.filter(({ from, to }) => {
    const [a, b] = [folderOf(from), folderOf(to)];
    if (a === b || (b === "." && to.endsWith("diagnostics.ts"))) return false;
    return rowOf.get(b)! >= rowOf.get(a)!;
  });
  expect(wrong.map(({ from, to }) => `${relative(src, from)} -> ${relative(src, to)}`)).toEqual([]);
});

test("only io, runtime, data and cli touch node:*", () => {
  const offenders = files.filter((f) => !NODE_FOLDERS.has(folderOf(f)) && /from\s+["']node:/.test(readFileSync(f, "utf8")));
  expect(offenders.map((f) => relative(src, f))).toEqual([]);
});
