import { describe, expect, test } from "vitest";
import { parseConfig } from "../../src/data/config.ts";
import { METRICS, metricOf } from "../../src/data/metrics/index.ts";
import type { QcError } from "../../src/diagnostics.ts";
import { f32, i64, input, npz, opened, refused, scratch, u8 } from "./helpers.ts";

const at = scratch();
const problems = (text: string) => {
  try {
    parseConfig(text, "set.yaml");
  } catch (e) {
    return (e as QcError).diagnostics.map((d) => {
      const { code: _, file: __, ...facts } = d as unknown as Record<string, unknown>;
      return facts;
    });
  }
  return [];
};

describe("set files", () => {
  test("the example of the documentation", async () => {
    at.write("vww.npz", npz({ x: u8([20, 2, 2, 3]), y: i64(Array.from({ length: 20 }, (_, i) => i % 2)) }));
    const spec = at.write(
      "vww.yaml",
      `name: tiny
source: vww.npz
inputs:
  input: { from: x, steps: [ { divide: 255 } ] }
labels: y
metric: top1
split: { calibrate: 8, select: 4, seed: 0 }
license: none
`,
    );
    const { set, told } = await opened(spec, [input(["N", 2, 2, 3])]);
    expect(told).toEqual([]);
    expect([set.name, set.roles.calibrate.length, set.roles.select.length, set.roles.heldOut.length]).toEqual(["tiny", 8, 4, 8]);
    const s = await set.sample(5);
    expect(s.label).toBe(1);
    expect(s.feeds["input"]!.data).toEqual(Float32Array.from({ length: 12 }, (_, i) => (60 + i) / 255));
    expect(set.classes).toEqual(Array.from({ length: 20 }, (_, i) => i % 2));
    expect(set.metric?.name).toBe("top1");
  });

  test("a folder with a set file in it is opened by it", async () => {
    at.write("own/x.npy.npz", npz({ input: f32([4, 1]) }));
    at.write("own/set.yaml", "source: x.npy.npz\n");
    expect((await opened(`${at.path}/own`, [input(["N", 1])])).set.name).toBe("own");
  });

  test("unknown keys, with line and nearest key; all at once", () => {
    expect(problems("source: x.npz\nmetrc: top1\nsplit:\n  calibrat: 3\n")).toEqual([
      { line: 2, at: "metrc", detail: "is no known key here", allowed: expect.any(Array), nearest: "metric" },
      { line: 4, at: "split.calibrat", detail: "is no known key here", allowed: expect.any(Array), nearest: "calibrate" },
    ]);
  });
  test("steps: unknown names and wrong arguments", () => {
    const text =
      "source: a\ninputs:\n  x:\n    from: y\n    steps:\n      - divde: 2\n      - resize: { width: 0, height: 3 }\n      - layout: nhwcc\n";
    expect(problems(text)).toEqual([
      { line: 6, at: "inputs.x.steps.0", detail: 'unknown step "divde"', allowed: expect.any(Array), nearest: "divide" },
      { line: 7, at: "inputs.x.steps.1.resize.width", detail: "must be >= 1" },
      { line: 8, at: "inputs.x.steps.2.layout", detail: 'is "nhwcc"', allowed: ["nchw", "nhwc"], nearest: "nhwc" },
    ]);
  });
  test("wrong types, broken YAML, two ways to feed one input, alias bombs", () => {
    expect(problems("source: 3\n")[0]).toMatchObject({ line: 1, at: "source" });
    expect(problems("inputs: {}\n")[0]).toMatchObject({ detail: "must have required property 'source'" });
    expect(problems("source: [a\nname: b\n")[0]!["line"]).toBeGreaterThan(0);
    expect(problems("source: a\ninputs: { x: { from: y, constant: 3 } }\n")[0]).toMatchObject({
      detail: expect.stringContaining("from and constant"),
    });
    const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${"bcdefghi"
      .split("")
      .map((c, i) => `${c}: &${c} [${new Array(9).fill(`*${"abcdefgh"[i]}`).join(",")}]`)
      .join("\n")}\nsource: *i\n`;
    expect(problems(bomb)).toHaveLength(1);
  });

  test("names that the graph or the file lack", async () => {
    at.write("n.npz", npz({ image: f32([4, 2]) }));
    const e = await refused(opened(at.write("n.yaml", "source: n.npz\ninputs: { inptu: { from: imgae } }\n"), [input(["N", 2])]));
    expect(e.message).toContain('Did you mean "input"?');
    const f = await refused(opened(at.write("n2.yaml", "source: n.npz\ninputs: { input: { from: imgae } }\n"), [input(["N", 2])]));
    expect(f.message).toContain('Did you mean "image"?');
  });

  test("the checksum of the source", async () => {
    at.write("sum.npz", npz({ input: f32([4, 1]) }));
    const e = await refused(opened(at.write("sum.yaml", `source: sum.npz\nsha256: "${"0".repeat(64)}"\n`), [input(["N", 1])]));
    expect(e.diagnostics[0]).toMatchObject({ code: "data/checksum" });
  });

  test("constants: a number, lists, a .npy", async () => {
    at.write("k.npz", npz({ x: f32([4, 2]) }));
    const spec = at.write(
      "k.yaml",
      "source: k.npz\ninputs:\n  x: { from: x }\n  sr: { constant: 16000 }\n  scale: { constant: [[1, 2]] }\n  fill: { constant: 3 }\n",
    );
    const { set } = await opened(spec, [input(["N", 2], "x"), input([], "sr", "int64"), input([1, 2], "scale"), input(["N", 4], "fill")]);
    const { feeds } = await set.sample(0);
    expect(feeds["sr"]).toEqual({ dtype: "int64", dims: [], data: BigInt64Array.of(16000n) });
    expect(feeds["scale"]).toEqual({ dtype: "float32", dims: [1, 2], data: Float32Array.of(1, 2) });
    expect(feeds["fill"]).toEqual({ dtype: "float32", dims: [1, 4], data: new Float32Array(4).fill(3) });
    const bad = at.write("k2.yaml", "source: k.npz\ninputs: { sr: { constant: 1.5 } }\n");
    expect((await refused(opened(bad, [input(["N", 2], "x"), input([], "sr", "int64")]))).message).toContain("1.5 does not fit int64");
  });

  test("infinities that are meant", async () => {
    at.write("inf.npz", npz({ mask: f32([4, 2], () => Number.NEGATIVE_INFINITY) }));
    const { set } = await opened(at.write("inf.yaml", "source: inf.npz\ninputs: { mask: { from: mask, finite: false } }\n"), [
      input(["N", 2], "mask"),
    ]);
    expect((await set.sample(1)).feeds["mask"]!.data[0]).toBe(Number.NEGATIVE_INFINITY);
  });

  test("a secret of its own keys the samples", async () => {
    at.write("s.npz", npz({ input: f32([4, 1]) }));
    at.write("key", "one");
    at.write("key2", "two");
    const a = await opened(at.write("s1.yaml", "source: s.npz\nsecret: key\n"), [input(["N", 1])]);
    const b = await opened(at.write("s2.yaml", "source: s.npz\nsecret: key2\n"), [input(["N", 1])]);
    expect(a.set.secret).not.toBe(b.set.secret);
  });
});

describe("metrics by name", () => {
  test("every row makes a metric of its name", async () => {
    for (const name of Object.keys(METRICS)) {
      const config = name === "map" ? { map: { boxes: "b", scores: "s" } } : name;
      expect((await metricOf(config, { folder: at.path })).name).toBe(name);
    }
  });
  test("unknown names and options", async () => {
    expect((await refused(metricOf("topp1", { folder: "." }))).message).toContain('Did you mean "top1"?');
    expect((await refused(metricOf({ psnr: { peek: 3 } }, { folder: "." }))).message).toContain('Did you mean "peak"?');
    expect((await refused(metricOf({ psnr: { peak: "x" } }, { folder: "." }))).message).toContain("must be number");
  });
  test("a module's score, or its own metric", async () => {
    at.write("score.mjs", "export const name = 'half'; export const score = (outputs, sample) => outputs.y.data[0] === sample.label;\n");
    const m = await metricOf("score.mjs", { folder: at.path });
    const s = m.start();
    for (const [v, label] of [
      [1, 1],
      [2, 1],
      [3, 3],
    ] as const)
      s.add({ y: { dtype: "float32", dims: [1], data: Float32Array.of(v) } }, { id: "", feeds: {}, label });
    expect([m.name, s.result().value, s.result().perSample]).toEqual(["half", 2 / 3, [1, 0, 1]]);
    at.write(
      "own.mjs",
      "export const metric = ({ k }) => ({ name: 'm' + k, unit: '', better: 'lower', start: () => ({ add() {}, result: () => ({ value: 1, n: 0 }) }) });\n",
    );
    expect((await metricOf({ "own.mjs": { k: 3 } }, { folder: at.path })).name).toBe("m3");
    at.write("none.mjs", "export const x = 1;\n");
    expect((await refused(metricOf("none.mjs", { folder: at.path }))).message).toContain("neither `metric` nor `score`");
  });
});
