import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { tiedNet } from "../plan/nets.ts";
import { feedsOf } from "../prepare/build.ts";
import { freshFolder, qc } from "./qc.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const SUFFIXES = ["", "_fp16", "_int8", "_uint8", "_quantized", "_q4", "_q4f16", "_bnb4"];

/** A model and what lies beside it in a repository of the hub. */
function repository(): string {
  const folder = join(freshFolder(), "tiny");
  mkdirSync(folder);
  writeFileSync(join(folder, "model.onnx"), writeModel(tiedNet()));
  writeFileSync(join(folder, "config.json"), '{"model_type":"llama"}');
  writeFileSync(join(folder, "tokenizer.json"), "{}");
  writeFileSync(join(folder, "notes.md"), "not for the library");
  return folder;
}

async function loads(path: string): Promise<boolean> {
  const session = await runtime.open(path);
  try {
    const out = await session.run(feedsOf(tiedNet(), 3));
    return (out["logits"]!.data as Float32Array).every(Number.isFinite);
  } finally {
    await session.release();
  }
}

test("transformers.js: a folder becomes every file that the library may ask for, each of which runs", async () => {
  const folder = repository();
  const out = join(folder, "../out");
  const run = await qc(["build", folder, "--preset", "transformers.js", "-o", out, "--quiet"]);
  expect(run.code, run.stderr).toBe(0);
  expect(readdirSync(out).sort()).toEqual(["config.json", "onnx", "tokenizer.json"]);
  const names = SUFFIXES.map((s) => `model${s}.onnx`);
  expect(readdirSync(join(out, "onnx")).sort()).toEqual([...names].sort());
  for (const n of names) expect(await loads(join(out, "onnx", n)), n).toBe(true);
  expect(readFileSync(join(out, "config.json"), "utf8")).toBe('{"model_type":"llama"}');
  expect((await qc(["build", folder, "--preset", "transformers.js", "-o", out, "--check", "--quiet"])).code).toBe(0);
}, 120_000);

test("constants beyond `inline` bytes go to FILE_data, and config.json says so", async () => {
  const folder = repository();
  writeFileSync(
    join(folder, "qc.yaml"),
    "out: out\nmodels:\n  model: { file: model.onnx, preset: transformers.js, inline: 0, recipes: ['', q4], options: { effort: fast } }\n",
  );
  const run = await qc(["build", "--quiet"], { cwd: folder });
  expect(run.code, run.stderr).toBe(0);
  expect(readdirSync(join(folder, "out/onnx")).sort()).toEqual(
    ["model.onnx", "model.onnx_data", "model_q4.onnx", "model_q4.onnx_data"].sort(),
  );
  expect(JSON.parse(readFileSync(join(folder, "out/config.json"), "utf8"))).toEqual({
    model_type: "llama",
    "transformers.js_config": { use_external_data_format: { "model.onnx": 1, "model_q4.onnx": 1 } },
  });
  for (const n of ["model", "model_q4"]) expect(await loads(join(folder, `out/onnx/${n}.onnx`))).toBe(true);
}, 60_000);

test("without a configuration beside the model the build says what is missing; --out needs --preset", async () => {
  const folder = freshFolder();
  writeFileSync(join(folder, "net.onnx"), writeModel(tiedNet()));
  const run = await qc(["build", join(folder, "net.onnx"), "--preset", "transformers.js", "-o", join(folder, "out")]);
  expect(run.code, run.stderr).toBe(0);
  expect(run.stderr).toContain('"config.json", "tokenizer.json", which transformers.js reads');
  expect(readdirSync(join(folder, "out/onnx"))).toContain("model_q4.onnx");
  expect((await qc(["build", "-o", "x"], { cwd: folder })).code).toBe(2);
}, 120_000);
