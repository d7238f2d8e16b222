import { execFile } from "node:child_process";
import { appendFileSync, cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { filesIn, freshFolder, qc, type Run, root } from "./qc.ts";

const CONFIG = (targets: string, effort = "fast") => `models:
  digits: { file: digits/model.onnx, data: digits }
targets: [${targets}]
recipes: [int8]
options: { effort: ${effort}, verifySamples: 50, samples: 40 }
`;
function workplace(targets: string): string {
  const cwd = freshFolder();
  cpSync(join(root, "calibration-sets/digits"), join(cwd, "digits"), { recursive: true });
  writeFileSync(join(cwd, "qc.yaml"), CONFIG(targets));
  return cwd;
}
interface Built {
  readonly artifacts: { name: string; state: string }[];
  readonly calibrations: { run: number; reused: number };
}
const states = (r: Run) => {
  const b = JSON.parse(r.stdout) as Built;
  return [b.artifacts.map((a) => a.state), b.calibrations] as const;
};

test("cold, warm, one more target, stale, and equal bytes in another folder", async () => {
  const cwd = workplace("portable, ort-cpu");
  const build = (...more: string[]) => qc(["build", "--json", "--quiet", ...more], { cwd });
  const cold = await build();
  expect(cold.code, cold.stderr).toBe(0);
  expect(states(cold)).toEqual([["built", "built"], { run: 1, reused: 0 }]);
  expect(states(await build())).toEqual([["up to date", "up to date"], { run: 0, reused: 0 }]);
  expect((await build("--check")).code).toBe(0);

  writeFileSync(join(cwd, "qc.yaml"), CONFIG("portable, ort-cpu, tensorrt"));
  const stale = await build("--check");
  expect(stale.code).toBe(3);
  expect(states(stale)[0]).toEqual(["up to date", "up to date", "stale"]);
  // The set's statistics serve the new target as they are.
  expect(states(await build())).toEqual([["up to date", "up to date", "built"], { run: 0, reused: 1 }]);

  // A file that somebody changed comes back from the cache.
  const file = join(cwd, "artifacts/digits.portable.int8.onnx");
  const good = readFileSync(file);
  writeFileSync(file, "spoiled");
  expect((await build("--check")).code).toBe(3);
  expect(states(await build())[0]).toEqual(["cached", "up to date", "up to date"]);
  expect(readFileSync(file).equals(good)).toBe(true);

  const other = workplace("portable, ort-cpu, tensorrt");
  expect((await qc(["build", "--quiet", "-j", "2"], { cwd: other })).code).toBe(0);
  expect(readFileSync(join(other, "qc.lock.json"), "utf8")).toBe(readFileSync(join(cwd, "qc.lock.json"), "utf8"));
  expect(filesIn(join(other, "artifacts"))).toEqual(filesIn(join(cwd, "artifacts")));
}, 120_000);

test("a missed budget and a gate end with exit code 3; a typing error names the nearest key", async () => {
  const cwd = workplace("portable");
  writeFileSync(join(cwd, "gate.yaml"), "sqnr: { least: 90dB }\n");
  writeFileSync(join(cwd, "qc.yaml"), `${CONFIG("portable")}gate: gate.yaml\n`.replace("samples: 40", "samples: 40, budget: 'size<=1kB'"));
  const r = await qc(["build"], { cwd });
  expect(r.code).toBe(3);
  expect(r.stdout).toContain("below the gate: sqnr (P1)");
  expect(r.stderr).toContain("size<=1kB");
  writeFileSync(join(cwd, "qc.yaml"), CONFIG("portable").replace("targets", "tragets"));
  const bad = await qc(["build"], { cwd });
  expect(bad.code).toBe(1);
  expect(bad.stderr).toContain('Did you mean "targets"?');
}, 60_000);

test("another version of the code makes everything anew, calibration too", async () => {
  const cwd = workplace("portable");
  const tool = freshFolder();
  for (const f of ["dist", "package.json"]) cpSync(join(root, f), join(tool, f), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(tool, "node_modules"));
  const build = (...more: string[]) =>
    new Promise<Run>((done) => {
      const args = [join(tool, "dist/cli/main.js"), "build", "--json", "--quiet", ...more];
      execFile(process.execPath, args, { cwd }, (e, stdout, stderr) => done({ code: e === null ? 0 : Number(e.code), stdout, stderr }));
    });
  const cold = await build();
  expect(states(cold), cold.stderr).toEqual([["built"], { run: 1, reused: 0 }]);
  expect((await build("--check")).code).toBe(0);
  const lock = () =>
    JSON.parse(readFileSync(join(cwd, "qc.lock.json"), "utf8")) as { code: string; artifacts: Record<string, { files: object }> };
  const before = lock();
  appendFileSync(join(tool, "dist/ptq/ranges.js"), "\n// a later version\n");
  expect((await build("--check")).code).toBe(3);
  expect(states(await build())).toEqual([["built"], { run: 1, reused: 0 }]);
  expect(lock().code).not.toBe(before.code);
  // What changed was a comment.
  expect(lock().artifacts["digits.portable.int8"]!.files).toEqual(before.artifacts["digits.portable.int8"]!.files);
}, 120_000);

test("what a recipe file says decides, and its path is the config's", async () => {
  const cwd = workplace("portable");
  writeFileSync(join(cwd, "mine.yaml"), "base: int8\nskip: ['op:Gemm']\n");
  writeFileSync(join(cwd, "qc.yaml"), CONFIG("portable").replace("recipes: [int8]", "recipes: [./mine.yaml]"));
  const build = (...more: string[]) => qc(["build", join(cwd, "qc.yaml"), "--json", "--quiet", ...more]);
  const cold = await build();
  expect(states(cold), cold.stderr).toEqual([["built"], { run: 1, reused: 0 }]);
  expect(filesIn(join(cwd, "artifacts"))).toContain("digits.portable.mine.onnx");
  expect((await build("--check")).code).toBe(0);
  writeFileSync(join(cwd, "mine.yaml"), "base: int8\n");
  expect((await build("--check")).code).toBe(3);
  // Statistics know nothing of recipes.
  expect(states(await build())).toEqual([["built"], { run: 0, reused: 1 }]);
}, 120_000);
