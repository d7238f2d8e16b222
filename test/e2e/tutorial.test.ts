import { execFile } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import sharp from "sharp";
import { expect, test } from "vitest";
import { freshFolder, main, root } from "./qc.ts";

const run = promisify(execFile);

/** The reader's folder: digits as PNG files, one folder a class. */
async function readersFolder(): Promise<string> {
  const cwd = freshFolder();
  copyFileSync(join(root, "calibration-sets/digits/model.onnx"), join(cwd, "model.onnx"));
  const { digit } = (await import(join(root, "calibration-sets/digits/digits.mjs"))) as {
    digit: (seed: number, index: number) => { pixels: Uint8Array; label?: number };
  };
  for (let i = 0; i < 200; i++) {
    const folder = join(cwd, "images", String(i % 10));
    mkdirSync(folder, { recursive: true });
    await sharp(Buffer.from(digit(7, i).pixels), { raw: { width: 28, height: 28, channels: 1 } })
      .png()
      .toFile(join(folder, `${i}.png`));
  }
  mkdirSync(join(cwd, "bin"));
  writeFileSync(join(cwd, "bin/qc"), `#!/bin/sh\nexec "${process.execPath}" "${main}" "$@"\n`);
  chmodSync(join(cwd, "bin/qc"), 0o755);
  return cwd;
}

test("the tutorial runs from top to bottom, on a folder of images", async () => {
  const cwd = await readersFolder();
  const env = { ...process.env, PATH: `${join(cwd, "bin")}:${process.env["PATH"]}`, NO_COLOR: "1" };
  const text = readFileSync(join(root, "docs/tutorial.md"), "utf8");
  let ran = 0;
  let quantized = "";
  for (const [, kind, file, body] of text.matchAll(/^```(\w+)(?: (\S+))?\n([\s\S]*?)^```$/gm)) {
    if (kind === "yaml") writeFileSync(join(cwd, file!), body!);
    else
      for (const line of body!.split("\n").filter((l) => l !== "")) {
        const { stdout } = await run("sh", ["-ec", line], { cwd, env });
        if (line.startsWith("qc quantize")) quantized = stdout;
        ran++;
      }
  }
  expect(ran).toBe(11);
  // Wrong preprocessing would show here: the network knows these digits.
  expect(Number(/top1 ([\d.]+) →/.exec(quantized)![1])).toBeGreaterThan(90);
  for (const f of ["small.report.html", "roles.json", "check.xml", "baseline.json", "qc.lock.json", "artifacts/mine.ort-cpu.int8.onnx"])
    expect(existsSync(join(cwd, f)), f).toBe(true);
}, 120_000);
