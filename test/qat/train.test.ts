import { afterAll, beforeAll, expect, test } from "vitest";
import { type Diagnostic, QcError } from "../../src/diagnostics.ts";
import { lower } from "../../src/export/lower/index.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { asFloat32, floats } from "../../src/graph/tensor.ts";
import { memorySource } from "../../src/io/source.ts";
import { encodePlan } from "../../src/plan/io.ts";
import { simulate } from "../../src/plan/simulate.ts";
import type { PlanBundle } from "../../src/plan/types.ts";
import { type QatCheckpoint, type QatOptions, readCheckpoint, trainQat, writeCheckpoint } from "../../src/qat/index.ts";
import { surelyBetter } from "../../src/qat/judge.ts";
import { batchOf } from "../../src/qat/shapes.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Runtime } from "../../src/runtime/types.ts";
import { planned, recipe, smallNet, smallSet, W4 } from "./net.ts";

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const bytesOf = (b: PlanBundle) => {
  const { json, tensors } = encodePlan(b, "plan.tensors");
  return [json, Buffer.concat(tensors ?? []).toString("hex")].join("\n");
};
const FAST: Partial<QatOptions> = { steps: 40, batch: 16, rate: 0.01, judgeEvery: 10, chunk: 5, ema: 0.9 };

/** ‖q − f‖²/‖f‖² of the exported model on `select`. */
async function exportedError(s: Awaited<ReturnType<typeof planned>>, data: ReturnType<typeof smallSet>, bundle: PlanBundle) {
  const samples = await Promise.all(data.roles.select.map((i) => data.sample(i)));
  const feeds = batchOf(samples);
  const [f, q] = await Promise.all(
    [s.model, lower(s.model, bundle, s.target)].map(async (m) => {
      const session = await runtime.open(writeModel(m));
      return (await session.run(feeds))["logits"]!.data as Float32Array;
    }),
  );
  let [top, bottom] = [0, 0];
  for (let i = 0; i < f!.length; i++) {
    const d = q![i]! - f![i]!;
    top += d * d;
    bottom += f![i]! * f![i]!;
  }
  return top / bottom;
}

test("better is what the spread of the samples cannot explain, and costs no decision", () => {
  const of = (parts: number[], agreement?: number) => {
    const error = parts.reduce((a, b) => a + b, 0);
    return { error, errorDb: -10 * Math.log10(error), agreement, parts: Float64Array.from(parts) };
  };
  const start = of([0.2, 0.3, 0.2, 0.3], 0.9);
  expect(surelyBetter(of([0.1, 0.2, 0.11, 0.19], 0.9), start)).toBe(true);
  expect(surelyBetter(of([0.1, 0.2, 0.11, 0.19], 0.8), start)).toBe(false);
  // One sample holds the gain.
  expect(surelyBetter(of([0.01, 0.31, 0.21, 0.3], 0.9), start)).toBe(false);
  expect(surelyBetter(start, start)).toBe(false);
  expect(surelyBetter(of([0.1]), of([0.2]))).toBe(true);
});

test("zero steps change no byte", async () => {
  const data = smallSet();
  const s = await planned(runtime, smallNet(), data, recipe(W4));
  const r = await trainQat({ ...s, data, runtime, options: { ...FAST, steps: 0 } });
  expect(bytesOf(r.bundle)).toBe(bytesOf(s.bundle));
  expect(r.start.errorDb).toBeGreaterThan(3);
});

/** Weight scales `times` too wide: 8 bits rounded to nearest leave nothing to learn that a hundred samples could tell from chance. */
function widened(b: PlanBundle, times: number): PlanBundle {
  const tensors = new Map(b.tensors);
  const sites = b.plan.sites.map((x) => {
    if (x.kind !== "weight") return x;
    if (!("tensor" in x.scale)) return { ...x, scale: x.scale.map((v) => Math.fround(times * v)) };
    tensors.set(x.scale.tensor, floats(asFloat32(b.tensors.get(x.scale.tensor)!).map((v) => times * v)));
    return x;
  });
  return { plan: { ...b.plan, sites }, tensors };
}

test.each([
  ["int4 per channel", recipe(W4), 1, 1],
  ["4-bit weights and activations", { ...recipe(W4), activationBits: 4 }, 1, 1],
  ["int8 per tensor", recipe({ dtype: "int8", per: "tensor", symmetric: true }), 16, 0.05],
  ["int8 per channel", recipe({ dtype: "int8", per: "channel", symmetric: true }), 16, 0.05],
] as const)("%s: the student is the exported graph before and after, and gets better", async (_, wish, wider, gainDb) => {
  const data = smallSet(48, 96);
  const made = await planned(runtime, smallNet(), data, wish);
  const s = { ...made, bundle: widened(made.bundle, wider) };
  const r = await trainQat({ ...s, data, runtime, options: FAST });
  // Both run the very same nodes on the very same batch: not one bit apart.
  expect(await exportedError(s, data, s.bundle)).toBe(r.start.error);
  expect(await exportedError(s, data, r.bundle)).toBe(r.best.error);
  expect(r.bestStep).toBeGreaterThan(0);
  expect(r.best.errorDb).toBeGreaterThan(r.start.errorDb + gainDb);
  expect(r.bundle.plan.steps.at(-1)).toMatchObject({ step: "qat", kept: true, before: r.start.errorDb });
});

test("weights in blocks, with zero points, without activations", async () => {
  const data = smallSet(48, 96);
  const wish = recipe({ dtype: "uint4", per: "block", blockSize: 16, symmetric: false }, "none");
  const s = await planned(runtime, smallNet(), data, wish);
  expect(s.bundle.plan.sites.some((x) => x.kind === "weight" && x.scheme.granularity.kind === "block")).toBe(true);
  const r = await trainQat({ ...s, data, runtime, options: FAST });
  expect(await exportedError(s, data, s.bundle)).toBe(r.start.error);
  expect(await exportedError(s, data, r.bundle)).toBe(r.best.error);
  expect(r.best.error).toBeLessThan(r.start.error);
});

test("2 bits train although no target stores them: the plan's simulation is the judge", async () => {
  const data = smallSet();
  const s = await planned(runtime, smallNet(), data, recipe(W4));
  // The 4-bit plan with a fourth of the codes, each four times as wide.
  const wide = widened(s.bundle, 4);
  const sites = wide.plan.sites.map((x) =>
    x.kind === "weight" ? { ...x, scheme: { ...x.scheme, dtype: "int2" as const, narrow: false } } : x,
  );
  const bundle = { ...wide, plan: { ...wide.plan, sites } };
  const r = await trainQat({ model: s.model, bundle, data, runtime, options: { ...FAST, steps: 60 } });
  const samples = await Promise.all(data.roles.select.map((i) => data.sample(i)));
  const [f, q] = await Promise.all(
    [s.model, simulate(s.model, r.bundle)].map(async (m) => {
      const session = await runtime.open(writeModel(m));
      return (await session.run(batchOf(samples)))["logits"]!.data as Float32Array;
    }),
  );
  let [top, bottom] = [0, 0];
  for (let i = 0; i < f!.length; i++) {
    top += (q![i]! - f![i]!) ** 2;
    bottom += f![i]! ** 2;
  }
  expect(top / bottom).toBeCloseTo(r.best.error, 6);
  expect(r.best.error).toBeLessThan(r.start.error / 2);
});

test("learned activation scales move together where they were tied, and stay legal", async () => {
  const data = smallSet();
  const s = await planned(runtime, smallNet(), data, recipe(W4));
  const r = await trainQat({
    ...s,
    data,
    runtime,
    options: { ...FAST, trained: { weights: 1, weightScales: 0.3, activationScales: 0.3, biases: 0.3 }, damping: 0.01, accumulate: 2 },
  });
  expect(await exportedError(s, data, r.bundle)).toBe(r.best.error);
  const scales = (b: PlanBundle) => b.plan.sites.flatMap((x) => (x.kind === "static" ? [JSON.stringify(x.scale)] : []));
  expect(scales(r.bundle)).not.toEqual(scales(s.bundle));
  expect(new Set(scales(r.bundle)).size).toBe(new Set(scales(s.bundle)).size);
});

test("one seed, one result; killed and resumed, the same result", async () => {
  const data = smallSet();
  const s = await planned(runtime, smallNet(), data, recipe(W4));
  const whole = await trainQat({ ...s, data, runtime, options: FAST });
  const again = await trainQat({ ...s, data, runtime, options: { ...FAST, chunk: 10 } });
  expect(bytesOf(again.bundle), "the number of steps in one run of the engine is no input").toBe(bytesOf(whole.bundle));
  const other = await trainQat({ ...s, data, runtime, options: { ...FAST, seed: 1 } });
  expect(bytesOf(other.bundle)).not.toBe(bytesOf(whole.bundle));

  const key = { structure: "a", weights: "b", plan: "c", options: "d" };
  const stop = new AbortController();
  let file: Uint8Array | undefined;
  const save = (c: QatCheckpoint) => {
    file = Buffer.concat(writeCheckpoint(c, key));
    if (c.state.step >= 20) stop.abort(new Error("killed"));
  };
  await expect(trainQat({ ...s, data, runtime, options: FAST, save, signal: stop.signal })).rejects.toThrow("killed");
  const resume = readCheckpoint(memorySource(file!), key);
  expect(resume.state.step).toBe(20);
  const rest = await trainQat({ ...s, data, runtime, options: FAST, resume });
  expect(bytesOf(rest.bundle)).toBe(bytesOf(whole.bundle));
  expect(() => readCheckpoint(memorySource(file!), { ...key, options: "e" })).toThrow(/its options differs/);
});

test("labels: used when asked for, named when they are no classes", async () => {
  const good = smallSet();
  const s = await planned(runtime, smallNet(), good, recipe(W4));
  const r = await trainQat({ ...s, data: good, runtime, options: { ...FAST, steps: 10, labels: 1 } });
  // Cross-entropy of five classes beside the distillation terms: arbitrary labels cost about ln 5 or more.
  expect(r.losses[0]).toBeGreaterThan(1);
  const bad = smallSet(48, 16, (i) => (i === 3 ? 7 : i === 4 ? "cat" : i % 5));
  const error = await trainQat({ ...s, data: bad, runtime, options: { ...FAST, labels: 1 } }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(QcError);
  expect((error as QcError).diagnostics).toEqual([{ code: "qat/label-range", set: "small", classes: 5, samples: ["s3: 7", "s4: cat"] }]);
});

test("values as labels: squared error beside the teacher, shapes checked", async () => {
  const data = smallSet();
  const s = await planned(runtime, smallNet(), data, recipe(W4));
  const labelled = (n: number) => ({
    ...data,
    sample: async (i: number) => ({
      ...(await data.sample(i)),
      label: { dtype: "float32" as const, dims: [n], data: new Float32Array(n).fill(100) },
    }),
  });
  const r = await trainQat({ ...s, data: labelled(5), runtime, options: { ...FAST, steps: 10, labels: 1 } });
  expect(r.losses[0]).toBeGreaterThan(5000); // about 100²
  const error = await trainQat({ ...s, data: labelled(4), runtime, options: { ...FAST, labels: 1 } }).catch((e: unknown) => e);
  expect((error as QcError).diagnostics[0]).toMatchObject({ code: "qat/label-shape", want: 5 });
});

test("a loss that leaves the numbers stops training; the start is kept", async () => {
  const data = smallSet();
  const s = await planned(runtime, smallNet(), data, recipe(W4));
  const said: Diagnostic[] = [];
  const options = { ...FAST, rate: 1e30, trained: { weights: 0, weightScales: 1, activationScales: 0, biases: 1 } };
  const r = await trainQat({ ...s, data, runtime, options, report: (d) => said.push(d) });
  expect(said).toContainEqual(expect.objectContaining({ code: "qat/diverged", kept: 0 }));
  expect(r.bestStep).toBe(0);
  expect(bytesOf(r.bundle)).toBe(bytesOf(s.bundle));
});

test("too little data is said, none is refused", async () => {
  const few = smallSet(8, 0);
  const s = await planned(runtime, smallNet(), few, recipe(W4));
  const said: Diagnostic[] = [];
  await trainQat({ ...s, data: few, runtime, options: { ...FAST, steps: 10 }, report: (d) => said.push(d) });
  expect(said.map((d) => d.code)).toContain("qat/few-samples");
  const none = { ...few, roles: { calibrate: [], select: [], heldOut: [] } };
  await expect(trainQat({ ...s, data: none, runtime, options: FAST })).rejects.toThrow(/no samples to train on/);
});
