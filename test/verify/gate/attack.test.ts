import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openData } from "../../../src/data/index.ts";
import type { DataSet, Sample } from "../../../src/data/types.ts";
import { type Model, newModel } from "../../../src/graph/ir.ts";
import { loadModel, writeModel } from "../../../src/graph/onnx/index.ts";
import { floats } from "../../../src/graph/tensor.ts";
import { tensorType } from "../../../src/graph/types.ts";
import { createRuntime, type NodeRuntime } from "../../../src/runtime/index.ts";
import type { Feeds, Session } from "../../../src/runtime/types.ts";
import { inputsOf } from "../../../src/source.ts";
import { type Attacked, attackModels } from "../../../src/verify/gate/index.ts";
import { freshFolder, qc, root } from "../../e2e/qc.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime({ workers: 2 });
});
afterAll(() => runtime.close());

type Options = Parameters<typeof attackModels>[0]["options"];
/** Runs an attack and keeps every tensor that the reference was fed. */
async function attacked(
  model: Model,
  data: DataSet,
  options: Partial<Options>,
  n = 200,
): Promise<{ readonly result: Attacked; readonly fed: Feeds[] }> {
  const session = await runtime.open(writeModel(model));
  const fed: Feeds[] = [];
  const watched: Session = Object.assign(Object.create(session) as Session, {
    inputs: session.inputs,
    outputs: session.outputs,
    run: (feeds: Feeds) => {
      fed.push(feeds);
      return session.run(feeds);
    },
  });
  try {
    const result = await attackModels({
      options: { kind: "fgsm", epsilon: 0.1, steps: 5, seed: 0, ...options },
      runtime,
      model,
      open: {},
      sessions: [watched, session],
      data,
      indices: data.roles.heldOut.slice(0, n),
    });
    return { result, fed };
  } finally {
    await session.release();
  }
}

const digits = join(root, "calibration-sets/digits");
const model = loadModel(join(digits, "model.onnx"));
const set = () => openData(digits, inputsOf(model), { seed: 0 });

test.each(["fgsm", "pgd"] as const)("%s with epsilon 0 feeds the very samples and changes nothing", async (kind) => {
  const data = await set();
  const { result, fed } = await attacked(model, data, { kind, epsilon: 0 }, 40);
  expect(result.attacked).toEqual(result.clean);
  const known = new Set<string>();
  for (const i of data.roles.heldOut.slice(0, 40)) known.add((await data.sample(i)).feeds["input"]!.data.toString());
  expect(fed).toHaveLength(80);
  expect(fed.every((f) => known.has(f["input"]!.data.toString()))).toBe(true);
});

test("on the digits: more epsilon, less accuracy; several steps do more harm than one; the same seed gives the same", async () => {
  const data = await set();
  const of = async (o: Partial<Options>) => (await attacked(model, data, o)).result;
  const [small, large, steps] = [await of({ epsilon: 0.03 }), await of({ epsilon: 0.1 }), await of({ epsilon: 0.1, kind: "pgd" })];
  expect(small.clean.float.value).toBeGreaterThan(95);
  expect(small.attacked.float.value).toBeLessThan(small.clean.float.value);
  expect(large.attacked.float.value).toBeLessThan(small.attacked.float.value - 20);
  expect(steps.attacked.float.value).toBeLessThanOrEqual(large.attacked.float.value);
  expect(large.loss).toBe("labels");
  expect(await of({ epsilon: 0.1, kind: "pgd" })).toEqual(steps);
});

test("no element leaves its range or moves by more than epsilon of it", async () => {
  const data = await set();
  const { result, fed } = await attacked(model, data, { kind: "pgd", epsilon: 0.1 }, 30);
  const [{ low, high, most }] = result.inputs as unknown as [{ low: number; high: number; most: number }];
  expect(most).toBeCloseTo(0.1 * (high - low), 12);
  let moved = 0;
  const clean = await Promise.all(
    data.roles.heldOut.slice(0, 30).map(async (i) => (await data.sample(i)).feeds["input"]!.data as Float32Array),
  );
  for (const f of fed) {
    const x = f["input"]!.data as Float32Array;
    expect(Math.min(...x)).toBeGreaterThanOrEqual(low);
    expect(Math.max(...x)).toBeLessThanOrEqual(high);
    const far = Math.min(...clean.map((c) => c.reduce((m, v, i) => Math.max(m, Math.abs(v - x[i]!)), 0)));
    // Half a unit of float32 in the last place of the sum.
    expect(far).toBeLessThanOrEqual(most * (1 + 1e-6));
    if (far > 0) moved++;
  }
  expect(moved).toBe(30);
});

/** y = x·W, [1, 3] to [1, 2], with a softmax behind when asked. */
function linear(weights: readonly number[], softmax: boolean, input = "x"): Model {
  const m = newModel(13, 8);
  const g = m.graph;
  const x = g.addInput(input, tensorType("float32", [1, 3]));
  const w = g.constant(floats(Float32Array.from(weights), [3, 2]), "w");
  let y = g.append({ op: "MatMul", name: "fc", inputs: [x, w], outputs: [softmax ? "z" : "y"] }).outputs[0]!;
  if (softmax) y = g.append({ op: "Softmax", name: "p", inputs: [y], outputs: ["y"], attrs: { axis: -1 } }).outputs[0]!;
  g.setType(y, tensorType("float32", [1, 2]));
  g.addOutput(y);
  return m;
}
function points(label: number | undefined): DataSet {
  const rows = [
    [0.5, 0.5, 0.5],
    [0, 0.25, 1],
    [1, 0.5, 0],
  ];
  return {
    name: "t",
    size: 3,
    roles: { calibrate: [], select: [], heldOut: [0, 1, 2] },
    sha256: "",
    metric: undefined,
    classes: undefined,
    sample: async (i): Promise<Sample> => ({
      id: `s${i}`,
      feeds: { x: { dtype: "float32", dims: [1, 3], data: Float32Array.from(rows[i]!) } },
      ...(label === undefined ? {} : { label }),
    }),
  };
}

test.each([1, 1000])(
  "fgsm of a linear classifier is known: against the class, by signs; a saturated softmax (scores × %i) hides nothing",
  async (k) => {
    // Class 0 less class 1: (2, −1, 0) in each input.
    const m = linear(
      [2, 0, 0, 1, 5, 5].map((v) => v * k),
      true,
    );
    const { fed } = await attacked(m, points(0), { epsilon: 0.25, range: [-10, 10] }, 3);
    const changed = fed.map((f) => Array.from(f["x"]!.data as Float32Array));
    expect(changed).toContainEqual([0.5 - 5, 0.5 + 5, 0.5]);
    expect(changed).toContainEqual([0 - 5, 0.25 + 5, 1]);
  },
);

test("without labels the float model's own classes are attacked", async () => {
  const { result } = await attacked(linear([2, 0, 0, 1, 0, 0], false), points(undefined), { epsilon: 0.5 }, 3);
  expect(result.loss).toBe("own classes");
  expect(result.attacked.name).toBe("agreement");
  expect(result.clean.float.value).toBe(100);
  expect(result.attacked.float.value).toBeLessThan(100);
});

test("what has no gradient is refused with the reason", async () => {
  const same: DataSet = { ...points(0), sample: async () => await points(0).sample(0) };
  await expect(attacked(linear([1, 2, 3, 4, 5, 6], false), same, {}, 3)).rejects.toThrow(/no float32 input differs/);
  const m = linear([1, 2, 3, 4, 5, 6], false);
  const fc = m.graph.nodes[0]!;
  const rounded = m.graph.insertBefore(fc, { op: "Round", name: "round", inputs: [fc.inputs[0]!], outputs: ["r"] }).outputs[0]!;
  m.graph.replaceUse(fc, 0, rounded);
  await expect(attacked(m, points(0), {}, 3)).rejects.toThrow(/no gradient reaches an input/);
});

test("qc check --attack: table, JSON, JUnit, Markdown; it needs the reference itself", async () => {
  const folder = freshFolder();
  const path = join(digits, "model.onnx");
  const [junit, markdown] = [join(folder, "j.xml"), join(folder, "m.md")];
  const common = [
    "check",
    path,
    path,
    "--data",
    digits,
    "--samples",
    "60",
    "--rounds",
    "0",
    "--quiet",
    "--attack",
    "fgsm",
    "--epsilon",
    "0.1",
  ];
  const r = await qc([...common, "--json", "--junit", junit, "--markdown", markdown]);
  expect(r.code, r.stderr).toBe(0);
  const { attack, findings } = JSON.parse(r.stdout) as { attack: Attacked; findings: { check: string; reference: number }[] };
  expect(attack.n).toBe(60);
  expect(attack.attacked.float.value).toBeLessThan(attack.clean.float.value);
  const row = findings.find((f) => f.check === "attack fgsm (top1)")!;
  expect(row.reference).toBe(attack.attacked.float.value);
  expect(readFileSync(junit, "utf8")).toMatch(/name="attack fgsm \(top1\)"><system-out>pass \(P2\): [\d.]+ % /);
  expect(readFileSync(markdown, "utf8")).toContain("| attack fgsm (top1) |");
  expect((await qc(common)).stdout).toMatch(/pass +P2 +attack fgsm \(top1\) .* without the attack \d/);
  const alone = await qc(["check", path, "--data", digits, "--attack", "pgd", "--save-baseline", join(folder, "b.json")]);
  expect(alone.code).toBe(2);
  expect(alone.stderr).toContain("the reference model, which is not given");
  const range = await qc([...common, "--range", "1,0"]);
  expect(range.code).toBe(2);
});
