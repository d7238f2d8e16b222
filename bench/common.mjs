// What the benchmarks share: running a command and measuring it, the models of QC_MODELS, tables. Prints tables, asserts nothing.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export const root = resolve(import.meta.dirname, "..");
export const cli = join(root, "dist/cli/main.js");
export const scratch = () => mkdtempSync(join(tmpdir(), "qc-bench-"));
export const from = (path) => import(new URL(`../dist/${path}`, import.meta.url));

/**
 * Runs a program and measures it from outside: wall seconds, CPU seconds and peak resident memory of the process (Linux: /usr/bin/time;
 * elsewhere wall alone).
 */
export function measure(program, args, options = {}) {
  const timed = process.platform === "linux";
  const start = performance.now();
  const child = timed ? spawn("/usr/bin/time", ["-f", "%e %U %S %M", program, ...args], options) : spawn(program, args, options);
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (b) => {
    stdout += b;
  });
  child.stderr?.on("data", (b) => {
    stderr += b;
  });
  return new Promise((done, fail) => {
    child.on("error", fail);
    child.on("close", (code) => {
      const wall = (performance.now() - start) / 1000;
      const line = timed ? (/([\d.]+) ([\d.]+) ([\d.]+) (\d+)\s*$/.exec(stderr) ?? []) : [];
      const [, , user, system, kb] = line.map(Number);
      done({ code, stdout, stderr, wall, cpu: timed ? user + system : Number.NaN, peakMb: timed ? kb / 1024 : Number.NaN });
    });
  });
}

export function median(x) {
  const s = [...x].sort((a, b) => a - b);
  return s.length % 2 === 1 ? s[(s.length - 1) / 2] : (s[s.length / 2 - 1] + s[s.length / 2]) / 2;
}

export function printTable(head, rows) {
  const all = [head, ...rows.map((r) => r.map(String))];
  const widths = head.map((_, i) => Math.max(...all.map((r) => r[i].length)));
  const line = (r) => `| ${r.map((c, i) => (i === 0 ? c.padEnd(widths[i]) : c.padStart(widths[i]))).join(" | ")} |`;
  console.log([line(head), `|${widths.map((w) => "-".repeat(w + 2)).join("|")}|`, ...all.slice(1).map(line)].join("\n"));
}

export const readJson = (path) => JSON.parse(readFileSync(path, "utf8"));
