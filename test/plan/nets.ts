import { CALIBRATORS } from "../../src/calibrate/calibrators.ts";
import { Observer } from "../../src/calibrate/observer.ts";
import type { Stats } from "../../src/calibrate/types.ts";
import type { Model, Value } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import type { ValueType } from "../../src/graph/types.ts";
import { recipeOf } from "../../src/plan/recipes/index.ts";
import { targetOf } from "../../src/plan/targets/index.ts";
import type { PlanBundle } from "../../src/plan/types.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { type Proposal, type ProposeInput, proposeSites } from "../../src/ptq/propose.ts";
import { planOf } from "../../src/ptq/ranges.ts";
import { withOutputs } from "../../src/runtime/expose.ts";
import type { Runtime } from "../../src/runtime/types.ts";
import { Builder, feedsOf } from "../prepare/build.ts";

/** Two convolutions, a projection shortcut, a sum, a pool, a product: input [1, 8, 8, 8]. */
export function residualNet(opset = 17): Model {
  const b = new Builder(opset);
  const x = b.input("x", [1, 8, 8, 8]);
  const conv = (v: Value, o: number, i: number, name: string, out: string): Value =>
    b.node("Conv", [v, b.weight(`${name}.w`, [o, i, 3, 3]), b.weight(`${name}.b`, [o])], { pads: [1, 1, 1, 1] }, out);
  const a = b.node("Relu", [conv(x, 16, 8, "a", "a")], {}, "ra");
  const c = conv(a, 16, 16, "c", "c");
  const s = b.node("Add", [c, a], {}, "sum");
  const r = b.node("Relu", [s], {}, "rs");
  const p = b.node("GlobalAveragePool", [r], {}, "pool");
  const f = b.node("Flatten", [p], {}, "flat");
  return b.output(b.node("Gemm", [f, b.weight("fc.w", [16, 10]), b.weight("fc.b", [10])], {}, "y"));
}

/** An embedding whose table is also the output projection, a normalization and a residual sum. */
export function tiedNet(): Model {
  const b = new Builder(17);
  const ids = b.g.addInput("ids", { kind: "tensor", elem: "int64", shape: [1, 3] });
  const table = b.weight("table", [32, 16]);
  const h = b.node("Gather", [table, ids], {}, "h");
  const mean = b.node("ReduceMean", [b.node("Mul", [h, h])], { axes: [-1] });
  const n = b.node("Div", [h, b.node("Sqrt", [b.node("Add", [mean, b.floats("eps", [1e-5], [])])])], {}, "norm");
  const m = b.node("MatMul", [n, b.weight("w", [16, 16])], {}, "mm");
  const r = b.node("Add", [h, m], {}, "res");
  return b.output(b.node("MatMul", [r, b.node("Transpose", [table], { perm: [1, 0] })], {}, "logits"));
}

export async function statsOf(
  runtime: Runtime,
  model: Model,
  values: readonly string[],
  seeds: readonly number[] = [1, 2, 3, 4],
): Promise<Stats> {
  const session = await runtime.open(writeModel(withOutputs(model, values)));
  const observers = values.map((v) => new Observer(v));
  for (const seed of seeds) {
    const out = await session.run(feedsOf(model, seed));
    for (const o of observers) o.add(out[o.name]!.data as Float32Array);
  }
  await session.release();
  return {
    schema: "qc.stats/1",
    model: { structure: "s", weights: "w" },
    prepare: "p",
    samples: seeds.length,
    sampleKeys: [],
    values: new Map(observers.map((o) => [o.name, o.result()])),
  };
}

export interface Planned {
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly proposal: Proposal;
  readonly stats: Stats | undefined;
  readonly bundle: PlanBundle;
}

export async function planned(
  runtime: Runtime,
  source: Model,
  target: string,
  recipe = "int8",
  more: Partial<ProposeInput> = {},
): Promise<Planned> {
  const { model, types } = await prepareModel(source, runtime);
  const proposal = proposeSites({ model, types, target: targetOf(target), recipe: recipeOf(recipe), ...more });
  const stats = proposal.values.length > 0 ? await statsOf(runtime, model, proposal.values) : undefined;
  return { model, types, proposal, stats, bundle: planOf(proposal, stats, CALIBRATORS.minmax) };
}

/** One line a site, one a skip. */
export function printSites({ plan }: PlanBundle): string[] {
  const uses = (c: (typeof plan.sites)[number]["consumers"]): string =>
    c === "all" ? "all" : c.map((x) => `${x.node}#${x.input}`).join(" ");
  const grain = (s: (typeof plan.sites)[number]): string =>
    s.scheme.granularity.kind === "tensor"
      ? ""
      : s.scheme.granularity.kind === "channel"
        ? `/axis ${s.scheme.granularity.axis}`
        : `/block ${s.scheme.granularity.size}`;
  return [
    ...plan.sites.map(
      (s) => `${s.kind} ${s.value} ${s.scheme.dtype}${grain(s)} -> ${uses(s.consumers)}${"form" in s && s.form ? ` as ${s.form}` : ""}`,
    ),
    ...plan.skips.map((s) => `float ${s.op} ${s.node}: ${s.code}`),
  ];
}
