import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { METRICS } from "../../src/data/metrics/index.ts";
import { SET_SCHEMA } from "../../src/data/schema.ts";
import { STEPS } from "../../src/data/steps/index.ts";

const docs = new URL("../../docs/", import.meta.url);
const text = readFileSync(new URL("data.md", docs), "utf8");

test("docs/data.md names every step, metric and key of a set file", () => {
  const keys = Object.keys(SET_SCHEMA.properties);
  for (const word of [...Object.keys(STEPS), ...Object.keys(METRICS), ...keys])
    expect(text, word).toMatch(new RegExp(`\`[^\`]*\\b${word}\\b|^ *${word}:`, "m"));
});

test("docs/set.schema.json is the schema that set files are checked by", () => {
  expect(JSON.parse(readFileSync(new URL("set.schema.json", docs), "utf8"))).toEqual(JSON.parse(JSON.stringify(SET_SCHEMA)));
});
