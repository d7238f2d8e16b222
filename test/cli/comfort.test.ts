import { execFile, execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeAll, expect, test } from "vitest";
import { VERSION } from "../../src/version.ts";
import { freshFolder, main, qc, root } from "../e2e/qc.ts";

const run = promisify(execFile);
const folder = freshFolder();
const scripts: Record<string, string> = {};
beforeAll(async () => {
  for (const shell of ["bash", "zsh", "fish"]) {
    const r = await qc(["completion", shell]);
    expect(r.code, r.stderr).toBe(0);
    scripts[shell] = join(folder, `qc.${shell}`);
    writeFileSync(scripts[shell], r.stdout);
  }
});

/** What bash would offer for these words; the last one is being typed. */
async function offers(...words: string[]): Promise<string[]> {
  const line = `source '${scripts["bash"]}'; COMP_WORDS=(qc ${words.map((w) => `'${w}'`).join(" ")}); COMP_CWORD=${words.length}; _qc; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout } = await run("bash", ["-c", line], { cwd: folder });
  return stdout.split("\n").filter((w) => w !== "");
}

test("bash completes commands, their second words, options and the values of choices", async () => {
  expect(await offers("qu")).toEqual(["quantize"]);
  expect((await offers("stats", "")).filter((w) => !w.startsWith("qc."))).toEqual(
    expect.arrayContaining(["show", "merge", "table", "diff"]),
  );
  expect(await offers("quantize", "m.onnx", "--tar")).toEqual(["--target"]);
  expect(await offers("quantize", "m.onnx", "--target", "ten")).toEqual(["tensorrt"]);
  expect(await offers("stats", "merge", "--o")).toEqual(["--out"]);
  expect(await offers("check", "a.onnx", "--attack", "")).toEqual(["fgsm", "pgd"]);
  expect(await offers("quantize", "qc.f")).toEqual(["qc.fish"]);
});

const has = (shell: string) => {
  try {
    execFileSync(shell, ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
};
test.each(["bash", "zsh", "fish"])("the script for %s is one that it reads (where it is installed)", async (shell) => {
  if (has(shell)) await run(shell, ["-n", scripts[shell]!]);
  expect((await qc(["completion", "powershell"])).stderr).toContain("bash, zsh, fish");
});

test("--version tells what runs, and loads no engine for it", async () => {
  const r = await qc(["--version"]);
  expect(r.stdout).toMatch(
    new RegExp(
      `^${VERSION.replace(/\./g, "\\.")} \\(onnxruntime \\d+\\.\\d+\\.\\d+, node ${process.versions.node}, ${process.platform} ${process.arch}\\)\n$`,
    ),
  );
  const doctor = JSON.parse((await qc(["doctor", "--json"])).stdout) as {
    onnxruntime: string;
    providers: { usable: string[] };
    machine: object;
  };
  expect(r.stdout).toContain(`onnxruntime ${doctor.onnxruntime},`);
  expect(doctor.providers.usable).toContain("cpu");
});

test("NO_COLOR wins over a terminal that asks for colours", async () => {
  const ask = (env: NodeJS.ProcessEnv) =>
    new Promise<string>((done) =>
      execFile(process.execPath, [main, "quantise"], { cwd: root, env: { ...process.env, NO_COLOR: "", ...env } }, (_, __, stderr) =>
        done(stderr),
      ),
    );
  const esc = String.fromCharCode(27);
  expect(await ask({ FORCE_COLOR: "1" })).toContain(esc);
  expect(await ask({ FORCE_COLOR: "1", NO_COLOR: "1" })).not.toContain(esc);
  expect(await ask({ FORCE_COLOR: "1" })).toContain('Did you mean "quantize"?');
});
