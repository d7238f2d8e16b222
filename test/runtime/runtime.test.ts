import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import { compiledUrl } from "../../src/runtime/protocol.ts";
import type { Feeds } from "../../src/runtime/types.ts";
import { accumulator, affine, bytesOf, feed, gather, slow, through, vector } from "./models.ts";

const runtime = createRuntime();
afterAll(() => runtime.close());
const fixture = new URL("./fold.fixture.mjs", import.meta.url).href;
const folder = mkdtempSync(join(tmpdir(), "qc-runtime-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function failure(p: Promise<unknown>): Promise<QcError> {
  const e = await p.then(
    () => undefined,
    (x: unknown) => x,
  );
  expect(e).toBeInstanceOf(QcError);
  return e as QcError;
}

describe("sessions", () => {
  test("inputs, outputs, runs in call order", async () => {
    const s = await runtime.open(bytesOf(affine()));
    expect(s.inputs).toEqual([{ name: "x", dtype: "float32", dims: ["N"] }]);
    expect(s.outputs).toEqual([{ name: "y", dtype: "float32", dims: ["N"] }]);
    const results = await Promise.all([1, 2, 3].map((v) => s.run(feed(v, 0))));
    expect(results.map((r) => Array.from(r["y"]!.data as Float32Array))).toEqual([
      [4, 2],
      [6, 2],
      [8, 2],
    ]);
    await s.release();
  });

  test("a view of a larger buffer is fed by itself, and the caller keeps it", async () => {
    const s = await runtime.open(bytesOf(affine()));
    const big = Float32Array.from({ length: 1000 }, (_, i) => i);
    const part = big.subarray(10, 12);
    const out = await s.run({ x: { dtype: "float32", dims: [2], data: part } });
    expect(Array.from(out["y"]!.data as Float32Array)).toEqual([22, 24]);
    expect(big[11]).toBe(11);
  });

  test("a model given as a path; the optimized graph is written", async () => {
    const path = join(folder, "affine.onnx");
    const optimizedPath = join(folder, "optimized.onnx");
    writeFileSync(path, bytesOf(affine()));
    const s = await runtime.open(path, { level: "all", optimizedPath });
    expect(existsSync(optimizedPath)).toBe(true);
    await s.release();
  });

  test("times and profiles", async () => {
    const s = await runtime.open(bytesOf(affine()), { profile: true });
    const times = await s.time(feed(1), 4);
    expect(times).toHaveLength(4);
    expect(times.every((t) => t >= 0 && t < 1000)).toBe(true);
    const rows = await s.profile();
    expect(rows.map((r) => [r.node, r.op, r.microseconds.length])).toEqual([
      ["add", "Add", 4],
      ["mul", "Mul", 4],
    ]);
  });

  test("float16 bit patterns pass unchanged", async () => {
    const m = affine();
    m.graph.inputs[0]!.type = { kind: "tensor", elem: "float16", shape: ["N"] };
    m.graph.outputs[0]!.type = { kind: "tensor", elem: "float16", shape: ["N"] };
    for (const n of ["one", "two"])
      m.graph.setData(m.graph.values.get(n)!, {
        dtype: "float16",
        shape: [1],
        byteLength: 2,
        bytes: () => Uint8Array.of(0, n === "one" ? 0x3c : 0x40),
      });
    const s = await runtime.open(bytesOf(m));
    const out = await s.run({ x: { dtype: "float16", dims: [1], data: Uint16Array.of(0x3c00) } });
    expect(out["y"]!.data).toEqual(Uint16Array.of(0x4400)); // (1 + 1) · 2
  });

  test("an output fed back as state", async () => {
    const s = await runtime.open(bytesOf(accumulator()), { state: { acc: "next" } });
    await s.run({ x: vector(5), acc: vector(100) });
    const second = await s.run({ x: vector(1) });
    const third = await s.run({ x: vector(2) }, ["next"]);
    expect([second, third].map((o) => (o["next"]!.data as Float32Array)[0])).toEqual([106, 108]);
  });
});

describe("folds", () => {
  test("run beside the session, in order, with memory of the feeds", async () => {
    const s = await runtime.open(bytesOf(affine()));
    async function* feeds(): AsyncGenerator<Feeds> {
      for (let i = 0; i < 20; i++) yield feed(i);
    }
    const r = (await s.fold(feeds(), { module: fixture, name: "sum", args: { output: "y" } })) as {
      total: Float64Array;
      order: number[][];
    };
    expect(r.total).toEqual(Float64Array.of(2 * (190 + 20)));
    expect(r.order).toEqual(Array.from({ length: 20 }, (_, i) => [i, i]));
  });

  test("pull few samples ahead", async () => {
    const s = await runtime.open(bytesOf(affine()));
    let pulled = 0;
    let most = 0;
    function* feeds(): Generator<Feeds> {
      for (let i = 0; i < 50; i++) {
        pulled++;
        yield feed(i);
        most = Math.max(most, pulled);
      }
    }
    const first = s.fold(feeds(), { module: fixture, name: "sum", args: { output: "y" } });
    await new Promise((r) => setImmediate(r));
    expect(pulled).toBeLessThan(10);
    await first;
    expect(most).toBe(50);
  });

  test("an error of the fold or of a feed ends it, and the source is told", async () => {
    const s = await runtime.open(bytesOf(affine()));
    let closed = false;
    function* feeds(): Generator<Feeds> {
      try {
        for (;;) yield feed(1);
      } finally {
        closed = true;
      }
    }
    await expect(s.fold(feeds(), { module: fixture, name: "failing", args: {} })).rejects.toThrow("the fold fails");
    expect(closed).toBe(true);
    await expect(s.fold([feed(1)], { module: fixture, name: "nothing", args: {} })).rejects.toThrow('exports no function "nothing"');
    expect(Array.from((await s.run(feed(1)))["y"]!.data as Float32Array)).toEqual([4]);
  });

  test("a pool folds disjoint samples side by side", async () => {
    const two = createRuntime({ workers: 2 });
    try {
      const pool = await two.openPool(bytesOf(affine()));
      expect(pool).toHaveLength(2);
      const parts = (await Promise.all(
        pool.map((s, k) => s.fold([feed(k), feed(k + 2)], { module: fixture, name: "sum", args: { output: "y" } })),
      )) as { total: Float64Array }[];
      expect(parts.map((p) => p.total[0])).toEqual([8, 12]);
    } finally {
      await two.close();
    }
  });

  test("source modules are mapped to their compiled twins", () => {
    expect(compiledUrl("file:///a/src/b/src/calibrate/fold.ts")).toBe("file:///a/src/b/dist/calibrate/fold.js");
    expect(compiledUrl("file:///a/x.mjs")).toBe("file:///a/x.mjs");
  });
});

describe("errors", () => {
  test("what is no model", async () => {
    expect((await failure(runtime.open(new Uint8Array(9), { label: "junk" }))).diagnostics[0]).toMatchObject({
      code: "runtime/load-failed",
      label: "junk",
    });
  });
  test("an operator without kernel names op and node", async () => {
    const m = affine();
    m.graph.nodes[1]!.op = "NoSuchOp";
    expect((await failure(runtime.open(bytesOf(m)))).diagnostics[0]).toMatchObject({
      code: "runtime/no-kernel",
      op: expect.stringContaining("NoSuchOp"),
    });
  });
  test("a run that fails names its node", async () => {
    const s = await runtime.open(bytesOf(gather()));
    const bad = await failure(s.run({ i: { dtype: "int64", dims: [1], data: BigInt64Array.of(9n) } }));
    expect(bad.diagnostics[0]).toMatchObject({ code: "runtime/run-failed", node: "look", op: "Gather" });
    expect((await s.run({ i: { dtype: "int64", dims: [1], data: BigInt64Array.of(2n) } }))["y"]!.data).toEqual(Float32Array.of(3));
  });
  test("feeds that do not fit", async () => {
    const s = await runtime.open(bytesOf(affine()));
    const of = async (f: Feeds) => (await failure(s.run(f))).message;
    expect(await of({})).toContain('Input "x"');
    expect(await of({ x: vector(1), z: vector(1) })).toContain("the model has no such input");
    expect(await of({ x: { dtype: "float64", dims: [1], data: Float64Array.of(1) } })).toContain("float64 was given, float32 is expected");
    expect(await of({ x: { dtype: "float32", dims: [3], data: Float32Array.of(1) } })).toContain('Input "x"');
    expect((await failure(s.run(feed(1), ["nope"]))).diagnostics[0]).toMatchObject({ code: "runtime/no-output", output: "nope" });
  });
  test.each([
    ["int4", 22],
    ["uint4", 21],
    ["bfloat16", 16],
    ["float8e4m3fn", 17],
  ])("an output of type %s is refused instead of ending the process", async (dtype, code) => {
    const m = through(code);
    m.graph.outputs.length = 0;
    const inner = m.graph.values.get("inner")!;
    inner.type = { kind: "tensor", elem: dtype as "int4", shape: ["N"] };
    m.graph.addOutput(inner);
    expect((await failure(runtime.open(bytesOf(m)))).diagnostics[0]).toMatchObject({ code: "runtime/unsupported-io", dtype });
  });
  test("a provider that is not here", async () => {
    expect((await failure(runtime.open(bytesOf(affine()), { provider: "cuda" }))).diagnostics[0]).toMatchObject({
      code: "runtime/no-provider",
      provider: "cuda",
    });
  });
});

describe("ending", () => {
  test("close rejects what is outstanding, waits for the native call, and refuses more", async () => {
    const r = createRuntime();
    const s = await r.open(bytesOf(slow(40)));
    const x = { dtype: "float32", dims: [512, 512], data: new Float32Array(512 * 512).fill(1 / 512) } as const;
    // The first is running when it is closed (or, on a fast machine, over); the others wait.
    const first = s.run({ x }).catch(() => {});
    const runs = [1, 2, 3].map(() => s.run({ x })).map((p) => failure(p));
    await new Promise((done) => setTimeout(done, 5));
    await r.close();
    await first;
    for (const e of await Promise.all(runs)) expect(e.diagnostics[0]).toMatchObject({ code: "runtime/closed" });
    expect((await failure(r.open(bytesOf(affine())))).diagnostics[0]).toMatchObject({ code: "runtime/closed" });
  });

  test("a signal closes it with its reason", async () => {
    const stop = new AbortController();
    const r = createRuntime({ signal: stop.signal });
    const open = r.open(bytesOf(affine()));
    stop.abort(new Error("enough"));
    await expect(open).rejects.toThrow("enough");
    await r.close();
  });

  /** Runs a script in a fresh process; `process.exit` in the middle of a native call must not dump core. */
  function script(body: string, trips = 60): Promise<{ code: number | null; signal: string | null; out: string }> {
    writeFileSync(join(folder, "slow.onnx"), bytesOf(slow(trips)));
    const index = compiledUrl(new URL("../../src/runtime/index.ts", import.meta.url).href);
    const text = `
      import { createRuntime } from ${JSON.stringify(index)};
      const r = createRuntime();
      const s = await r.open(${JSON.stringify(join(folder, "slow.onnx"))});
      const x = { dtype: "float32", dims: [512, 512], data: new Float32Array(512 * 512).fill(1 / 512) };
      ${body}`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", text], { stdio: ["ignore", "pipe", "pipe"] });
    let out = "";
    child.stdout.on("data", (d: Buffer) => (out += d.toString()));
    child.stderr.on("data", (d: Buffer) => (out += d.toString()));
    return new Promise((done) => child.on("exit", (code, signal) => done({ code, signal, out })));
  }

  test("process.exit during a run ends with its own code", async () => {
    const r = await script("s.run({ x }).catch(() => {}); setTimeout(() => process.exit(5), 50);");
    expect(r).toEqual({ code: 5, signal: null, out: "" });
  });
  test("Ctrl-C during a run of minutes ends at once, as the signal would", async () => {
    const interrupted = "process.once('SIGINT', async () => { await r.close(); process.exit(130); }); process.kill(process.pid, 'SIGINT');";
    const start = performance.now();
    const r = await script(`s.run({ x }).catch(() => {}); setTimeout(() => { ${interrupted} }, 50);`, 100_000);
    expect(r).toEqual({ code: null, signal: "SIGINT", out: "" });
    expect(performance.now() - start).toBeLessThan(15_000);
  });
  test("a process that forgets to close ends by itself, but not before its runs", async () => {
    const r = await script('s.run({ x }).then(() => console.log("done"));');
    expect(r).toEqual({ code: 0, signal: null, out: "done\n" });
  });
});
