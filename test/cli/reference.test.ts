import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { COMMANDS } from "../../src/cli/commands.ts";
import { parseArguments } from "../../src/cli/parser.ts";
import { cliReference } from "../../src/cli/reference.ts";
import { flagOf } from "../../src/options.ts";

const text = cliReference();

test("docs/cli.md is what the option table says (npm run build && node docs/make-cli.mjs)", () => {
  expect(readFileSync(resolve(import.meta.dirname, "../../docs/cli.md"), "utf8")).toBe(text);
});

test("every command, option and key is there, and nothing breaks a table", () => {
  for (const [name, c] of Object.entries(COMMANDS)) {
    const section = text.split(`\n## qc ${name}\n`)[1]!.split("\n## ")[0]!;
    for (const key of Object.keys(c.options)) expect(section).toContain(`\`--${flagOf(key)}`);
    expect(text).toContain(`(#qc-${name.replace(/ /g, "-")})`);
  }
  for (const key of ["`accuracy.harmless`", "`attack.most`", "`models.NAME.file`", "`slices.NAME.least`"])
    expect(text).toContain(`| ${key} |`);
  for (const line of text.split("\n").filter((l) => l.startsWith("|"))) expect([3, 4]).toContain(line.match(/(?<!\\)\|/g)!.length);
});

test("every example of a command is one that it takes", () => {
  let n = 0;
  for (const [name, c] of Object.entries(COMMANDS))
    for (const e of c.examples) {
      const words = e
        .replace(/\s+(#|>).*$/, "")
        .match(/'[^']*'|[^\s']+/g)!
        .map((w) => w.replace(/'/g, ""));
      expect(words[0]).toBe("qc");
      const got = parseArguments(words.slice(1));
      expect(got.kind === "run" && got.name).toBe(name);
      n++;
    }
  expect(n).toBeGreaterThanOrEqual(Object.keys(COMMANDS).length);
});
