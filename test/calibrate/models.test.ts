import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CALIBRATORS, chooseRange, collectStats, outputErrors, parametricQdq, siteFeeds } from "../../src/calibrate/index.ts";
import type { DataSet } from "../../src/data/types.ts";
import { loadModel, writeModel } from "../../src/graph/onnx/index.ts";
import { opFacts } from "../../src/graph/ops/index.ts";
import { pathOf } from "../../src/graph/walk.ts";
import { openNpz } from "../../src/io/npz.ts";
import { fileSource } from "../../src/io/source.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { chooseAsymmetric, chooseSymmetric } from "../../src/quant/affine.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import type { Feeds } from "../../src/runtime/types.ts";

const folder = join(process.env["QC_MODELS"] ?? "../shared/models", "kws");
const have = existsSync(join(folder, "kws_dscnn.onnx"));

// Keyword spotting: KL without one of its details falls to 2–8 dB on it (zeros left in, levels without a rest, Q spread over empty bins).
describe.skipIf(!have)("kws (skipped when QC_MODELS has no kws/kws_dscnn.onnx)", () => {
  let runtime: NodeRuntime;
  beforeAll(() => {
    runtime = createRuntime();
  });
  afterAll(() => runtime.close());

  test("entropy is sound: no worse than min-max by more than what chance makes of it, in both schemes", async () => {
    const x = openNpz(fileSource(join(folder, "kws.npz"))).array("x")!;
    const feedsOf = (i: number): Feeds => {
      const a = x.rows(i, 1);
      return { input: { dtype: "float32", dims: a.shape, data: Float32Array.from(a.data as Float32Array) } };
    };
    const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
    const data: DataSet = {
      name: "kws",
      size: 1000,
      roles: { calibrate: range(0, 100), select: [], heldOut: range(100, 250) },
      sha256: "kws",
      metric: undefined,
      classes: undefined,
      sample: async (i) => ({ id: String(i), feeds: feedsOf(i) }),
    };
    const { model } = await prepareModel(loadModel(join(folder, "kws_dscnn.onnx")), runtime, { feeds: feedsOf(0) });
    const values = new Set<string>();
    for (const n of model.graph.nodes) if (opFacts(n)?.trait === "compute") values.add(pathOf(n.inputs[0]!));
    const stats = await collectStats({ model, values: [...values], data, indices: data.roles.calibrate, runtime });
    const float = await runtime.open(writeModel(model));
    for (const symmetric of [false, true]) {
      const sites = [...values].map((value) => ({ value, dtype: symmetric ? ("int8" as const) : ("uint8" as const) }));
      const quantized = await runtime.open(writeModel(parametricQdq(model, sites)));
      const parameters = (["minmax", "entropy"] as const).map((name) =>
        siteFeeds(
          sites,
          sites.map((s) => {
            const r = chooseRange(stats.values.get(s.value)!, CALIBRATORS[name], { levels: 256, symmetric });
            return symmetric ? chooseSymmetric(r.max, "int8") : chooseAsymmetric(r.min, r.max, "uint8");
          }),
        ),
      );
      const errors = await outputErrors(float, quantized, data.roles.heldOut.map(feedsOf), parameters);
      const [minmax, entropy] = errors.map((e) => -10 * Math.log10(e)) as [number, number];
      // One draw of 150 samples; 1 % on every scale moves it by 0.4 dB.
      expect(entropy).toBeGreaterThan(minmax - 1.5);
      expect(entropy).toBeGreaterThan(symmetric ? 17 : 24);
    }
  });
});
