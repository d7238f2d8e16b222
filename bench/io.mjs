// node bench/io.mjs [--gib 1] [--folder DIR]
// Reading and writing a large model against a plain copy of its file, with peak memory; each in a process of its own, interleaved.
// From 1.75 GiB on only the streaming jobs run: a sparse file of external data, read tensor by tensor, and its weights written as int8.
import { execFileSync } from "node:child_process";
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { newModel } from "../dist/graph/ir.js";
import { loadModel, saveModel, writeModel } from "../dist/graph/onnx/index.js";
import { encodeModel } from "../dist/graph/onnx/write.js";
import { asFloat32 } from "../dist/graph/tensor.js";

const { values: o } = parseArgs({
  options: { gib: { type: "string" }, folder: { type: "string" }, job: { type: "string" }, rounds: { type: "string" } },
});
const gib = Number(o.gib ?? 1);

/** `gib` GiB of float32 in tensors of 64 MiB; the bytes are made when they are written. */
function large() {
  const m = newModel(21);
  const size = 1 << 26;
  for (let i = 0; i * size < gib * 2 ** 30; i++) {
    const bytes = () => new Uint8Array(size).fill(i + 1);
    m.graph.constant({ dtype: "float32", shape: [size / 4], byteLength: size, bytes }, `w${i}`);
  }
  const x = m.graph.addInput("x", { kind: "tensor", elem: "float32", shape: [1] });
  m.graph.addOutput(m.graph.append({ op: "Identity", inputs: [x], outputs: ["y"] }).outputs[0]);
  return m;
}

function copy(from, to) {
  const [a, b] = [openSync(from, "r"), openSync(to, "w")];
  const buffer = Buffer.allocUnsafe(1 << 24);
  for (let n; (n = readSync(a, buffer)) > 0; ) writeSync(b, buffer, 0, n);
  fsyncSync(b);
  closeSync(a);
  closeSync(b);
}

/** External data of `gib` GiB in a sparse file: no disk is needed for the input. */
function sparse(dir) {
  mkdirSync(join(dir, "s"), { recursive: true });
  const fd = openSync(join(dir, "s/w.data"), "w");
  ftruncateSync(fd, gib * 2 ** 30);
  closeSync(fd);
  const m = large();
  const size = 1 << 26;
  const placeOf = (v) => ({ location: "w.data", offset: Number(v.name.slice(1)) * size, length: size });
  writeFileSync(join(dir, "s/m.onnx"), encodeModel(m, { placeOf }).toBytes());
}

/** Weights to int8 codes with one scale each, as a weight-only recipe would; each tensor is read, coded and written before the next. */
function weightsToInt8(dir) {
  const m = loadModel(join(dir, "s/m.onnx"));
  for (const v of m.graph.initializers) {
    const source = v.data;
    const bytes = () => {
      const x = asFloat32(source);
      let most = 0;
      for (let i = 0; i < x.length; i++) most = Math.max(most, Math.abs(x[i]));
      const scale = most === 0 ? 1 : most / 127;
      const codes = new Int8Array(x.length);
      for (let i = 0; i < x.length; i++) codes[i] = Math.round(x[i] / scale);
      return new Uint8Array(codes.buffer);
    };
    m.graph.setData(v, { dtype: "int8", shape: source.shape, byteLength: source.byteLength / 4, bytes });
  }
  saveModel(m, join(dir, "f/m.onnx"), { externalData: "always" });
}

const JOBS = {
  "read all": (dir) => {
    for (const v of loadModel(join(dir, "s/m.onnx")).graph.initializers) v.data.bytes();
  },
  "weights → int8": weightsToInt8,
  copy: (dir) => copy(join(dir, "m.onnx"), join(dir, "copy.onnx")),
  load: (dir) => void loadModel(join(dir, "m.onnx")),
  "load + save": (dir) => saveModel(loadModel(join(dir, "m.onnx")), join(dir, "out.onnx"), { externalData: "never" }),
  "load + bytes": (dir) => void writeModel(loadModel(join(dir, "m.onnx"))),
  "external → external": (dir) => saveModel(loadModel(join(dir, "e/m.onnx")), join(dir, "f/m.onnx"), { externalData: "always" }),
};

if (o.job !== undefined) {
  const start = performance.now();
  JOBS[o.job](o.folder);
  const { maxRSS, userCPUTime, systemCPUTime } = process.resourceUsage();
  console.log(JSON.stringify({ seconds: (performance.now() - start) / 1000, cpu: (userCPUTime + systemCPUTime) / 1e6, mb: maxRSS / 1024 }));
} else {
  const dir = mkdtempSync(join(o.folder ?? tmpdir(), "qc-io-"));
  try {
    const big = gib >= 1.75;
    sparse(dir);
    const streaming = ["read all", "weights → int8"];
    if (!big) saveModel(large(), join(dir, "e/m.onnx"), { externalData: "always" });
    if (!big) saveModel(large(), join(dir, "m.onnx"), { externalData: "never" });
    const rows = new Map();
    for (let round = 0; round < Number(o.rounds ?? 3); round++)
      for (const job of Object.keys(JOBS)) {
        if (big && !streaming.includes(job)) continue;
        const out = execFileSync(process.execPath, [import.meta.filename, "--job", job, "--folder", dir, "--gib", String(gib)]);
        rows.set(job, [...(rows.get(job) ?? []), JSON.parse(out)]);
        for (const f of ["copy.onnx", "out.onnx", "f"]) rmSync(join(dir, f), { recursive: true, force: true });
      }
    const mb = big ? gib * 1024 : statSync(join(dir, "m.onnx")).size / 2 ** 20;
    const median = (xs) => xs.sort((a, b) => a - b)[xs.length >> 1];
    console.log(`${mb.toFixed(0)} MB${" ".repeat(14)}seconds   CPU s    peak MB`);
    for (const [job, list] of rows)
      console.log(
        job.padEnd(22),
        median(list.map((x) => x.seconds))
          .toFixed(2)
          .padStart(6),
        median(list.map((x) => x.cpu))
          .toFixed(2)
          .padStart(7),
        Math.max(...list.map((x) => x.mb))
          .toFixed(0)
          .padStart(10),
      );
  } finally {
    rmSync(dir, { recursive: true });
  }
}
