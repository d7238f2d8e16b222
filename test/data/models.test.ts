import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { afterAll, expect, test } from "vitest";
import { openData } from "../../src/data/index.ts";
import type { MetricResult } from "../../src/data/types.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import { scratch } from "./helpers.ts";

const folder = process.env["QC_MODELS"] ?? resolve(import.meta.dirname, "../../../shared/models");
const absent = !existsSync(folder);
if (absent) console.warn(`data/models: skipped, no models at "${folder}" (set QC_MODELS)`);
const at = scratch();
const runtime = createRuntime();
afterAll(() => runtime.close());

/** The float model's score on all samples of a set. */
async function score(model: string, config: string): Promise<MetricResult> {
  const session = await runtime.open(`${folder}/${model}`, { level: "all" });
  const set = await openData(at.write(`${model.replaceAll("/", "-")}.yaml`, config), session.inputs);
  const state = set.metric!.start();
  for (let i = 0; i < set.size; i++) {
    const sample = await set.sample(i);
    state.add(await session.run(sample.feeds), sample);
  }
  await session.release();
  return state.result();
}

test.skipIf(absent)("keyword spotting: the published accuracy", async () => {
  const r = await score("kws/kws_dscnn.onnx", `source: ${folder}/kws/kws.npz\ninputs: { input: { from: x } }\nlabels: y\nmetric: top1\n`);
  expect([r.value, r.n]).toEqual([91.5, 1000]);
});

test.skipIf(absent)("anomaly: windows of clips, scored by their reconstruction", async () => {
  const steps = "[ { windows: { size: 5 } }, { cast: float32 } ]";
  const r = await score(
    "anomaly/ad01_autoencoder.onnx",
    `source: ${folder}/anomaly/anomaly.npz\ninputs: { input: { from: x, steps: ${steps} } }\nlabels: y\nmetric: { auc: { score: reconstruction } }\n`,
  );
  // Published as ≈ .90 of 120 clips.
  expect(r.value).toBeGreaterThan(88);
  expect(r.value).toBeLessThan(93);
});

test.skipIf(absent)("a language model's windows: as many as its description says", async () => {
  const session = await runtime.open(`${folder}/lm/lm.onnx`);
  const config = `source: ${folder}/lm/eval.txt\ntext: { tokenizer: ${folder}/lm/tokenizer.json, bos: 0, windows: 512 }\nlabels: targets\nmetric: perplexity\n`;
  const set = await openData(at.write("lm.yaml", config), session.inputs);
  await session.release();
  expect(set.size * 512).toBe(53_248);
});
