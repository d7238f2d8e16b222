// node bench/webgpu.mjs INPUTS.npz FLOAT.onnx CANDIDATE.onnx...   (needs an adapter: a GPU with Vulkan, or SwiftShader, see test/export/webgpu.test.ts)
//
// One JSON line a model: largest difference of its outputs on WebGPU from those of the same file on the CPU and from the float model on
// the CPU (both over the largest output), kernels by provider and copies between operators, milliseconds a run (interleaved with the
// others, first rounds dropped). INPUTS.npz has one array for each input, one sample each.
import { statSync } from "node:fs";
import { basename } from "node:path";
import { from, median } from "./common.mjs";

const ROUNDS = Number(process.env.ROUNDS ?? 50);
const WARM = 5;
const [inputs, ...files] = process.argv.slice(2);
const { createRuntime } = await from("runtime/index.js");
const { openNpz } = await from("io/npz.js");
const { fileSource } = await from("io/source.js");
const runtime = createRuntime({ workers: 1 });
const npz = openNpz(fileSource(inputs));

/** The named inputs of a session out of the file. */
function feedsOf(session) {
  return Object.fromEntries(
    session.inputs.map((i) => {
      const a = npz.array(i.name).all();
      return [i.name, { dtype: a.dtype, dims: a.shape, data: a.data }];
    }),
  );
}
const floats = (t) => (t.data instanceof Float32Array ? t.data : Float32Array.from(t.data, Number));

/** max |a - b| / max |b| over all outputs. */
function distance(a, b) {
  let most = 0;
  let size = 0;
  for (const [name, t] of Object.entries(b)) {
    const [x, y] = [floats(a[name]), floats(t)];
    for (let i = 0; i < y.length; i++) {
      most = Math.max(most, Math.abs(x[i] - y[i]));
      size = Math.max(size, Math.abs(y[i]));
      if (!Number.isFinite(x[i])) return Number.POSITIVE_INFINITY;
    }
  }
  return most / size;
}

async function answer(file, provider) {
  const session = await runtime.open(file, { provider, level: "all", profile: true });
  const y = await session.run(feedsOf(session));
  const nodes = await session.profile();
  await session.release();
  return { y, nodes };
}

function count(list) {
  const out = {};
  for (const k of list) out[k] = (out[k] ?? 0) + 1;
  return out;
}

let reference;
const rows = [];
for (const file of files) {
  const row = { file: basename(file), bytes: statSync(file).size };
  rows.push({ row, file });
  try {
    const cpu = await answer(file, "cpu");
    reference ??= cpu.y;
    const gpu = await answer(file, "webgpu");
    row.fromSameFileOnCpu = distance(gpu.y, cpu.y);
    row.fromFloatOnCpu = distance(gpu.y, reference);
    row.providers = count(gpu.nodes.map((n) => n.provider));
    row.copies = count(gpu.nodes.map((n) => n.op).filter((op) => op.startsWith("Memcpy")));
    row.onCpu = count(gpu.nodes.filter((n) => n.provider.startsWith("CPU")).map((n) => n.op));
    row.products = count(gpu.nodes.map((n) => n.op).filter((op) => /MatMul|Conv|Gemm|GatherBlock/.test(op)));
  } catch (e) {
    row.error = String(e.message ?? e);
  }
}
const ready = [];
for (const { row, file } of rows) {
  if (row.error !== undefined) continue;
  const session = await runtime.open(file, { provider: "webgpu", level: "all" });
  ready.push({ row, session, feeds: feedsOf(session), ms: [] });
}
for (let r = 0; r < ROUNDS + WARM; r++)
  for (const x of ready) {
    const [ms] = await x.session.time(x.feeds, 1);
    if (r >= WARM) x.ms.push(ms);
  }
for (const { row, ms } of ready) {
  const sorted = [...ms].sort((a, b) => a - b);
  row.medianMs = median(ms);
  row.quartilesMs = [sorted[Math.floor(ms.length / 4)], sorted[Math.floor((3 * ms.length) / 4)]];
  row.runs = ms.length;
}
for (const { row } of rows) console.log(JSON.stringify(row));
await runtime.close();
