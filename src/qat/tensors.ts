import { floats, type TensorData } from "../graph/tensor.ts";
import type { Numbers, Plan } from "../plan/types.ts";

/** One number stays in the document; more go to the tensors. */
export function numbersOf(tensors: Map<string, TensorData>, name: string, x: Float32Array): Numbers {
  if (x.length === 1) return [x[0]!];
  tensors.set(name, floats(x));
  return { tensor: name };
}

/** The tensors that a plan names: those it no longer names are dropped. */
export function referenced(plan: Plan, tensors: ReadonlyMap<string, TensorData>): ReadonlyMap<string, TensorData> {
  const names = new Set<string>();
  const add = (n: Numbers) => {
    if ("tensor" in n) names.add(n.tensor);
  };
  for (const s of plan.sites) {
    if (s.kind === "static" || s.kind === "weight") {
      add(s.scale);
      add(s.zeroPoint);
    }
    if (s.kind === "weight" && s.codes) names.add(s.codes.tensor);
  }
  for (const r of plan.replacements) names.add(r.tensor.tensor);
  for (const i of plan.insertions) names.add(i.by.tensor);
  for (const c of plan.pruned?.constants ?? []) names.add(c.tensor.tensor);
  return new Map([...tensors].filter(([name]) => names.has(name)));
}
