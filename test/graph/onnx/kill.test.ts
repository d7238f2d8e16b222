import { fork } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { expect, test } from "vitest";
import { loadModel, saveModel } from "../../../src/graph/onnx/index.ts";

const dist = resolve(import.meta.dirname, "../../../dist");

/** A process that saves models over and over onto one path; all tensors of the n-th hold n. */
const WRITER = `
import { newModel } from ${JSON.stringify(join(dist, "graph/ir.js"))};
import { saveModel } from ${JSON.stringify(join(dist, "graph/onnx/index.js"))};
for (let n = 1; ; n++) {
  const m = newModel();
  for (let i = 0; i < 4; i++)
    m.graph.constant({ dtype: "uint8", shape: [1 << 18], byteLength: 1 << 18, bytes: () => new Uint8Array(1 << 18).fill(n) }, "w" + i);
  saveModel(m, process.argv[2], { externalData: process.argv[3] });
  if (n === 1) process.send("ready");
}
`;

test.each(["always", "never"] as const)("kill -9 at any moment leaves a whole model (external data: %s)", async (externalData) => {
  const dir = mkdtempSync(join(tmpdir(), "qc-kill-"));
  const script = join(dir, "writer.mjs");
  writeFileSync(script, WRITER);
  const path = join(dir, "out", "m.onnx");
  try {
    for (let round = 0; round < 10; round++) {
      const child = fork(script, [path, externalData]);
      await new Promise((done) => child.once("message", done));
      // From before the second save to within some later one.
      await wait((round * 37) % 101);
      const gone = new Promise((done) => child.once("exit", done));
      child.kill("SIGKILL");
      await gone;
      const m = loadModel(path);
      const seen = new Set(m.graph.initializers.flatMap((v) => [v.data!.bytes()[0]!, v.data!.bytes()[(1 << 18) - 1]!]));
      expect(m.graph.initializers).toHaveLength(4);
      expect(seen.size, "a mixture of two models").toBe(1);
    }
    // The next run removes what the killed ones left.
    saveModel(loadModel(path), path, { externalData: "never" });
    expect(readdirSync(join(dir, "out"))).toEqual(["m.onnx"]);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
