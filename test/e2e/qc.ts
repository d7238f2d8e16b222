import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type Model, newModel } from "../../src/graph/ir.ts";
import { floats } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";

export const root = resolve(import.meta.dirname, "../..");
export const main = join(root, "dist/cli/main.js");

export interface Run {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the built command line as a user does. `onStderr` sees the talk as it comes. */
export function qc(
  args: readonly string[],
  o: { readonly cwd?: string; readonly onStderr?: (text: string, kill: (s: NodeJS.Signals) => void) => void } = {},
): Promise<Run> {
  const child = spawn(process.execPath, [main, ...args], { cwd: o.cwd ?? root, env: { ...process.env, NO_COLOR: "1" } });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (b: Buffer) => {
    stdout += b.toString();
  });
  child.stderr.on("data", (b: Buffer) => {
    stderr += b.toString();
    o.onStderr?.(stderr, (s) => child.kill(s));
  });
  return new Promise((done) => child.on("close", (code) => done({ code, stdout, stderr })));
}

export function freshFolder(): string {
  return mkdtempSync(join(tmpdir(), "qc-e2e-"));
}
/** Every file below a folder, hidden ones too. */
export function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((e) => !e.isDirectory())
    .map((e) => e.name)
    .sort();
}

/** x [1,2,6,6] -> Conv 3 -> Relu -> Conv 4 -> y; weights from a fixed recurrence. */
export function smallNet(change: (w: Float32Array) => void = () => {}): Model {
  const m = newModel(13, 8);
  const g = m.graph;
  let state = 7;
  const weights = (n: number) =>
    Float32Array.from({ length: n }, () => {
      state = (state * 16807) % 2147483647;
      return state / 2147483647 - 0.5;
    });
  const first = weights(3 * 2 * 9);
  change(first);
  const x = g.addInput("x", tensorType("float32", [1, 2, 6, 6]));
  const w1 = g.constant(floats(first, [3, 2, 3, 3]), "w1");
  const w2 = g.constant(floats(weights(4 * 3 * 9), [4, 3, 3, 3]), "w2");
  const c1 = g.append({ op: "Conv", name: "conv1", inputs: [x, w1], outputs: ["h"], attrs: { pads: [1, 1, 1, 1] } }).outputs[0]!;
  const r = g.append({ op: "Relu", name: "relu1", inputs: [c1], outputs: ["r"] }).outputs[0]!;
  const y = g.append({ op: "Conv", name: "conv2", inputs: [r, w2], outputs: ["y"] }).outputs[0]!;
  g.setType(y, tensorType("float32", [1, 4, 4, 4]));
  g.addOutput(y);
  return m;
}

/** `n` samples of the small net's input, the same every time. */
export function smallData(n: number, change: (x: Float32Array) => void = () => {}): Float32Array {
  let state = 99;
  const x = Float32Array.from({ length: n * 72 }, () => {
    state = (state * 16807) % 2147483647;
    return 2 * (state / 2147483647) - 1;
  });
  change(x);
  return x;
}
