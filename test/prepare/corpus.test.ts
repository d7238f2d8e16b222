import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { afterAll, expect, test } from "vitest";
import { checkModel } from "../../src/graph/check.ts";
import type { Model } from "../../src/graph/ir.ts";
import { loadModel, readTensorProto, writeModel } from "../../src/graph/onnx/index.ts";
import { opFacts } from "../../src/graph/ops/index.ts";
import { printModel } from "../../src/graph/print.ts";
import type { TensorData } from "../../src/graph/tensor.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { findRegions } from "../../src/prepare/regions.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Feeds, Session, Tensor, TensorArray } from "../../src/runtime/types.ts";
import { CORPUS, onnxFilesIn } from "../graph/onnx/helpers.ts";

const archive = existsSync(CORPUS) ? readdirSync(CORPUS).find((n) => n.endsWith(".tar.xz")) : undefined;
const folder = archive === undefined ? undefined : mkdtempSync(join(tmpdir(), "qc-prepare-"));
if (folder !== undefined) execFileSync("tar", ["xJf", join(CORPUS, archive!), "-C", folder]);
const runtime = createRuntime();
afterAll(async () => {
  await runtime.close();
  if (folder !== undefined) rmSync(folder, { recursive: true });
});

/** Every model that the runtime loads, more than one node or constant in it: the same outputs, the same graph when prepared twice. */
test.skipIf(folder === undefined)("the ONNX backend tests mean the same after prepare (needs QC_CORPUS)", async () => {
  const failed: string[] = [];
  let prepared = 0;
  let compared = 0;
  for (const file of onnxFilesIn(folder!)) {
    const source = loadModel(file);
    for (const n of source.graph.allNodes()) opFacts(n);
    if (source.graph.nodes.length < 2 && source.graph.initializers.length === 0) continue;
    let before: Session;
    try {
      before = await runtime.open(file);
    } catch {
      continue; // the runtime does not know its operators
    }
    try {
      prepared++;
      if (await same(before, source, dirname(file))) compared++;
    } catch (e) {
      failed.push(`${relative(folder!, file)}: ${(e as Error).message.slice(0, 400)}`);
    }
    await before.release();
  }
  expect(failed).toEqual([]);
  expect(prepared).toBeGreaterThan(300);
  expect(compared).toBeGreaterThan(300);
});

/** True when outputs were compared; false when the model's inputs cannot be fed or it fails by itself. */
async function same(before: Session, source: Model, at: string): Promise<boolean> {
  const p = await prepareModel(source, runtime);
  expect(checkModel(p.model)).toEqual([]);
  findRegions(p.model);
  expect(printModel((await prepareModel(p.model, runtime)).model)).toBe(printModel(p.model));
  const after = await runtime.open(writeModel(p.model));
  try {
    const feeds = feedsIn(source, at);
    const want = feeds && (await before.run(feeds).catch(() => undefined));
    if (!feeds || !want) return false;
    const got = await after.run(feeds);
    for (const [name, w] of Object.entries(want)) expectClose(name, w, got[name]!);
    return true;
  } finally {
    await after.release();
  }
}

/** One unit of float32 in 10⁵: packed kernels may sum in another order. */
function expectClose(name: string, a: Tensor, b: Tensor): void {
  expect([name, b.dtype, b.dims]).toEqual([name, a.dtype, a.dims]);
  for (let i = 0; i < a.data.length; i++) {
    const [x, y] = [a.data[i]!, b.data[i]!];
    if (x === y || (Number.isNaN(x) && Number.isNaN(y))) continue;
    const [u, v] = [Number(x), Number(y)];
    if (!(Math.abs(u - v) <= 1e-5 * (Math.abs(u) + 1e-3))) throw new Error(`output "${name}" [${i}]: ${v} is not ${u}`);
  }
}

const ARRAYS: Readonly<Record<string, new (b: ArrayBuffer) => TensorArray>> = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

function feedsIn(m: Model, at: string): Feeds | undefined {
  const out: Record<string, Tensor> = {};
  for (const [i, v] of m.graph.inputs.filter((x) => !x.data).entries()) {
    const file = join(at, "test_data_set_0", `input_${i}.pb`);
    const data = v.type?.kind === "tensor" && existsSync(file) ? tensorIn(file) : undefined;
    const make = data && ARRAYS[data.dtype];
    if (!data || !make) return undefined;
    out[v.name] = { dtype: data.dtype, dims: data.shape, data: new make(data.bytes().slice().buffer) };
  }
  return out;
}

function tensorIn(file: string): TensorData | undefined {
  try {
    return readTensorProto(readFileSync(file)).data;
  } catch {
    return undefined; // a sequence or an optional
  }
}
