// node bench/kill.mjs [--rounds 100] [--seed 1] [--only quantize|calibrate|build]
// kill -9 at random moments of quantize, calibrate and build, over outputs of an earlier run with another seed. Afterwards each file must be
// the earlier one or the new one, whole, and the next run must end with the bytes of a run that nobody killed, and leave nothing else behind.
// Half of the moments are drawn from the whole run, half from its last fifth, where files are written. Exit 1 when a rule was broken.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import { loadModel } from "../dist/graph/onnx/index.js";
import { readPlan } from "../dist/plan/io.js";
import { generator } from "./fuzz/mutate.mjs";

const { values: options } = parseArgs({
  options: { rounds: { type: "string" }, seed: { type: "string" }, only: { type: "string" } },
});
const rounds = Number(options.rounds ?? 100);
const random = generator(Number(options.seed ?? 1));
const root = resolve(import.meta.dirname, "..");
const CLI = join(root, "dist/cli/main.js");
const digits = join(root, "calibration-sets/digits");
const work = mkdtempSync(join(tmpdir(), "qc-kill-"));
const out = join(work, "out");

const common = ["--data", join(digits, "set.yaml"), "--samples", "64"];
const COMMANDS = {
  quantize: (version) => [
    "quantize",
    join(digits, "model.onnx"),
    ...common,
    "--effort",
    "fast",
    "--seed",
    version,
    "-o",
    join(out, "q.onnx"),
    "-q",
  ],
  calibrate: (version) => ["calibrate", join(digits, "model.onnx"), ...common, "--seed", version, "-o", join(out, "x.stats"), "-q"],
  build: (version) => {
    writeFileSync(
      join(work, "qc.yaml"),
      `models:\n  digits: { file: ${join(digits, "model.onnx")}, data: ${join(digits, "set.yaml")} }\n` +
        `targets: [portable, ort-cpu]\nrecipes: [int8]\nout: ${out}\ncache: ${join(work, "cache", version)}\n` +
        `options: { seed: ${version}, samples: 64, effort: fast }\n`,
    );
    // Nothing is reused, or every other round would only copy.
    rmSync(join(work, "cache", version), { recursive: true, force: true });
    return ["build", join(work, "qc.yaml"), "-q"];
  },
};

/** Runs the command; kills it after `ms` unless it has ended. Resolves to whether it was killed and how long it ran. */
function run(args, ms) {
  return new Promise((done, fail) => {
    const start = performance.now();
    const child = spawn(process.execPath, [CLI, ...args], { stdio: ["ignore", "ignore", "pipe"] });
    let text = "";
    child.stderr.on("data", (d) => (text += d));
    const timer = ms === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), ms);
    child.on("exit", (code, signal) => {
      clearTimeout(timer);
      if (signal === null && code !== 0) fail(new Error(`exit ${code} of qc ${args.join(" ")}\n${text}`));
      else done({ killed: signal !== null, ms: performance.now() - start });
    });
  });
}

/** Path → hash of every file; reports hold times, so of them only whether they are whole. */
function state() {
  if (!existsSync(out)) return new Map();
  const files = readdirSync(out, { recursive: true, withFileTypes: true }).filter((e) => e.isFile());
  return new Map(
    files.map((e) => {
      const path = join(e.parentPath, e.name);
      const bytes = readFileSync(path);
      const name = relative(out, path);
      if (name.includes(".qc-tmp")) return [name, "temporary"];
      if (name.endsWith(".report.json") || name.endsWith(".lock.json") || name.endsWith("report.html"))
        return [name, whole(name, bytes) ? "whole" : "PART"];
      return [name, createHash("sha256").update(bytes).digest("hex")];
    }),
  );
}

function whole(name, bytes) {
  if (name.endsWith(".html")) return bytes.toString().trimEnd().endsWith("</html>");
  try {
    JSON.parse(bytes.toString());
    return true;
  } catch {
    return false;
  }
}

let broken = 0;
const fail = (command, round, what) => {
  broken++;
  console.log(`${command} round ${round}: ${what}`);
};

for (const [command, argsOf] of Object.entries(COMMANDS)) {
  if (options.only !== undefined && options.only !== command) continue;
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  // What two undisturbed runs write, and how long they take.
  const versions = ["1", "2"];
  const want = [];
  let typical = 0;
  for (const v of versions) {
    typical = Math.max(typical, (await run(argsOf(v))).ms);
    want.push(state());
  }
  let killed = 0;
  const found = { old: 0, new: 0, mixed: 0 };
  let current = 1;
  for (let round = 0; round < rounds; round++) {
    const next = 1 - current;
    const share = random() < 0.5 ? random() : 0.8 + 0.25 * random();
    const r = await run(argsOf(versions[next]), share * typical);
    if (r.killed) killed++;
    else typical = 0.8 * typical + 0.2 * r.ms;
    const now = state();
    let [olds, news] = [0, 0];
    for (const [name, hash] of now) {
      if (hash === "temporary") continue;
      const [a, b] = [want[current].get(name), want[next].get(name)];
      if (hash !== a && hash !== b) fail(command, round, `${name} is neither the earlier nor the new file`);
      else if (a !== b) hash === a ? olds++ : news++;
    }
    for (const name of want[current].keys()) if (!now.has(name)) fail(command, round, `${name} is gone`);
    found[olds > 0 && news > 0 ? "mixed" : news > 0 ? "new" : "old"]++;
    for (const name of now.keys()) {
      if (name.endsWith(".onnx")) loadModel(join(out, name));
      // A plan and its tensors carry each other's hash: two that do not belong together are refused by name.
      if (name.endsWith(".plan.json") && !(olds > 0 && news > 0)) readPlan(join(out, name));
    }
    await run(argsOf(versions[next]));
    const end = state();
    for (const [name, hash] of want[next]) if (end.get(name) !== hash) fail(command, round, `the next run left another ${name}`);
    for (const name of end.keys()) if (!want[next].has(name)) fail(command, round, `the next run left ${name}`);
    current = next;
  }
  console.log(
    `${command.padEnd(10)} ${rounds} moments, ${killed} killed: old files ${found.old}, new ${found.new}, some of each ${found.mixed}; a run takes ${(typical / 1000).toFixed(1)} s`,
  );
}
rmSync(work, { recursive: true, force: true });
console.log(broken === 0 ? "no rule broken" : `${broken} times a rule was broken`);
process.exitCode = broken === 0 ? 0 : 1;
