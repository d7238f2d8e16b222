import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterAll, expect, test } from "vitest";
import { modelHashes } from "../../../src/graph/onnx/hash.ts";
import { loadModel, readModel, writeModel } from "../../../src/graph/onnx/index.ts";
import { CORPUS, difference, MODELS, onnxFilesIn, plain } from "./helpers.ts";
import { judge } from "./judge.ts";

const archive = existsSync(CORPUS) ? readdirSync(CORPUS).find((n) => n.endsWith(".tar.xz")) : undefined;
const folder = archive === undefined ? undefined : mkdtempSync(join(tmpdir(), "qc-corpus-"));
if (folder !== undefined) execFileSync("tar", ["xJf", join(CORPUS, archive!), "-C", folder]);
afterAll(() => {
  if (folder !== undefined) rmSync(folder, { recursive: true });
});

function roundTrip(path: string): void {
  const original = readFileSync(path);
  const model = loadModel(path);
  const written = writeModel(model);
  const again = readModel(written);
  expect(difference(plain(again), plain(model)), `${path}: read(write(x))`).toBeUndefined();
  expect(Buffer.compare(writeModel(again), written), `${path}: written twice, different bytes`).toBe(0);
  expect(modelHashes(again)).toEqual(modelHashes(model));
  const external = model.graph.initializers.some((v) => v.data!.external !== undefined);
  if (!external) expect(difference(judge(written), judge(original)), `${path}: another decoder sees a difference`).toBeUndefined();
}

test.skipIf(folder === undefined)("every model of the ONNX backend tests survives a round trip (needs QC_CORPUS)", () => {
  const files = onnxFilesIn(folder!);
  expect(files.length).toBeGreaterThan(1900);
  const failed: string[] = [];
  for (const f of files) {
    try {
      roundTrip(f);
    } catch (e) {
      failed.push(`${relative(folder!, f)}: ${(e as Error).message.slice(0, 300)}`);
    }
  }
  expect(failed).toEqual([]);
});

const models = onnxFilesIn(MODELS);
test.skipIf(models.length === 0)("real models survive a round trip (needs QC_MODELS)", () => {
  for (const f of models) roundTrip(f);
});
