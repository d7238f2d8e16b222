import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { Model } from "../../../src/graph/ir.ts";
import { loadModel, readTensorProto, writeModel } from "../../../src/graph/onnx/index.ts";
import { convertOpset } from "../../../src/prepare/opset/index.ts";
import { createRuntime } from "../../../src/runtime/index.ts";
import type { Feeds, Tensor } from "../../../src/runtime/types.ts";
import { CORPUS, MODELS, onnxFilesIn } from "../../graph/onnx/helpers.ts";
import { feedsOf } from "../build.ts";

const runtime = createRuntime();
const archive = existsSync(CORPUS) ? readdirSync(CORPUS).find((n) => n.endsWith(".tar.xz")) : undefined;
const folder = archive === undefined ? undefined : mkdtempSync(join(tmpdir(), "qc-opset-"));
if (folder !== undefined) execFileSync("tar", ["xJf", join(CORPUS, archive!), "-C", folder]);
afterAll(async () => {
  await runtime.close();
  if (folder !== undefined) rmSync(folder, { recursive: true });
});

/** undefined: the runtime does not load or run it. */
async function run(m: Model, feeds: Feeds): Promise<Record<string, Tensor> | undefined> {
  try {
    const session = await runtime.open(writeModel(m));
    try {
      return await session.run(feeds);
    } finally {
      await session.release();
    }
  } catch {
    return undefined;
  }
}

/** The recorded inputs; undefined when one is no tensor, or of a type that does not cross the runtime's border. */
function recorded(m: Model, path: string): Feeds | undefined {
  const feeds: Record<string, Tensor> = {};
  for (const [i, v] of m.graph.inputs.entries()) {
    const file = join(dirname(path), "test_data_set_0", `input_${i}.pb`);
    if (!existsSync(file)) continue;
    if (v.type?.kind !== "tensor") return undefined;
    const { data } = readTensorProto(readFileSync(file));
    const make = ARRAYS[data.dtype as keyof typeof ARRAYS];
    if (make === undefined) return undefined;
    const b = data.bytes().slice();
    feeds[v.name] = { dtype: data.dtype, dims: data.shape, data: new make(b.buffer, 0, b.byteLength / make.BYTES_PER_ELEMENT) };
  }
  return feeds;
}
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
};

/** Outputs of these are random: nothing can be compared. */
const RANDOM = new Set(["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Dropout"]);

test.skipIf(folder === undefined)("backend cases of opset 7 to 20 give the same bits at 21 (needs QC_CORPUS)", async () => {
  const refused: string[] = [];
  const different: string[] = [];
  let compared = 0;
  for (const path of onnxFilesIn(folder!)) {
    const before = loadModel(path);
    const opset = before.opsets.get("") ?? 0;
    if (opset < 7 || opset > 20) continue;
    const after = loadModel(path);
    const name = basename(dirname(path));
    const why = convertOpset(after, 21).refused;
    if (why.length > 0) {
      refused.push(`${name}: ${why[0]!.why}`);
      continue;
    }
    // The large networks come without recorded inputs.
    const feeds = name === "light" ? undefined : recorded(before, path);
    if (feeds === undefined || [...before.graph.allNodes()].some((n) => RANDOM.has(n.op))) continue;
    const a = await run(before, feeds);
    if (a === undefined) continue;
    compared++;
    const b = await run(after, feeds);
    if (b === undefined || Object.keys(a).some((k) => !same(a[k]!, b[k]!))) different.push(name);
  }
  expect(different).toEqual([]);
  expect(refused).toEqual(["test_scan_sum: Scan of opset 8 has a batch dimension and sequence lengths, which Scan 9 has not"]);
  expect(compared).toBeGreaterThan(800);
});

function same(a: Tensor, b: Tensor): boolean {
  if (a.dtype !== b.dtype || a.dims.join() !== b.dims.join() || a.data.length !== b.data.length) return false;
  for (let i = 0; i < a.data.length; i++) if (!Object.is(a.data[i], b.data[i])) return false;
  return true;
}

const models = onnxFilesIn(MODELS).filter((f) => [9, 11].includes(loadModel(f).opsets.get("") ?? 0));
test.skipIf(models.length === 0)("detectors of opset 9 and 11 (needs QC_MODELS)", async () => {
  for (const path of models) {
    const before = loadModel(path);
    const feeds = feedsOf(before);
    const a = (await run(before, feeds))!;
    for (const target of [13, 17, 21, 23]) {
      const after = loadModel(path);
      expect(convertOpset(after, target).refused).toEqual([]);
      const b = (await run(after, feeds))!;
      for (const k of Object.keys(a)) {
        const [x, y] = [a[k]!.data as Float32Array, b[k]!.data as Float32Array];
        // onnxruntime averages in another order in its AveragePool of 19: the last bit differs there, and grows over 20 layers.
        const tolerance = target < 19 ? 0 : 1e-5;
        let worst = 0;
        for (let i = 0; i < x.length; i++) worst = Math.max(worst, Math.abs(x[i]! - y[i]!) / Math.max(1, Math.abs(x[i]!)));
        expect(worst, `${basename(path)} at ${target}, ${k}`).toBeLessThanOrEqual(tolerance);
      }
    }
  }
});
