import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { OutputSet, writeAtomic } from "../../src/io/atomic.ts";
import { hmacSha256, sha256 } from "../../src/io/hash.ts";
import { externalSource, fileSource, memorySource, readFile } from "../../src/io/source.ts";

const folder = mkdtempSync(join(tmpdir(), "qc-io-"));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

function codeOf(f: () => unknown): string {
  try {
    f();
  } catch (e) {
    if (e instanceof QcError) return e.diagnostics[0]!.code;
    throw e;
  }
  return "nothing thrown";
}

describe("sources", () => {
  test("read by offset, and refuse what is not there", () => {
    writeFileSync(at("a"), "0123456789");
    for (const s of [fileSource(at("a")), memorySource(readFile(at("a")))]) {
      expect(s.size).toBe(10);
      expect(Buffer.from(s.read(3, 4)).toString()).toBe("3456");
      expect(s.read(10, 0)).toHaveLength(0);
      for (const [o, n] of [
        [8, 3],
        [-1, 2],
        [0, 11],
        [0.5, 1],
        [Number.NaN, 1],
        [2 ** 60, 1],
      ] as const)
        expect(codeOf(() => s.read(o, n))).toBe("io/malformed");
    }
  });

  test("an open source keeps what it opened when the file is replaced", () => {
    writeFileSync(at("b"), "old");
    const s = fileSource(at("b"));
    writeAtomic(at("b"), "new");
    expect(Buffer.from(s.read(0, 3)).toString()).toBe("old");
    expect(readFileSync(at("b"), "utf8")).toBe("new");
  });

  test("folders, pipes, devices and absent files are named", () => {
    execFileSync("mkfifo", [at("pipe")]);
    expect(codeOf(() => readFile(folder))).toBe("io/not-a-file");
    expect(codeOf(() => readFile(at("pipe")))).toBe("io/not-a-file");
    expect(codeOf(() => readFile("/dev/zero"))).toBe("io/not-a-file");
    expect(codeOf(() => readFile(at("none")))).toBe("io/not-found");
    expect(codeOf(() => readFile(at("a/below")))).toBe("io/not-found");
  });
});

describe("external data stays in the folder", () => {
  const inner = at("model");
  mkdirSync(join(inner, "sub"), { recursive: true });
  writeFileSync(join(inner, "sub", "w"), "w");
  writeFileSync(at("secret"), "s");
  symlinkSync(at("secret"), join(inner, "link"));
  symlinkSync(join(inner, "sub", "w"), join(inner, "fine"));
  symlinkSync(folder, join(inner, "up"));
  symlinkSync("/dev/zero", join(inner, "zero"));

  test.each(["sub/w", "./sub/w", "fine"])("%s is read", (l) => expect(externalSource(inner, l).size).toBe(1));
  test.each([
    "../secret",
    "sub/../../secret",
    "/etc/passwd",
    "link",
    "up/secret",
    "..",
    ".",
    "",
    "a\0b",
    "C:\\x",
    "\\\\host\\x",
    "sub\\..\\..\\secret",
    "zero",
  ])("%j is refused", (l) => expect(codeOf(() => externalSource(inner, l))).toBe("io/escape"));
  test("a folder or an absent file is named", () => {
    expect(codeOf(() => externalSource(inner, "sub"))).toBe("io/not-a-file");
    expect(codeOf(() => externalSource(inner, "absent"))).toBe("io/not-found");
  });
});

describe("atomic output", () => {
  test("a failure between chunks leaves the old file and no other", () => {
    const dir = mkdtempSync(join(folder, "d"));
    writeAtomic(join(dir, "x"), "old");
    const broken = function* () {
      yield new Uint8Array(100_000);
      throw new Error("interrupted");
    };
    expect(() => writeAtomic(join(dir, "x"), broken())).toThrow("interrupted");
    expect(readFileSync(join(dir, "x"), "utf8")).toBe("old");
    expect(readdirSync(dir)).toEqual(["x"]);
  });

  test("a set appears in order, or not at all", () => {
    const dir = mkdtempSync(join(folder, "d"));
    const set = new OutputSet();
    set.write(join(dir, "data"), "1");
    set.write(join(dir, "model"), "2");
    expect(readdirSync(dir).every((n) => n.startsWith("."))).toBe(true);
    set.commit();
    set.discard();
    expect(readdirSync(dir)).toEqual(["data", "model"]);
    const other = new OutputSet();
    other.write(join(dir, "data"), "3");
    other.discard();
    expect(readFileSync(join(dir, "data"), "utf8")).toBe("1");
    expect(readdirSync(dir)).toEqual(["data", "model"]);
  });

  test("what a killed process left is removed, what a living one writes is not", () => {
    const dir = mkdtempSync(join(folder, "d"));
    // No process has this number: it is above the kernel's maximum.
    writeFileSync(join(dir, ".x.99999999.0.qc-tmp"), "dead");
    writeFileSync(join(dir, `.x.${process.ppid}.0.qc-tmp`), "alive");
    writeFileSync(join(dir, ".y.99999999.0.qc-tmp"), "another target");
    writeAtomic(join(dir, "x"), "new");
    expect(readdirSync(dir).sort()).toEqual([`.x.${process.ppid}.0.qc-tmp`, ".y.99999999.0.qc-tmp", "x"]);
  });

  test("a disk that takes no more leaves the old file", () => {
    const dir = mkdtempSync(join(folder, "d"));
    const path = join(dir, "x");
    writeAtomic(path, "old");
    // The system's limit on a file's size fails a write in the middle, as a full disk does.
    const atomic = resolve(import.meta.dirname, "../../dist/io/atomic.js");
    const script = `import(${JSON.stringify(atomic)}).then((m) => m.writeAtomic(${JSON.stringify(path)}, new Uint8Array(5e6))).catch((e) => console.log(e.message))`;
    const out = execFileSync("sh", ["-c", 'ulimit -f 2000; exec "$0" -e "$1"', process.execPath, script], { encoding: "utf8" });
    expect(out).toContain("EFBIG");
    expect(out).toContain("Check the folder, its permissions and the free space");
    expect(readFileSync(path, "utf8")).toBe("old");
    expect(readdirSync(dir)).toEqual(["x"]);
  });

  test("an unwritable place is an error that names it", () => {
    writeFileSync(at("file"), "");
    expect(codeOf(() => writeAtomic(at("file/below"), "x"))).toBe("io/write-failed");
    expect(codeOf(() => writeAtomic("/proc/nothing/x", "x"))).toBe("io/write-failed");
    mkdirSync(at("taken"));
    writeFileSync(at("taken/inner"), "");
    expect(codeOf(() => writeAtomic(at("taken"), "x"))).toBe("io/write-failed");
    expect(readdirSync(folder).filter((n) => n.includes("qc-tmp"))).toEqual([]);
  });
});

test("hashes are SHA-256, of parts as of the whole", () => {
  const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  expect(sha256("abc")).toBe(abc);
  expect(sha256([Uint8Array.of(97), Uint8Array.of(98, 99)])).toBe(abc);
  // RFC 4231, case 2.
  expect(hmacSha256("Jefe", "what do ya want for nothing?")).toBe("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
});
