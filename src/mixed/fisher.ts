import { gradients } from "../grad/index.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Model, Value } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { tensorType, type ValueType } from "../graph/types.ts";
import { requireOpset } from "../prepare/opset/index.ts";
import { judgedValues } from "../ptq/judge.ts";
import { uniformAt } from "../ptq/random.ts";
import type { Feeds, Runtime, Tensor } from "../runtime/types.ts";
import type { Lab } from "./lab.ts";

export interface FisherRow {
  readonly unit: string;
  readonly scheme: string;
  /** Predicted growth of noise ÷ signal. */
  readonly added: number;
}
export interface FisherResult {
  readonly rows: readonly FisherRow[];
  /** Backward passes, one sample each. */
  readonly passes: number;
  /** Operators that no gradient passes. */
  readonly blocked: readonly string[];
}

const OPSET = 18;

/**
 * Sensitivities from gradients. A change Δy of a layer's output moves the outputs by J Δy; with random signs r over the outputs
 * E_r (g·Δy)² = ‖J Δy‖², g = Jᵀ r: one backward pass for each sample and draw gives g of every layer, and no forward pass behind the layer
 * is needed. Signs are scaled by 1/√(signal of the output · number of outputs), so that the sum over samples is noise ÷ signal as measured by
 * running. What it leaves out: the correlation of the change with the error that is there, and everything beyond first order.
 */
export async function fisher(
  lab: Lab,
  o: {
    readonly model: Model;
    readonly types: ReadonlyMap<string, ValueType>;
    readonly runtime: Runtime;
    readonly samples: number;
    readonly draws: number;
    readonly seed: number;
  },
): Promise<FisherResult> {
  const runs = lab.floatRuns.slice(0, o.samples);
  const changes: { readonly unit: string; readonly scheme: string; readonly value: string; readonly deltas: readonly Float32Array[] }[] =
    [];
  await lab.eachChange(runs.length, (u, scheme, value, deltas) => changes.push({ unit: u.key, scheme, value: value.name, deltas }));

  const copy = cloneModel(o.model);
  if ((copy.opsets.get("") ?? 1) < OPSET) requireOpset(copy, OPSET);
  const outs = judgedValues(copy);
  const seeds = outs.map((_, i) => copy.graph.addInput(copy.graph.freshName(`seed${i}`), tensorType("float32")));
  const wrt = [...new Set(changes.map((c) => c.value))].map((name) => copy.graph.values.get(name)!);
  const { of, blocked } = gradients(copy, { of: outs.map((value, i) => ({ value, seed: seeds[i]! })), wrt, types: o.types });
  const named = new Map<string, string>();
  for (const v of wrt) {
    const g: Value | undefined = of.get(v);
    if (!g) continue;
    if (!copy.graph.outputs.includes(g)) copy.graph.addOutput(g);
    named.set(v.name, g.name);
  }
  const signal = outs.map((_, i) => runs.reduce((sum, r) => sum + energy(r.outputs[i]!), 0));
  const used = signal.filter((s) => s > 0).length;
  const added = new Float64Array(changes.length);
  const names = [...new Set(named.values())];
  const session = await o.runtime.open(writeModel(copy), { label: "gradients" });
  let passes = 0;
  try {
    for (const [n, run] of runs.entries())
      for (let d = 0; d < o.draws; d++) {
        const signs: Record<string, Tensor> = {};
        for (const [i, t] of run.outputs.entries()) {
          const scale = signal[i]! > 0 ? 1 / Math.sqrt(signal[i]! * used) : 0;
          const count = (t.data as Float32Array).length;
          const data = Float32Array.from({ length: count }, (_, k) =>
            uniformAt(o.seed + d, n * outs.length + i, k) < 0.5 ? -scale : scale,
          );
          signs[seeds[i]!.name] = { dtype: "float32", dims: t.dims, data };
        }
        const got = await session.run({ ...(run.feeds as Feeds), ...signs }, names);
        passes++;
        for (const [c, change] of changes.entries()) {
          const g = got[named.get(change.value) ?? ""]?.data;
          if (!(g instanceof Float32Array)) continue;
          const delta = change.deltas[n]!;
          let dot = 0;
          for (let k = 0; k < delta.length; k++) dot += g[k]! * delta[k]!;
          added[c]! += (dot * dot) / o.draws;
        }
      }
  } finally {
    await session.release();
  }
  return {
    rows: changes.flatMap((c, i) => (named.has(c.value) ? [{ unit: c.unit, scheme: c.scheme, added: added[i]! }] : [])),
    passes,
    blocked: blocked.map((b) => b.node.name || b.node.op),
  };
}

function energy(t: Tensor): number {
  let sum = 0;
  if (t.data instanceof Float32Array) for (const v of t.data) sum += v * v;
  return sum;
}
