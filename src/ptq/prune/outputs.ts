import { gradients } from "../../grad/index.ts";
import { cloneModel } from "../../graph/clone.ts";
import type { Model, Value } from "../../graph/ir.ts";
import { writeModel } from "../../graph/onnx/index.ts";
import { tensorType, type ValueType } from "../../graph/types.ts";
import { requireOpset } from "../../prepare/opset/index.ts";
import { withOutputs } from "../../runtime/expose.ts";
import type { Feeds, Runtime, Tensor } from "../../runtime/types.ts";
import { judgedValues } from "../judge.ts";
import type { Layer } from "../layers.ts";
import { uniformAt } from "../random.ts";

const OPSET = 18;
/** Random signs for each sample. */
const DRAWS = 2;

/**
 * What an error of a layer's outputs does to the network's: for each row o of the layer the noise ÷ signal at the outputs that an error of
 * variance 1 at o makes, F_o = Σ over samples and positions of E_r g², g = Jᵀ r, r random signs scaled by 1/√signal (the diagonal of
 * the Fisher information of the outputs seen as Gaussian). Layers that no gradient reaches have none.
 */
export async function outputWeights(o: {
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly runtime: Runtime;
  readonly layers: readonly Layer[];
  readonly feeds: readonly Feeds[];
  readonly seed: number;
}): Promise<Map<string, Float64Array>> {
  const copy = cloneModel(o.model);
  if ((copy.opsets.get("") ?? 1) < OPSET) requireOpset(copy, OPSET);
  const outs = judgedValues(copy);
  const float = await o.runtime.open(
    writeModel(
      withOutputs(
        copy,
        outs.filter((v) => !v.isOutput).map((v) => v.name),
      ),
    ),
    { label: "float network" },
  );
  const names = outs.map((v) => v.name);
  const runs: Record<string, Tensor>[] = [];
  try {
    for (const f of o.feeds) runs.push(await float.run(f, names));
  } finally {
    await float.release();
  }
  const signal = names.map((name) => runs.reduce((sum, r) => sum + energy(r[name]!), 0));
  const used = signal.filter((s) => s > 0).length;

  const seeds = outs.map((_, i) => copy.graph.addInput(copy.graph.freshName(`seed${i}`), tensorType("float32")));
  const made = new Map(o.layers.map((l) => [l.key, copy.graph.values.get(l.node.outputs[0]!.name)!]));
  const { of } = gradients(copy, {
    of: outs.map((value, i) => ({ value, seed: seeds[i]! })),
    wrt: [...new Set(made.values())],
    types: o.types,
  });
  const gradientOf = new Map<string, Value>();
  for (const l of o.layers) {
    const g = of.get(made.get(l.key)!);
    if (!g) continue;
    if (!copy.graph.outputs.includes(g)) copy.graph.addOutput(g);
    gradientOf.set(l.key, g);
  }
  const out = new Map(o.layers.filter((l) => gradientOf.has(l.key)).map((l) => [l.key, new Float64Array(l.groups * l.rows)]));
  if (out.size === 0) return out;
  const wanted = [...new Set([...gradientOf.values()].map((g) => g.name))];
  const session = await o.runtime.open(writeModel(copy), { label: "gradients" });
  try {
    for (const [n, run] of runs.entries())
      for (let d = 0; d < DRAWS; d++) {
        const signs: Record<string, Tensor> = {};
        for (const [i, name] of names.entries()) {
          const t = run[name]!;
          const scale = signal[i]! > 0 ? 1 / Math.sqrt(signal[i]! * used) : 0;
          const data = Float32Array.from({ length: (t.data as Float32Array).length }, (_, k) =>
            uniformAt(o.seed + d, n * outs.length + i, k) < 0.5 ? -scale : scale,
          );
          signs[seeds[i]!.name] = { dtype: "float32", dims: t.dims, data };
        }
        const got = await session.run({ ...o.feeds[n]!, ...signs }, wanted);
        for (const l of o.layers) {
          const g = got[gradientOf.get(l.key)?.name ?? ""]?.data;
          const sums = out.get(l.key);
          if (!(g instanceof Float32Array) || !sums) continue;
          const positions = l.window ? g.length / sums.length / (got[gradientOf.get(l.key)!.name]!.dims[0] ?? 1) : 1;
          for (let k = 0; k < g.length; k++) sums[Math.floor(k / positions) % sums.length]! += (g[k]! * g[k]!) / DRAWS;
        }
      }
  } finally {
    await session.release();
  }
  return out;
}

function energy(t: Tensor): number {
  let sum = 0;
  if (t.data instanceof Float32Array) for (const v of t.data) sum += v * v;
  return sum;
}
