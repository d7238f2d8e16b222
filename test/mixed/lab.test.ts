import { afterAll, beforeAll, expect, test } from "vitest";
import type { Report } from "../../src/diagnostics.ts";
import { lower } from "../../src/export/lower/index.ts";
import type { Model } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { Builder } from "../../src/mixed/build.ts";
import { fisher } from "../../src/mixed/fisher.ts";
import { interactions } from "../../src/mixed/interactions.ts";
import { Lab } from "../../src/mixed/lab.ts";
import { Search } from "../../src/mixed/search.ts";
import { type LayerScheme, parseScheme } from "../../src/plan/schemes.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import type { OptLevel } from "../../src/runtime/types.ts";
import { planned, residualNet } from "../plan/nets.ts";
import { feedsOf, Builder as Net } from "../prepare/build.ts";
import { seededSet } from "../ptq/data.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

const LADDER = ["w4a8", "w8a8", "float"].map((s) => parseScheme(s)!);

function chain(): Model {
  const b = new Net(21, 10);
  let x = b.input("x", [4, 24]);
  for (const name of ["one", "two", "three", "four"])
    x = b.node("Relu", [b.node("Add", [b.node("MatMul", [x, b.weight(`${name}.w`, [24, 24])], {}, name), b.weight(`${name}.b`, [24])])]);
  return b.output(b.node("MatMul", [x, b.weight("last.w", [24, 6])], {}, "last"));
}

async function setUp(net: Model, pins: readonly (readonly [string, string])[] = [], ladder = LADDER, recipe = "int8") {
  const { model, proposal, stats, bundle } = await planned(runtime, net, "portable", recipe);
  const builder = new Builder({ proposal, bundle, stats, ladder, pins: new Map(pins.map(([n, s]) => [n, parseScheme(s)!])) });
  const data = seededSet(model, 32);
  const types = proposal.input.types;
  return { model, proposal, stats, bundle, builder, data, types };
}
const search = ({ stats, ...s }: Awaited<ReturnType<typeof setUp>>, report: Report = () => {}) =>
  new Search({
    ...s,
    ...(stats && { stats }),
    calibrate: s.data.roles.calibrate,
    runtime,
    target: targetOf("portable"),
    effort: "default",
    seed: 0,
    session: {},
    report,
  });
const bytes = (m: Model) => writeModel(m).byteLength;

test.each([
  ["chain", chain],
  ["residualNet", residualNet],
] as const)("%s: running what lies behind a layer gives the loss of running everything", async (_, net) => {
  const s = await setUp(net());
  const lab = await Lab.open({
    ...s,
    runtime,
    calibrate: s.data.roles.calibrate,
    judge: s.data.roles.select,
    loss: "nmse",
    seed: 0,
    memoryBytes: 2 ** 24,
  });
  const { start, rows } = await lab.sensitivities();
  expect(rows.some((r) => r.scheme === "w4a8" && r.added > 0)).toBe(true);
  for (const r of rows) {
    const scheme = LADDER.find((x) => x.name === r.scheme)!;
    const loss = await lab.evaluate(new Map<string, LayerScheme>([...lab.start, [r.unit, scheme]]));
    expect(r.loss / loss, `${r.unit} ${r.scheme}`).toBeCloseTo(1, 5);
    expect(r.added).toBeCloseTo(loss - start, 8);
  }
  const four = rows.filter((r) => r.scheme === "w4a8").reduce((sum, r) => sum + r.added, 0);
  const float = rows.filter((r) => r.scheme === "float").reduce((sum, r) => sum + r.added, 0);
  expect(four).toBeGreaterThan(float);
  const byGradient = await fisher(lab, { ...s, runtime, samples: 8, draws: 16, seed: 0 });
  const measured = byGradient.rows.map((r) => rows.find((x) => x.unit === r.unit && x.scheme === r.scheme)!.added);
  const ratio = byGradient.rows.map((r, i) => r.added / measured[i]!).sort((a, b) => a - b);
  // 8 samples, random signs, first order: within a factor of two for the layer in the middle.
  expect(ratio[ratio.length >> 1]).toBeGreaterThan(0.5);
  expect(ratio[ratio.length >> 1]).toBeLessThan(2);
  const shapley = await interactions(lab, s.builder.units, new Map(), { coalitions: 2, seed: 1 });
  expect(shapley.every((x) => Number.isFinite(x.mean) && x.n > 0)).toBe(true);
  expect(await interactions(lab, s.builder.units, new Map(), { coalitions: 2, seed: 1 })).toEqual(shapley);
});

test("a size is kept to, a pinned layer stays pinned, and the smaller file loads at every level", async () => {
  const s = await setUp(chain(), [["two", "w8a8"]]);
  const found = search(s);
  try {
    const menu = await found.menu();
    const [least, most] = [menu.cheapest, menu.dearest].map((c) => bytes(lower(s.model, s.builder.plan(c), targetOf("portable"))));
    expect(least).toBeLessThan(most!);
    const limit = Math.round((least! + most!) / 2);
    const plan = await found.solve({ bytes: limit }, `size<=${limit}B`);
    const out = lower(s.model, plan, targetOf("portable"));
    expect(bytes(out)).toBeLessThanOrEqual(limit);
    const weights = plan.plan.sites.flatMap((x) => (x.kind === "weight" ? [x] : []));
    expect(weights.find((x) => x.value === "two.w")?.scheme.dtype).toBe("int8");
    expect(new Set(weights.map((x) => x.scheme.dtype))).toEqual(new Set(["int4", "int8"]));
    expect(weights.every((x) => /size<=|pinned/.test(x.because))).toBe(true);
    expect(plan.plan.steps.some((x) => x.step === "budget")).toBe(true);
    const feeds = feedsOf(s.model, 5);
    const results: Float32Array[] = [];
    for (const level of ["disabled", "basic", "extended", "all"] satisfies OptLevel[]) {
      const session = await runtime.open(writeModel(out), { level });
      results.push(Object.values(await session.run(feeds))[0]!.data as Float32Array);
      await session.release();
    }
    // Fused integer kernels may land on a neighbouring code here and there.
    for (const r of results) {
      const noise = r.reduce((sum, v, i) => sum + (v - results[0]![i]!) ** 2, 0);
      expect(noise / r.reduce((sum, v) => sum + v * v, 0)).toBeLessThan(1e-3);
    }
  } finally {
    await found.close();
  }
});

test("weights alone: 4-bit blocks and 8-bit channels share the bits, rounded as without a search", async () => {
  const ladder = ["w4b8", "w8", "float"].map((x) => parseScheme(x)!);
  const s = await setUp(chain(), [], ladder, "int8-weights");
  const found = search({ ...s, stats: undefined });
  try {
    const menu = await found.menu();
    const [least, most] = [menu.bitsOf(menu.cheapest), menu.bitsOf(menu.dearest)];
    expect(least).toBeLessThan(most);
    const bits = (least + most) / 2;
    const plan = await found.solve({ bits }, "bits");
    const weights = plan.plan.sites.flatMap((x) => (x.kind === "weight" ? [x] : []));
    expect(found.reached!.bits).toBeLessThanOrEqual(bits);
    expect(new Set(weights.map((x) => x.scheme.dtype)).size).toBe(2);
    expect(plan.plan.sites.every((x) => x.kind === "weight")).toBe(true);
    expect(weights.some((x) => x.codes !== undefined)).toBe(true);
    expect(found.reached!.db).toBeGreaterThan((await found.point(menu.cheapest)).db);
  } finally {
    await found.close();
  }
});

test("what cannot be met gives the smallest plan; the frontier is monotone and beats what is not searched", async () => {
  const found = search(await setUp(chain()));
  try {
    const plan = await found.solve({ bits: 1 }, "bits<=1");
    expect(plan.plan.sites.every((x) => x.kind !== "weight" || x.scheme.dtype === "int4")).toBe(true);
    const front = await found.pareto(8);
    expect(front.points.length).toBeGreaterThanOrEqual(5);
    front.points.slice(1).forEach((p, i) => {
      expect(p.weightBytes).toBeGreaterThan(front.points[i]!.weightBytes);
      expect(p.measured).toBeLessThan(front.points[i]!.measured);
    });
    expect(front.correlation).toBeGreaterThan(0.9);
    for (const b of front.baselines) expect(b.ratio, b.name).toBeLessThanOrEqual(1.02);
    const menu = await found.menu();
    const { added } = await found.surrogate();
    const room = front.points[2]!.weightBytes;
    const greedy = menu.greedy(room, added);
    expect(menu.bytesOf(greedy)).toBeLessThanOrEqual(room);
    // A larger budget never predicts a worse loss, after all that was learned.
    let before = Number.POSITIVE_INFINITY;
    for (let bytes = menu.bytesOf(menu.cheapest); bytes <= menu.bytesOf(menu.dearest); bytes += 37) {
      const { predicted } = (await found.within({ bytes }))!;
      expect(predicted).toBeLessThanOrEqual(before + 1e-12);
      before = predicted;
    }
  } finally {
    await found.close();
  }
});

test("a limit on a metric that the set does not have is said, and costs no layer its bits", async () => {
  const said: string[] = [];
  const found = search(await setUp(chain()), (d) => said.push(d.code));
  try {
    const plan = await found.solve({ drop: { most: 0.5, unit: "%" } }, "drop<=0.5%");
    expect(said).toContain("plan/drop-unknown");
    expect(plan.plan.sites.every((x) => x.kind !== "weight" || x.scheme.dtype === "int8")).toBe(true);
  } finally {
    await found.close();
  }
});
