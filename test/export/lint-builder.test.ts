import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { lintModel } from "../../src/export/lint/index.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { randomQuantized } from "./random-graphs.ts";

/** A Python that can import tensorrt_rtx_bindings. */
const python = process.env.QC_TENSORRT_PYTHON;
const COUNT = Number(process.env.QC_TENSORRT_GRAPHS ?? 500);
const SEED = Number(process.env.QC_TENSORRT_SEED ?? 0);

test.skipIf(!python)(
  `the linter and NVIDIA's builder agree on ${COUNT} random graphs (set QC_TENSORRT_PYTHON)`,
  { timeout: 600_000 },
  () => {
    const folder = mkdtempSync(join(tmpdir(), "qc-lint-"));
    const files = Array.from({ length: COUNT }, (_, i) => {
      const path = join(folder, `g${i}.onnx`);
      writeFileSync(path, writeModel(randomQuantized(SEED + i)));
      return path;
    });
    const out = execFileSync(python!, [resolve(import.meta.dirname, "../../tools/tensorrt-builder.py"), "SM89", ...files], {
      encoding: "utf8",
      maxBuffer: 2 ** 28,
    });
    const verdicts = out
      .trim()
      .split("\n")
      .map((l) => JSON.parse(l) as { taken: boolean; errors: { text: string }[] });
    const confusion = { bothTake: 0, bothRefuse: 0, linterAlone: 0, builderAlone: 0 };
    const apart: string[] = [];
    verdicts.forEach((v, i) => {
      const found = lintModel(randomQuantized(SEED + i), targetOf("tensorrt@11:sm89")).filter((f) => f.kind === "reject");
      const takes = found.length === 0;
      if (takes === v.taken) confusion[takes ? "bothTake" : "bothRefuse"]++;
      else {
        confusion[takes ? "builderAlone" : "linterAlone"]++;
        apart.push(`g${SEED + i}: ${takes ? v.errors.map((e) => e.text).join("; ") : found.map((f) => `${f.rule} ${f.text}`).join("; ")}`);
      }
    });
    rmSync(folder, { recursive: true });
    console.log(JSON.stringify(confusion), apart);
    expect(verdicts).toHaveLength(COUNT);
    expect(Math.min(confusion.bothTake, confusion.bothRefuse), "one-sided graphs prove nothing").toBeGreaterThan(COUNT / 5);
    expect((confusion.bothTake + confusion.bothRefuse) / COUNT).toBeGreaterThanOrEqual(0.99);
  },
);
