import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { TOOL, VERSION } from "../../src/version.ts";

test("the version in code is the version of the package", () => {
  const pkg = JSON.parse(readFileSync(resolve(import.meta.dirname, "../../package.json"), "utf8")) as { version: string };
  expect(VERSION).toBe(pkg.version);
  expect(TOOL).toBe(`qc ${pkg.version}`);
});
