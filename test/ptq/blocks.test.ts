import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findBlocks } from "../../src/ptq/blocks/find.ts";
import { reconstructBlocks } from "../../src/ptq/blocks/index.ts";
import { layersOf } from "../../src/ptq/layers.ts";
import { LAMBDA, solveLayer, solveSequentially } from "../../src/ptq/sequential.ts";
import { SOLVE_LIGHT } from "../../src/ptq/solve/rows.ts";
import { Streams } from "../../src/ptq/streams.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { planned } from "../plan/nets.ts";
import { Builder } from "../prepare/build.ts";
import { seededSet } from "./data.ts";

let runtime: NodeRuntime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** Two residual blocks of two convolutions behind a stem. */
function blockNet() {
  const b = new Builder(18, 8);
  const x = b.input("x", [1, 3, 8, 8]);
  const conv = (v: Parameters<typeof b.node>[1][number], name: string, o: number, i: number) =>
    b.node("Conv", [v, b.weight(`${name}.w`, [o, i, 3, 3]), b.weight(`${name}.b`, [o])], { pads: [1, 1, 1, 1] }, name);
  let y = b.node("Relu", [conv(x, "stem", 6, 3)], {}, "stem.r");
  for (const n of ["p", "q"]) {
    const inner = b.node("Relu", [conv(y, `${n}1`, 6, 6)], {}, `${n}1.r`);
    y = b.node("Relu", [b.node("Add", [conv(inner, `${n}2`, 6, 6), y], {}, `${n}.sum`)], {}, `${n}.out`);
  }
  return b.output(b.node("GlobalAveragePool", [y], {}, "y"));
}

async function start() {
  const at = await planned(runtime, blockNet(), "portable", "w4a8");
  const data = seededSet(at.model, 24);
  const walk = {
    runtime,
    indices: data.roles.calibrate,
    load: async (i: number) => (await data.sample(i)).feeds,
    memoryBytes: 2 ** 24,
    seed: 1,
  };
  // Round-to-nearest codes with corrected biases, so that something is left to learn.
  const options = { lambda: LAMBDA, asymmetric: false, correctBias: true, effort: SOLVE_LIGHT, keepCodes: true };
  const layers = layersOf(at.model, at.bundle);
  const streams = new Streams(at.model, at.bundle, at.types);
  const solved = await solveSequentially({ ...walk, streams, layers, solve: (l, g, h) => solveLayer(l, g, h, options) });
  return { ...at, layers, streams, solved, walk };
}

describe("block reconstruction", () => {
  test("blocks lie between places where one value carries everything", async () => {
    const { model, layers } = await start();
    const blocks = findBlocks(model.graph, layers);
    expect(blocks.map((b) => b.layers.map((l) => l.node.outputs[0]!.name))).toEqual([
      ["p1", "p2"],
      ["q1", "q2"],
    ]);
  });

  test("lowers the error of a block, never raises it, and leaves the rest alone", async () => {
    const { streams, types, solved, walk } = await start();
    const run = (steps: number) => reconstructBlocks({ ...walk, streams, types, solved, steps });
    const none = await run(0);
    none.blocks.forEach((b) => {
      expect(b.after).toBe(b.before);
    });
    none.solved.forEach((s, i) => {
      expect(s.codes).toEqual(solved[i]!.codes);
    });
    const { solved: better, blocks } = await run(200);
    expect(blocks).toHaveLength(2);
    for (const b of blocks) expect(b.after).toBeLessThanOrEqual(b.before);
    expect(blocks.some((b) => b.after < 0.7 * b.before)).toBe(true);
    better.forEach((s, i) => {
      expect(s.scales).toEqual(solved[i]!.scales);
      expect(s.bias).toEqual(solved[i]!.bias);
      const inside = blocks.some(({ block }) => block.layers.includes(s.layer));
      if (!inside) expect(s.codes).toEqual(solved[i]!.codes);
      for (const q of s.codes) expect(q >= -8 && q <= 7).toBe(true);
    });
  });

  test("equal inputs and seed give equal codes", async () => {
    const [a, b] = [await start(), await start()];
    const [x, y] = [
      await reconstructBlocks({ ...a.walk, streams: a.streams, types: a.types, solved: a.solved, steps: 60 }),
      await reconstructBlocks({ ...b.walk, streams: b.streams, types: b.types, solved: b.solved, steps: 60 }),
    ];
    x.solved.forEach((s, i) => {
      expect(s.codes).toEqual(y.solved[i]!.codes);
    });
  });
});
