import { execFile } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { freshFolder, main, root } from "./qc.ts";

const run = promisify(execFile);
const readme = readFileSync(join(root, "README.md"), "utf8");
const blocks = [...readme.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(([, language, text]) => ({ language: language!, text: text! }));

/** A folder as a reader has it: a model, a set of samples for it, and `qc` on the path. */
function readersFolder(): { cwd: string; env: NodeJS.ProcessEnv } {
  const cwd = freshFolder();
  const digits = join(root, "calibration-sets/digits");
  copyFileSync(join(digits, "model.onnx"), join(cwd, "model.onnx"));
  copyFileSync(join(digits, "digits.mjs"), join(cwd, "digits.mjs"));
  copyFileSync(join(digits, "set.yaml"), join(cwd, "set.yaml"));
  mkdirSync(join(cwd, "bin"));
  writeFileSync(join(cwd, "bin/qc"), `#!/bin/sh\nexec "${process.execPath}" "${main}" "$@"\n`);
  chmodSync(join(cwd, "bin/qc"), 0o755);
  return { cwd, env: { ...process.env, PATH: `${join(cwd, "bin")}:${process.env["PATH"]}`, NO_COLOR: "1" } };
}

/** Sixty digits with one row each, made by the set's own generator. */
async function writeSamples(cwd: string): Promise<void> {
  const set = (await import(join(root, "calibration-sets/digits/digits.mjs"))) as {
    digit: (seed: number, index: number) => { pixels: Uint8Array };
  };
  const { writeNpz } = await import("../../src/io/npz.ts");
  const n = 60;
  const x = new Float32Array(n * 784);
  for (let i = 0; i < n; i++) for (const [k, v] of set.digit(5, i).pixels.entries()) x[i * 784 + k] = v / 255;
  writeFileSync(join(cwd, "samples.npz"), Buffer.concat(writeNpz([["input", { dtype: "float32", shape: [n, 1, 28, 28], data: x }]])));
}

test("the README has the two commands that do all the set-up, and they are scripts of the package", () => {
  const shell = blocks.filter((b) => b.language === "sh").map((b) => b.text.trim());
  expect(shell).toContain("npm ci && npm run demo");
  expect(shell).toContain("npm ci && npm test");
  const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { scripts: Record<string, string> };
  expect(Object.keys(scripts)).toEqual(expect.arrayContaining(["demo", "test", "check", "bench"]));
});

test("every other code block of the README runs", async () => {
  const { cwd, env } = readersFolder();
  await writeSamples(cwd);
  let ran = 0;
  for (const { language, text } of blocks) {
    if (text.includes("npm ci")) continue;
    if (language === "sh") {
      for (const line of text.split("\n").filter((l) => l.trim() !== "")) {
        // Effort and verification are the reader's choice; less of both keeps the test short.
        const command = line.startsWith("qc quantize") ? line.replace("model.onnx", "model.onnx --effort fast --verify-samples 8") : line;
        await run("sh", ["-ec", command], { cwd, env });
        ran++;
      }
    } else if (language === "js") {
      const script = join(cwd, "api.mjs");
      writeFileSync(script, text.replace('"qc"', JSON.stringify(join(root, "dist/index.js"))));
      const { stdout } = await run(process.execPath, [script], { cwd, env });
      expect(stdout).toMatch(/^\d+(\.\d+)? \d+\n$/);
      ran++;
    } else throw new Error(`no way to run ${language}`);
  }
  expect(ran).toBeGreaterThanOrEqual(11);
  for (const f of ["model.int8.onnx", "model.int8-weights.onnx", "all.stats", "plan.json", "model.trt.onnx", "small.onnx"])
    expect(existsSync(join(cwd, f)), f).toBe(true);
}, 300_000);

test("the package exports what the README imports", () => {
  const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { exports: Record<string, { default: string }> };
  expect(exports["."]!.default).toBe("./dist/index.js");
});
