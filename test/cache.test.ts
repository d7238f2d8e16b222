import { expect, test } from "vitest";
import { cacheOf } from "../src/cache.ts";
import { tensorType } from "../src/graph/types.ts";
import { residualNet } from "./plan/nets.ts";
import { Builder } from "./prepare/build.ts";

test("bytes of a token are the fixed dimensions of every cache entry; positions come from the table that they look up", () => {
  const b = new Builder(17);
  const ids = b.g.addInput("position_ids", tensorType("int64", ["batch", "sequence"]));
  const rows = b.node("Gather", [b.weight("positions", [128, 16]), ids]);
  for (const part of ["key", "value"]) {
    const past = b.g.addInput(`past_key_values.0.${part}`, tensorType("float32", ["batch", 4, "past", 16]));
    const present = b.node("Concat", [past, b.node("Unsqueeze", [rows, b.ints(`axes.${part}`, [1])])], { axis: 2 }, `present.0.${part}`);
    b.g.setType(present, tensorType("float32", ["batch", 4, "total", 16]));
    b.output(present);
  }
  expect(cacheOf(b.model)).toEqual({ tensors: 2, bytesPerToken: 2 * 4 * 16 * 4, types: ["float32"], contextLength: 128 });
});

test("a network without a cache has none", () => {
  expect(cacheOf(residualNet())).toBeUndefined();
});
