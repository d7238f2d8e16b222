import fc from "fast-check";
import { expect, test } from "vitest";
import { modelHashes } from "../../../src/graph/onnx/hash.ts";
import { readModel, writeChunks, writeModel } from "../../../src/graph/onnx/index.ts";
import { difference, plain } from "./helpers.ts";
import { judge } from "./judge.ts";
import { randomModel } from "./random-model.ts";

test("read ∘ write is the identity on every model; equal models give equal bytes", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 1 << 30 }), (seed) => {
      const m = randomModel(seed);
      const bytes = writeModel(m);
      const again = readModel(bytes);
      expect(difference(plain(again), plain(m))).toBeUndefined();
      expect(Buffer.compare(writeModel(again), bytes)).toBe(0);
      expect(Buffer.compare(writeModel(randomModel(seed)), bytes)).toBe(0);
      expect(modelHashes(again)).toEqual(modelHashes(m));
      const { byteLength, chunks } = writeChunks(m);
      expect(byteLength).toBe(bytes.length);
      expect(Buffer.compare(Buffer.concat([...chunks]), bytes)).toBe(0);
      judge(bytes);
    }),
    { seed: 3, numRuns: 400 },
  );
});

test("hashes: structure and weights change apart", () => {
  const m = () => {
    const x = randomModel(7);
    const v = x.graph.constant({ dtype: "float32", shape: [1], byteLength: 4, bytes: () => new Uint8Array(4) }, "last");
    return { x, v };
  };
  const base = modelHashes(m().x);
  const weights = m();
  weights.x.graph.setData(weights.v, { dtype: "float32", shape: [1], byteLength: 4, bytes: () => Uint8Array.of(0, 0, 128, 63) });
  expect(modelHashes(weights.x).structure).toBe(base.structure);
  expect(modelHashes(weights.x).weights).not.toBe(base.weights);
  const structure = m();
  structure.x.graph.append({ op: "Relu", inputs: [structure.v] });
  expect(modelHashes(structure.x).structure).not.toBe(base.structure);
  expect(modelHashes(structure.x).weights).toBe(base.weights);
});
