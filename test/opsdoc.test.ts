import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { ONNX_OPS } from "../src/graph/ops/names.ts";
import { opsTable } from "../src/opsdoc.ts";

test("docs/ops.md is what the tables say (node docs/make-ops.mjs)", () => {
  const text = opsTable();
  for (const op of ONNX_OPS) expect(text).toContain(`\n| \`${op}\` | `);
  expect(text).toMatch(/\| `Conv` \| compute \| yes \| a uint8 uint4 uint16 · w int8\/channel/);
  expect(text).toMatch(/\| `LSTM` \| recurrent \| a recurrence inside one operator/);
  expect(readFileSync(resolve(import.meta.dirname, "../docs/ops.md"), "utf8")).toBe(text);
});
