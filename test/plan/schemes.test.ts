import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lower } from "../../src/export/lower/index.ts";
import { checkModel } from "../../src/graph/check.ts";
import type { Model } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { pinned } from "../../src/mix.ts";
import { checkPlanAgainst } from "../../src/plan/check.ts";
import { parsePin, parseScheme } from "../../src/plan/schemes.ts";
import { simulate } from "../../src/plan/simulate.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { readTensorNumbers } from "../../src/plan/tensors.ts";
import type { PlanBundle, Site } from "../../src/plan/types.ts";
import { improvePlan } from "../../src/ptq/improve.ts";
import { matchNodes } from "../../src/ptq/match.ts";
import { sqnrDb } from "../../src/quant/sqnr.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { feedsOf } from "../prepare/build.ts";
import { seededSet } from "../ptq/data.ts";
import { planned, residualNet } from "./nets.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

async function run(model: Model, source: Model): Promise<Float32Array> {
  const session = await runtime.open(writeModel(model), { level: "disabled", config: { "session.disable_prepacking": "1" } });
  try {
    return (await session.run(feedsOf(source, 9)))["y"]!.data as Float32Array;
  } finally {
    await session.release();
  }
}
const weights = (b: PlanBundle) => b.plan.sites.filter((s): s is Extract<Site, { kind: "weight" }> => s.kind === "weight");
const statics = (b: PlanBundle) => b.plan.sites.filter((s) => s.kind === "static");

test("schemes are spelt in one way", () => {
  expect(parseScheme("w7a8")).toMatchObject({ weight: { dtype: "int8", bits: 7, per: "channel", symmetric: true }, activationBits: 8 });
  expect(parseScheme("w8ta8")).toMatchObject({ weight: { dtype: "int8", per: "tensor" } });
  expect(parseScheme("w4ta16")).toMatchObject({ weight: { dtype: "int4", per: "tensor", symmetric: true }, activationBits: 16 });
  expect(parseScheme("w4b32a16")).toMatchObject({ weight: { dtype: "int4", per: "block", blockSize: 32 }, activationBits: 16 });
  for (const bad of ["w7b", "w8tb32", "w8a6", "w6a8", "w8a1", "t"]) expect(parseScheme(bad)).toBeUndefined();
});

test("at:first, at:last and at:ends name products", () => {
  const model = residualNet();
  const ops = (p: string) => [...matchNodes(model, [p])].map((n) => `${n.op} ${n.outputs[0]!.name}`);
  expect(ops("at:first")).toEqual(["Conv a"]);
  expect(ops("at:last")).toEqual(["Gemm y"]);
  expect(ops("at:ends")).toEqual(["Conv a", "Gemm y"]);
  expect(() => matchNodes(model, ["at:end"])).toThrow('Did you mean "at:ends"?');
});

/** Recipe or pins; bits of activations; bits and granularity of weights; dB that round-to-nearest must leave. */
describe.each([
  ["portable", "w8a16", [], "uint16", "int8", "channel", 38],
  ["ort-cpu", "w8a16", [], "uint16", "int8", "channel", 38],
  ["portable", "w4a16", [], "uint16", "int4", "channel", 14],
  ["portable", "w7a8", [], "uint8", "int8", "channel", 30],
  ["ort-cpu", "w7a8", [], "uint8", "int8", "channel", 28],
  ["tensorrt", "w7a8", [], "int8", "int8", "channel", 28],
  ["portable", "int8", ["*=w8ta8"], "uint8", "int8", "tensor", 30],
  ["portable", "int8", ["*=w8ta16"], "uint16", "int8", "tensor", 34],
  ["portable", "int8", ["*=w4a16"], "uint16", "int4", "channel", 14],
] as const)("%s, recipe %s, pins %j", (target, recipe, pins, activation, weight, per, least) => {
  test("the file equals the simulation bit for bit; solved weights stay in the scheme", async () => {
    const source = residualNet();
    const schemes = pinned(source, pins.map(parsePin));
    const p = await planned(runtime, source, target, recipe, { ...(schemes.size > 0 && { schemes }) });
    for (const s of statics(p.bundle)) expect(s.scheme.dtype).toBe(activation);
    expect(weights(p.bundle).length).toBe(3);
    for (const s of weights(p.bundle)) expect([s.scheme.dtype, s.scheme.granularity.kind]).toEqual([weight, per]);
    const solved = await improvePlan({
      model: p.model,
      bundle: p.bundle,
      data: seededSet(p.model, 24),
      runtime,
      target: targetOf(target),
      effort: "default",
      ...(p.stats && { stats: p.stats }),
    });
    const float = await run(source, source);
    for (const bundle of [p.bundle, solved]) {
      expect(checkPlanAgainst(bundle, p.model, targetOf(target))).toEqual([]);
      const q = lower(p.model, bundle, targetOf(target));
      expect(checkModel(q)).toEqual([]);
      const reference = await run(simulate(p.model, bundle), source);
      expect(await run(q, source)).toEqual(reference);
      expect(sqnrDb(float, reference)).toBeGreaterThan(least);
    }
  });
});

test("7 bits: no code above 63, solved or not, and a plan with one is refused", async () => {
  const p = await planned(runtime, residualNet(), "portable", "w7a8");
  const solved = await improvePlan({
    model: p.model,
    bundle: p.bundle,
    data: seededSet(p.model, 24),
    runtime,
    target: targetOf("portable"),
    effort: "default",
    ...(p.stats && { stats: p.stats }),
  });
  const coded = weights(solved).filter((s) => s.codes);
  expect(coded.length).toBe(3);
  for (const s of coded) {
    const codes = Array.from(readTensorNumbers(solved.tensors.get(s.codes!.tensor)!));
    expect(Math.max(...codes.map(Math.abs))).toBe(63);
  }
  const name = coded[0]!.codes!.tensor;
  const t = solved.tensors.get(name)!;
  const bytes = t.bytes().slice();
  bytes[0] = 64;
  const broken = { ...solved, tensors: new Map([...solved.tensors, [name, { ...t, bytes: () => bytes }]]) };
  expect(checkPlanAgainst(broken, p.model, targetOf("portable")).map((d) => "detail" in d && d.detail)).toEqual([
    "a code outside the 7 bits used of int8",
  ]);
});
