import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { onnx } from "onnx-proto";
import { beforeEach, expect, test } from "vitest";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { writeNpz } from "../../src/io/npz.ts";
import { filesIn, freshFolder, qc, type Run, smallData, smallNet } from "./qc.ts";

/** Each case: one bad thing, a clear error, the right exit code, and nothing left behind. */

let folder: string;
let model: string;
let data: string;

function npz(path: string, arrays: Record<string, { dtype: string; shape: number[]; data: ArrayLike<number> | BigInt64Array }>): void {
  writeFileSync(path, Buffer.concat(writeNpz(Object.entries(arrays).map(([name, a]) => [name, a as never] as const))));
}

beforeEach(() => {
  folder = freshFolder();
  model = join(folder, "m.onnx");
  data = join(folder, "d.npz");
  writeFileSync(model, writeModel(smallNet()));
  npz(data, { x: { dtype: "float32", shape: [20, 2, 6, 6], data: smallData(20) } });
});

/** Runs `qc quantize` on what the case has made and returns it; fails when a file appeared. */
async function refused(...args: string[]): Promise<Run> {
  const before = filesIn(folder);
  const r = await qc(["quantize", model, ...args]);
  expect(filesIn(folder), "a file was left behind").toEqual(before);
  return r;
}
function expectError(r: Run, code: string, exit: number, ...facts: (string | RegExp)[]): void {
  expect(r.stderr).toContain(`[${code}]`);
  // Two lines: what, and what to do now.
  expect(r.stderr).toMatch(new RegExp(`✘ .+ \\[${code}\\]\\n {2}→ .+`));
  for (const f of facts) expect(r.stderr).toMatch(f);
  expect(r.code).toBe(exit);
  expect(r.stdout).toBe("");
}

test("the good case passes, so that the bad ones fail for their own reason", async () => {
  const r = await qc(["quantize", model, "--data", data, "--effort", "fast"]);
  expect(r.stderr).not.toContain("✘");
  expect(r.code).toBe(0);
  expect(filesIn(folder)).toEqual([
    "d.npz",
    "m.int8.onnx",
    "m.int8.plan.json",
    "m.int8.plan.tensors",
    "m.int8.report.html",
    "m.int8.report.json",
    "m.onnx",
  ]);
});

test("a model that is not there", async () => {
  model = join(folder, "other.onnx");
  expectError(await refused(), "io/not-found", 1, "other.onnx");
});

test("a truncated model", async () => {
  const b = readFileSync(model);
  writeFileSync(model, b.subarray(0, b.length - 100));
  const r = await refused();
  expect(r.stderr).toMatch(/✘ .*m\.onnx.*\n {2}→ /);
  expect(r.code).toBe(1);
});

test("a Git-LFS pointer", async () => {
  writeFileSync(
    model,
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n",
  );
  expectError(await refused(), "io/wrong-kind", 1, /LFS/, /git lfs pull/);
});

const { ModelProto } = onnx;
const proto = (graph: onnx.IGraphProto) => ModelProto.encode({ irVersion: 8, opsetImport: [{ domain: "", version: 13 }], graph }).finish();
const port = (name: string) => ({ name, type: { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 1 }] } } } });

test("a cycle", async () => {
  writeFileSync(
    model,
    proto({
      name: "g",
      input: [port("x")],
      output: [port("b")],
      node: [
        { name: "n1", opType: "Add", input: ["x", "b"], output: ["a"] },
        { name: "n2", opType: "Relu", input: ["a"], output: ["b"] },
      ],
    }),
  );
  const r = await refused();
  expect(r.stderr).toMatch(/✘ .*(cycle|n1|n2).*\[graph\/[a-z-]+\]/);
  expect(r.code).toBe(1);
});

test("two values of one name", async () => {
  writeFileSync(
    model,
    proto({
      name: "g",
      input: [port("x")],
      output: [port("a")],
      node: [
        { name: "n1", opType: "Relu", input: ["x"], output: ["a"] },
        { name: "n2", opType: "Neg", input: ["x"], output: ["a"] },
      ],
    }),
  );
  const r = await refused();
  expect(r.stderr).toMatch(/✘ .*"a".*\[[a-z]+\/[a-z-]+\]/);
  expect(r.code).toBe(1);
});

test("external data that is missing, and external data that leaves the folder", async () => {
  const external = (location: string) =>
    proto({
      name: "g",
      input: [port("x")],
      output: [port("a")],
      initializer: [{ name: "w", dataType: 1, dims: [1], dataLocation: 1, externalData: [{ key: "location", value: location }] }] as never,
      node: [{ name: "n1", opType: "Add", input: ["x", "w"], output: ["a"] }],
    });
  writeFileSync(model, external("weights.bin"));
  const missing = await refused();
  expect(missing.stderr).toMatch(/✘ .*weights\.bin/);
  expect(missing.code).toBe(1);
  mkdirSync(join(folder, "in"));
  writeFileSync(join(folder, "secret.bin"), Buffer.alloc(4));
  model = join(folder, "in/m.onnx");
  writeFileSync(model, external("../secret.bin"));
  const escaping = await refused();
  expect(escaping.stderr).toMatch(/✘ .*\.\.\/secret\.bin/);
  expect(escaping.code).toBe(1);
});

test("data of another shape, and of another type", async () => {
  npz(data, { x: { dtype: "float32", shape: [20, 3, 6, 6], data: new Float32Array(20 * 108) } });
  expectError(await refused("--data", data), "data/shape", 1, /"x"/, /2, ?6, ?6/);
  npz(data, { x: { dtype: "int64", shape: [20, 2, 6, 6], data: new BigInt64Array(20 * 72) } });
  const dtype = await refused("--data", data);
  expect(dtype.stderr).toMatch(/✘ .*"x".*int64.*\[data\/dtype\]/);
  expect(dtype.code).toBe(1);
});

test("NaN in a weight, and in the data", async () => {
  writeFileSync(model, writeModel(smallNet((w) => w.fill(Number.NaN, 3, 4))));
  const weights = await refused("--data", data, "--effort", "fast");
  expect(weights.stderr).toMatch(/✘ .*("w1"|"conv1").*\[plan\/not-finite\]/);
  expect(weights.code).toBe(1);
  writeFileSync(model, writeModel(smallNet()));
  npz(data, { x: { dtype: "float32", shape: [20, 2, 6, 6], data: smallData(20, (x) => x.fill(Number.NaN, 0, 1440)) } });
  expectError(await refused("--data", data), "data/not-finite", 1, /"x"/);
});

test("an empty set", async () => {
  npz(data, { x: { dtype: "float32", shape: [0, 2, 6, 6], data: new Float32Array(0) } });
  expectError(await refused("--data", data), "data/no-samples", 1);
});

test("a constant activation is said, and quantized all the same", async () => {
  npz(data, { x: { dtype: "float32", shape: [20, 2, 6, 6], data: new Float32Array(20 * 72) } });
  const r = await qc(["quantize", model, "--data", data, "--effort", "fast"]);
  expect(r.stderr).toContain("[calibrate/constant]");
  expect(r.code).toBe(0);
});

test("roles that overlap", async () => {
  writeFileSync(join(folder, "roles.json"), JSON.stringify({ calibrate: [0, 1, 2, 3], select: [4], heldOut: [3, 5, 6] }));
  writeFileSync(join(folder, "set.yaml"), "source: d.npz\nsplit: { indices: roles.json }\n");
  expectError(await refused("--data", join(folder, "set.yaml")), "data/overlap", 1, /calibrate/, /heldOut/);
});

test("a model that is quantized already names the remedy", async () => {
  await qc(["quantize", model, "--data", data, "--effort", "fast", "-o", join(folder, "q.onnx")]);
  model = join(folder, "q.onnx");
  expectError(await refused("--data", data, "-o", join(folder, "again.onnx")), "cli/already-quantized", 1, /--requantize/);
});

test("--requantize takes a quantized model back to float and compiles it for another target", async () => {
  const first = join(folder, "q.onnx");
  expect((await qc(["quantize", model, "--data", data, "--effort", "fast", "-o", first])).code).toBe(0);
  const r = await qc([
    "quantize",
    first,
    "--requantize",
    "--data",
    data,
    "--effort",
    "fast",
    "--target",
    "tensorrt",
    "-o",
    join(folder, "t.onnx"),
    "--json",
  ]);
  expect(r.stderr).toContain("[cli/requantized]");
  expect(r.code).toBe(0);
  // Both sides are 8-bit models of one network: they agree to the noise of 8 bits.
  const { report } = JSON.parse(r.stdout) as { report: { levels: { outputs: { sqnrDb: number }[] }[]; products: { both: number } } };
  expect(report.levels[0]!.outputs[0]!.sqnrDb).toBeGreaterThan(25);
  expect(report.products.both).toBe(2);
});

test("an output that cannot be written, before any work is done", async () => {
  const under = await refused("-o", join(model, "q.onnx"));
  expectError(under, "cli/unwritable", 1, /is not a folder/);
  mkdirSync(join(folder, "taken.onnx"));
  expectError(await refused("-o", join(folder, "taken.onnx")), "cli/unwritable", 1, /folder/);
  expectError(await refused("-o", model), "cli/would-overwrite", 2, /an input of this run/);
});

test("Ctrl-C leaves no file and says 130", async () => {
  npz(data, { x: { dtype: "float32", shape: [20_000, 2, 6, 6], data: smallData(20_000) } });
  const before = filesIn(folder);
  let sent = false;
  const r = await qc(["quantize", model, "--data", data, "--samples", "10000", "--effort", "fast"], {
    onStderr(text, kill) {
      if (sent || !text.includes("prepare")) return;
      sent = true;
      kill("SIGINT");
    },
  });
  expect(sent).toBe(true);
  expect(r.stderr).toContain("[cli/interrupted]");
  expect(r.code).toBe(130);
  expect(filesIn(folder)).toEqual(before);
});

test("with --json a failure is one document on stdout", async () => {
  const r = await qc(["quantize", join(folder, "none.onnx"), "--json"]);
  expect(JSON.parse(r.stdout)).toMatchObject({ ok: false, diagnostics: [{ code: "io/not-found", severity: "error" }] });
  expect(r.code).toBe(1);
});

test("wrong usage is exit code 2", async () => {
  const r = await qc(["quantize", model, "--efort", "fast"]);
  expectError(r, "cli/unknown-option", 2, /Did you mean "--effort"/);
});
