import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { apply, qatImport, qatInsert, qatTrain, saveModel } from "../../src/index.ts";
import { writeNpz } from "../../src/io/npz.ts";
import { smallNet, smallSet } from "./net.ts";

/** The functions behind `qc qat train | insert | import`, with files as a user has them. */
let folder: string;
const file = (name: string) => join(folder, name);
const STEPS = { steps: 20, batch: 16, rate: 0.01, effort: "fast" } as const;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "qc-qat-"));
  saveModel(smallNet(), file("net.onnx"));
  const set = smallSet(64, 16);
  const data = new Float32Array(80 * 192);
  for (let i = 0; i < 80; i++) data.set((await set.sample(i)).feeds["x"]!.data as Float32Array, i * 192);
  writeFileSync(file("net.npz"), Buffer.concat(writeNpz([["x", { dtype: "float32", shape: [80, 3, 8, 8], data }]])));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("train writes a model and its plan; killed and resumed it writes the same bytes; apply makes the model from the plan", async () => {
  const whole = await qatTrain(file("net.onnx"), { data: file("net.npz"), out: file("a.onnx"), ...STEPS });
  expect(whole.files.map((f) => f.slice(folder.length + 1))).toEqual(["a.onnx", "a.plan.json", "a.plan.tensors"]);
  expect(whole.result.best.errorDb).toBeGreaterThanOrEqual(whole.result.start.errorDb);
  expect(existsSync(file("a.qat.state")), "the state of a finished run goes").toBe(false);

  const stop = new AbortController();
  const seen: number[] = [];
  const killed = qatTrain(file("net.onnx"), {
    data: file("net.npz"),
    out: file("b.onnx"),
    ...STEPS,
    steps: 120,
    signal: stop.signal,
    onTrain: (p) => {
      seen.push(p.step);
      if (p.step >= 60) stop.abort(new Error("killed"));
    },
  });
  await expect(killed).rejects.toThrow("killed");
  expect(seen[0], "the first step alone says how long it will take").toBe(1);
  expect(existsSync(file("b.qat.state"))).toBe(true);
  expect(existsSync(file("b.onnx"))).toBe(false);
  const steps: number[] = [];
  await qatTrain(file("net.onnx"), {
    data: file("net.npz"),
    out: file("b.onnx"),
    ...STEPS,
    steps: 120,
    resume: true,
    onTrain: (p) => steps.push(p.step),
  });
  expect(steps[0], "it went on, it did not begin anew").toBeGreaterThan(50);
  await qatTrain(file("net.onnx"), { data: file("net.npz"), out: file("c.onnx"), ...STEPS, steps: 120 });
  for (const name of ["onnx", "plan.tensors"]) expect(readFileSync(file(`b.${name}`)).equals(readFileSync(file(`c.${name}`)))).toBe(true);

  await apply(file("net.onnx"), { plan: file("a.plan.json"), out: file("applied.onnx") });
  expect(readFileSync(file("applied.onnx")).equals(readFileSync(file("a.onnx")))).toBe(true);
});

test("insert and import by files", async () => {
  await qatTrain(file("net.onnx"), { data: file("net.npz"), out: file("d.onnx"), ...STEPS, steps: 0 });
  const inserted = await qatInsert(file("net.onnx"), { plan: file("d.plan.json"), out: file("trainable.onnx") });
  expect(inserted.files.map((f) => f.slice(folder.length + 1))).toEqual(["trainable.onnx", "trainable.qat.json"]);
  const list = JSON.parse(readFileSync(file("trainable.qat.json"), "utf8"));
  expect(list.weights.map((w: { value: string }) => w.value)).toEqual(["w1", "w2", "w3"]);
  const back = await qatImport(file("trainable.onnx"), {
    plan: file("d.plan.json"),
    list: file("trainable.qat.json"),
    out: file("back.plan.json"),
  });
  expect(back.plan.plan.sites.filter((s) => s.kind === "weight" && s.codes)).toHaveLength(3);
  await expect(qatInsert(file("net.onnx"), { plan: file("missing.plan.json"), out: file("x.onnx") })).rejects.toThrow(/missing.plan.json/);
});

test("training without data says what is missing", async () => {
  await expect(qatTrain(file("net.onnx"), { steps: 1 })).rejects.toThrow(/--data/);
});
