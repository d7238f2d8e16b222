// Reads mutants of one seed file and tells the parent what came of each: an outcome, and the peak memory so far.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { parseBuild } from "../../dist/build-config.js";
import { decodeStats } from "../../dist/calibrate/file.js";
import { decodeTable } from "../../dist/calibrate/tables.js";
import { parseConfig } from "../../dist/data/config.js";
import { openData } from "../../dist/data/index.js";
import { QcError } from "../../dist/diagnostics.js";
import { checkModel } from "../../dist/graph/check.js";
import { modelHashes } from "../../dist/graph/onnx/hash.js";
import { loadModel, readModel, readTensorProto, saveModel, writeModel } from "../../dist/graph/onnx/index.js";
import { readNpy } from "../../dist/io/npy.js";
import { openNpz } from "../../dist/io/npz.js";
import { memorySource } from "../../dist/io/source.js";
import { readPlan } from "../../dist/plan/io.js";
import { convertOpset } from "../../dist/prepare/opset/index.js";
import { parseGate } from "../../dist/verify/gate/index.js";
import { generator, mutate } from "./mutate.mjs";

const [seedFile, allFiles, scratch, seedText, fromText, toText] = process.argv.slice(2);
const others = JSON.parse(allFiles).map((f) => readFileSync(f));
const original = readFileSync(seedFile);
const seed = Number(seedText);
mkdirSync(scratch, { recursive: true });
const put = (name, bytes) => {
  const path = join(scratch, name);
  writeFileSync(path, bytes);
  return path;
};
/** Waits until it is out: what is queued when the channel closes would be lost. */
const tell = (message) => new Promise((done) => process.send(message, done));
const folderOf = dirname(seedFile);

/** Reads every sample of a set that has this file in it. */
async function samples(bytes, config, inputs) {
  const path = put(basename(seedFile), bytes);
  if (config !== undefined) writeFileSync(join(scratch, "set.yaml"), config);
  const data = await openData(config === undefined ? path : join(scratch, "set.yaml"), inputs);
  const roles = Object.values(data.roles).flat();
  for (const i of roles.slice(0, 20)) await data.sample(i);
}
const float = (name, dims) => ({ name, dtype: "float32", dims });
const tokens = { name: "ids", dtype: "int64", dims: ["N", "T"] };
const text = (file, tokenizer) => {
  for (const n of ["text.txt", "words.tokenizer.json"]) if (n !== basename(seedFile)) put(n, readFileSync(join(folderOf, n)));
  return `name: t\nsource: ${file}\ntext: { tokenizer: ${tokenizer} }\ninputs: { ids: { from: ids } }\n`;
};
const asText = (bytes) => new TextDecoder().decode(bytes);

const SAMPLES = {
  "rows.jsonl": (b) => samples(b, "name: t\nsource: rows.jsonl\ninputs: { x: { from: x } }\nlabels: label\n", [float("x", ["N", 3])]),
  "rows.csv": (b) => samples(b, "name: t\nsource: rows.csv\ninputs: { x: { from: a } }\nlabels: label\n", [float("x", ["N"])]),
  "wave.wav": (b) => samples(b, undefined, [float("x", ["N", "T"])]),
  "text.txt": (b) => samples(b, text("text.txt", "words.tokenizer.json"), [tokens]),
  "words.tokenizer.json": (b) => samples(b, text("text.txt", "words.tokenizer.json"), [tokens]),
  "split.json": (b) => {
    put("stored.npz", readFileSync(join(folderOf, "stored.npz")));
    return samples(b, "name: t\nsource: stored.npz\ninputs: { x: { from: x } }\nsplit: { indices: split.json }\n", [
      float("x", ["N", 3, 8, 8]),
    ]);
  },
  "gate.yaml": (b) => void parseGate(asText(b), "gate.yaml"),
  "qc.yaml": (b) => void parseBuild(asText(b), "qc.yaml"),
};
for (const kind of ["png", "jpeg", "webp", "tiff"])
  SAMPLES[`picture.${kind}`] = (b) =>
    samples(b, `name: t\nsource: picture.${kind}\ninputs: { x: { steps: [decode, { layout: nchw }, { cast: float32 }] } }\n`, [
      float("x", ["N", 3, 7, 9]),
    ]);
for (const kind of ["cache", "table.json", "txt", "flatbuffers"])
  SAMPLES[`calibration.${kind}`] = (b) => void decodeTable(b, basename(seedFile));

const READ = {
  ".onnx"(bytes) {
    if (basename(seedFile) === "ext.onnx") {
      for (const n of readdirSync(folderOf)) if (n.endsWith(".data")) put(n, readFileSync(join(folderOf, n)));
      const m = loadModel(put("ext.onnx", bytes));
      modelHashes(m);
      saveModel(m, join(scratch, "out.onnx"), { externalData: "always" });
      return;
    }
    const m = readModel(bytes);
    if (checkModel(m).length > 0) return;
    modelHashes(m);
    writeModel(m);
    convertOpset(m, 26);
  },
  ".data"(bytes) {
    put(basename(seedFile), bytes);
    modelHashes(loadModel(put("ext.onnx", readFileSync(join(folderOf, "ext.onnx")))));
  },
  ".pb"(bytes) {
    const { data } = readTensorProto(bytes);
    if (data.dtype === "string") data.strings();
    else data.bytes();
  },
  ".npy": (bytes) => void readNpy(bytes),
  ".npz"(bytes) {
    const z = openNpz(memorySource(bytes));
    for (const name of z.names) {
      const a = z.array(name);
      for (let i = 0; i < Math.min(a.shape[0] ?? 0, 64); i++) a.rows(i, 1);
    }
  },
  ".stats": (bytes) => void decodeStats(memorySource(bytes)),
  ".json": (bytes) => {
    put(basename(seedFile).replace(".json", ".tensors"), readFileSync(seedFile.replace(".json", ".tensors")));
    readPlan(put(basename(seedFile), bytes));
  },
  ".tensors": (bytes) => {
    put(basename(seedFile), bytes);
    readPlan(put(basename(seedFile).replace(".tensors", ".json"), readFileSync(seedFile.replace(".tensors", ".json"))));
  },
  ".yaml": (bytes) => void parseConfig(new TextDecoder().decode(bytes), "set.yaml"),
};
const read = SAMPLES[basename(seedFile)] ?? READ[extname(seedFile)];

// A seed that is refused itself would prove nothing.
try {
  await read(original);
} catch (e) {
  await tell({ end: Number(fromText), outcome: `SEED ${e.message}` });
}
for (let i = Number(fromText); i < Number(toText); i++) {
  await tell({ start: i });
  const bytes = mutate(original, others, generator(Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(i + 1, 0x85ebca6b)));
  const floor = process.resourceUsage().maxRSS;
  let outcome = "read";
  try {
    await read(bytes);
  } catch (e) {
    if (e instanceof QcError && e.diagnostics.length > 0 && e.message.length > 0) outcome = `refused ${e.diagnostics[0].code}`;
    else outcome = `CRASH ${e?.stack?.slice(0, 600) ?? e}`;
  }
  const grownMb = (process.resourceUsage().maxRSS - floor) / 1024;
  if (grownMb > 200 + (3 * bytes.length) / 2 ** 20)
    outcome = `MEMORY ${grownMb.toFixed(0)} MB for a file of ${bytes.length} bytes (${outcome})`;
  await tell({ end: i, outcome });
}
const left = readdirSync(scratch).filter((n) => n.includes("qc-tmp"));
await tell({ left });
rmSync(scratch, { recursive: true });
process.disconnect();
