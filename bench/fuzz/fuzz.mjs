// node bench/fuzz/fuzz.mjs [--count 2000] [--seed 1] [--only PART] [--from MUTANT]
// Reads seeded mutants of files of every kind. Each must be read, or refused by an error that names its place: no crash, no mutant over
// 10 seconds, no memory over 3 times the file and 200 MB, no file left behind. Prints a table; exit 1 when a mutant broke a rule, with
// the command that repeats it.
import { fork } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { makeSeeds } from "./seeds.mjs";

const { values: options } = parseArgs({
  options: { count: { type: "string" }, seed: { type: "string" }, only: { type: "string" }, from: { type: "string" } },
});
const count = Number(options.count ?? 2000);
const seed = Number(options.seed ?? 1);
const from = Number(options.from ?? 0);
const SECONDS = 10;

const work = mkdtempSync(join(tmpdir(), "qc-fuzz-"));
const folder = join(work, "seeds");
await makeSeeds(folder);
const files = readdirSync(folder, { recursive: true, withFileTypes: true })
  .filter((e) => e.isFile() && !e.name.includes("report") && e.name !== "q.onnx")
  .map((e) => join(e.parentPath, e.name))
  .sort();
const chosen = files.filter((f) => options.only === undefined || f.includes(options.only));

let broken = 0;
for (const file of chosen) {
  const started = performance.now();
  const outcomes = new Map();
  const note = (i, outcome) => {
    const rule = outcome.split(" ")[0];
    outcomes.set(rule, (outcomes.get(rule) ?? 0) + 1);
    if (rule === "read" || rule === "refused") return;
    broken++;
    console.log(
      `${basename(file)} mutant ${i}: ${outcome}\n  node bench/fuzz/fuzz.mjs --seed ${seed} --only ${basename(file)} --from ${i} --count 1`,
    );
  };
  for (let next = from; next < from + count; ) next = await run(file, next, from + count, note);
  const seconds = (performance.now() - started) / 1000;
  const text = [...outcomes].map(([k, n]) => `${k} ${n}`).join("  ");
  console.log(`${basename(file).padEnd(28)} ${text.padEnd(36)} ${seconds.toFixed(1)} s`);
}
rmSync(work, { recursive: true, force: true });
console.log(broken === 0 ? `${chosen.length * count} mutants, no rule broken` : `${broken} mutants broke a rule`);
process.exitCode = broken === 0 ? 0 : 1;

/** One process over the mutants from `first` on; resolves to the next mutant, after the end or after one that killed or hung it. */
function run(file, first, end, note) {
  return new Promise((resolve) => {
    const scratch = join(work, "scratch");
    const child = fork(
      join(import.meta.dirname, "worker.mjs"),
      [file, JSON.stringify(files), scratch, String(seed), String(first), String(end)],
      {
        execArgv: ["--max-old-space-size=1024"],
      },
    );
    let current = first;
    let running = false;
    let timer;
    child.on("message", (m) => {
      clearTimeout(timer);
      if (m.start !== undefined) {
        current = m.start;
        running = true;
        timer = setTimeout(() => {
          note(current, `HANG over ${SECONDS} s`);
          running = false;
          child.kill("SIGKILL");
        }, SECONDS * 1000);
      } else if (m.end !== undefined) {
        running = false;
        note(m.end, m.outcome);
        current = m.end + 1;
      } else if (m.left.length > 0) note(current, `LEFT ${m.left.join(" ")}`);
    });
    // A message may come in after the exit: the end is when both have been.
    let status;
    let open = true;
    const finish = () => {
      if (status === undefined || open) return;
      clearTimeout(timer);
      if (running) note(current, `DIED exit ${status.code} signal ${status.signal}`);
      resolve(running || current < end ? current + 1 : end);
    };
    child.on("exit", (code, signal) => {
      status = { code, signal };
      finish();
    });
    child.on("disconnect", () => {
      open = false;
      finish();
    });
  });
}
