import { execFile } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { parseBuild } from "../../src/build-config.ts";
import { parseArguments } from "../../src/cli/parser.ts";
import { parseGate } from "../../src/verify/gate/index.ts";
import { freshFolder, main, qc, root } from "./qc.ts";

const run = promisify(execFile);
const at = (f: string) => join(root, "examples", f);
const read = (f: string) => readFileSync(at(f), "utf8");

/** Command lines of the program in a text, as words: `qc …`, `npx qc …`, `node …/cli/main.js …`, up to the end of the shell command. */
function commandsIn(text: string): string[][] {
  const joined = text.replace(/\\\n\s*/g, " ");
  const out: string[][] = [];
  for (const [, line] of joined.matchAll(/(?:^|[\s"'`(;|&])(?:npx )?(?:qc|node \/qc\/dist\/cli\/main\.js) ([a-z][^\n;|&`)>]*)/gm)) {
    const words = line!
      .replace(/\s+#.*$/, "")
      .replace(/\$\(\([^)]*\)?/g, "1")
      .match(/(?:"[^"]*"?|'[^']*'|[^\s"'])+/g);
    if (words) out.push(words.map((w) => w.replace(/["']/g, "").replace(/\\?\$\{?\w+\}?/g, "1")));
  }
  return out;
}

/** Files whose command lines people copy. */
const TEXTS = [
  ...readdirSync(join(root, "examples")).map((f) => `examples/${f}`),
  ...readdirSync(join(root, "docs"))
    .filter((f) => f.endsWith(".md"))
    .map((f) => `docs/${f}`),
  "README.md",
];

test("every qc command line of the examples and the documentation is one that the parser takes", () => {
  let found = 0;
  const wrong: string[] = [];
  for (const file of TEXTS) {
    const text = readFileSync(join(root, file), "utf8");
    // In prose only what stands in code; kubernetes folds its lines.
    const code = file.endsWith(".md")
      ? [...text.matchAll(/^```(\w*)[^\n]*\n([\s\S]*?)^```$/gm)].map((m) => (m[1] === "sh" ? m[2]! : "")).join("\n")
      : file.endsWith("kubernetes.yaml")
        ? parseAllDocuments(text)
            .map((d) => (d.toJS() as KubeJob).spec.template.spec.containers[0]!.args.join("\n"))
            .join("\n")
        : text.replace(/^# +(?=[a-z])/gm, "");
    for (const words of commandsIn(code)) {
      found++;
      try {
        parseArguments(words);
      } catch (e) {
        wrong.push(`${file}: qc ${words.join(" ")}: ${(e as Error).message}`);
      }
    }
  }
  expect(wrong).toEqual([]);
  // README, tutorial, Slurm (3), Kubernetes (3), the workflow (2) and the container file.
  expect(found).toBeGreaterThan(25);
  expect(commandsIn("run: npx qc chekc a.onnx")).toEqual([["chekc", "a.onnx"]]);
  expect(() => parseArguments(["chekc", "a.onnx"])).toThrow(/Did you mean|chekc/);
});

interface KubeJob {
  readonly kind: string;
  readonly spec: {
    readonly completions?: number;
    readonly template: {
      readonly spec: { readonly containers: readonly { readonly command: readonly string[]; readonly args: readonly string[] }[] };
    };
  };
}
interface Workflow {
  readonly jobs: Readonly<
    Record<string, { readonly "runs-on": string; readonly steps: readonly { readonly uses?: string; readonly run?: string }[] }>
  >;
}

test("they parse, and what they name is there", async () => {
  const build = parseBuild(read("qc.yaml"), "qc.yaml");
  expect(existsSync(at(build.models["digits"]!.file))).toBe(true);
  expect(parseGate(read("gate.yaml"), "gate.yaml").accuracy).toMatchObject({ most: 1, unit: "points", severity: "P1" });
  const workflow = parse(read("github-actions.yml")) as Workflow;
  for (const job of Object.values(workflow.jobs)) {
    expect(job["runs-on"]).toBe("ubuntu-latest");
    for (const step of job.steps) expect([step.uses, step.run].filter((x) => x !== undefined)).toHaveLength(1);
    for (const { run: line } of job.steps) if (line !== undefined) await run("bash", ["-n", "-c", line.replace(/\$\{\{.*?\}\}/g, "x")]);
  }
  const container = read("Containerfile");
  const copied = [...container.matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap((m) => m[1]!.split(" "));
  expect(copied).toContain("package-lock.json");
  for (const f of copied) expect(existsSync(join(root, f)), f).toBe(true);
  for (const [, f] of container.matchAll(/^COPY --from=build \/qc\/(\S+)/gm)) expect(existsSync(join(root, f!)), f).toBe(true);
  await run("bash", ["-n", at("slurm.sh")]);
  for (const d of parseAllDocuments(read("kubernetes.yaml"))) {
    expect(d.errors).toEqual([]);
    const job = d.toJS() as KubeJob;
    expect(job.kind).toBe("Job");
    await run("bash", ["-n", "-c", job.spec.template.spec.containers[0]!.args[0]!]);
  }
});

/** A folder with a model, its set, and programs that stand for `qc`, `node /qc/…` and `sbatch`. */
function site(): { readonly cwd: string; readonly env: NodeJS.ProcessEnv } {
  const cwd = freshFolder();
  copyFileSync(join(root, "calibration-sets/digits/model.onnx"), join(cwd, "model.onnx"));
  cpSync(join(root, "calibration-sets/digits"), join(cwd, "digits"), { recursive: true });
  copyFileSync(join(cwd, "digits/set.yaml"), join(cwd, "set.yaml"));
  for (const f of readdirSync(join(cwd, "digits"))) if (!existsSync(join(cwd, f))) copyFileSync(join(cwd, "digits", f), join(cwd, f));
  const bin = join(cwd, "bin");
  mkdirSync(bin);
  const program = (name: string, body: string) => {
    writeFileSync(join(bin, name), `#!/bin/bash\n${body}\n`);
    chmodSync(join(bin, name), 0o755);
  };
  program("qc", `exec "${process.execPath}" "${main}" "$@"`);
  // The container's path of the program; everything else is node itself.
  program(
    "node",
    `if [ "$1" = /qc/dist/cli/main.js ]; then shift; exec "${process.execPath}" "${main}" "$@"; fi; exec "${process.execPath}" "$@"`,
  );
  program(
    "sbatch",
    `while [ $# -gt 0 ]; do case "$1" in --array=*) array=\${1#*=};; --wrap) shift; wrap=$1;; esac; shift; done
if [ -n "$array" ]; then for i in $(seq \${array%-*} \${array#*-}); do SLURM_ARRAY_TASK_ID=$i bash -ec "$wrap" >&2 || exit 1; done; echo 7; else bash -ec "$wrap" >&2; fi`,
  );
  return { cwd, env: { ...process.env, PATH: `${bin}:${process.env["PATH"]}`, NO_COLOR: "1" } };
}
const whole = async (cwd: string) => {
  const r = await qc(["calibrate", "model.onnx", "--data", "set.yaml", "-o", "whole.stats"], { cwd });
  expect(r.code, r.stderr).toBe(0);
  return readFileSync(join(cwd, "whole.stats"));
};

test("Slurm: the shards of an array merge to the statistics of one run, and give a model", async () => {
  const { cwd, env } = site();
  await run("sh", [at("slurm.sh")], { cwd, env: { ...env, MODEL: "model.onnx", SET: "set.yaml", SHARDS: "3" } });
  expect(readdirSync(join(cwd, "shards")).sort()).toEqual(["1.stats", "2.stats", "3.stats"]);
  expect(readFileSync(join(cwd, "model.stats")).equals(await whole(cwd))).toBe(true);
  expect(existsSync(join(cwd, "model.int8.onnx"))).toBe(true);
}, 120_000);

test("Kubernetes: so do the pods of an indexed job", async () => {
  const { cwd, env } = site();
  const [shard, merge] = parseAllDocuments(read("kubernetes.yaml")).map((d) => d.toJS() as KubeJob);
  const n = shard!.spec.completions!;
  const start = (job: KubeJob, index?: number) => {
    const { command, args } = job.spec.template.spec.containers[0]!;
    const more = index === undefined ? {} : { JOB_COMPLETION_INDEX: String(index) };
    // Three shards do; eight take as long as eight starts of the program.
    return run(command[0]!, [...command.slice(1), args.join(" ").replace(`/${n} `, "/3 ")], { cwd, env: { ...env, ...more } });
  };
  expect(shard!.spec.template.spec.containers[0]!.args[0]).toContain(`/${n} `);
  for (let i = 0; i < 3; i++) await start(shard!, i);
  await start(merge!);
  expect(readFileSync(join(cwd, "model.stats")).equals(await whole(cwd))).toBe(true);
  expect(existsSync(join(cwd, "model.int8.onnx"))).toBe(true);
}, 120_000);
