import type { Emit } from "../grad/index.ts";
import type { Value } from "../graph/ir.ts";

/**
 * `sgd`:  m ← μm + g;  p ← p − η·r·m.
 * `adam` (Kingma and Ba 2015), `adamw` (Loshchilov and Hutter 2019: decay apart from the gradient):
 *   m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  p ← p − η·r·m̂/(√v̂ + ε) [− η·r·λ·p].
 * r is the rate factor of each element. `clip` bounds the norm of the gradient.
 */
export type Optimizer =
  | { readonly kind: "sgd"; readonly momentum: number; readonly decay: number; readonly clip?: number }
  | {
      readonly kind: "adam" | "adamw";
      readonly beta1: number;
      readonly beta2: number;
      readonly epsilon: number;
      readonly decay: number;
      readonly clip?: number;
    };

export const OPTIMIZERS = {
  sgd: { kind: "sgd", momentum: 0.9, decay: 0 },
  adam: { kind: "adam", beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0 },
  adamw: { kind: "adamw", beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0.01 },
} as const satisfies Record<Optimizer["kind"], Optimizer>;

export function optimizerStates(o: Optimizer): readonly string[] {
  return o.kind === "sgd" ? ["momentum"] : ["moment1", "moment2"];
}

/** Scheduled scalars of step t (from 1) for a learning rate η: the bias corrections of Adam are in them. */
export function optimizerSchedule(o: Optimizer, rate: number, t: number): Readonly<Record<string, number>> {
  if (o.kind === "sgd") return { rate };
  const root = Math.sqrt(1 - o.beta2 ** t);
  // η·m̂/(√v̂ + ε) = η·√(1−β₂ᵗ)/(1−β₁ᵗ) · m/(√v + ε·√(1−β₂ᵗ)).
  const corrected = { rate: (rate * root) / (1 - o.beta1 ** t), epsilon: Math.max(o.epsilon * root, 1e-30) };
  return o.kind === "adamw" ? { ...corrected, plain: rate } : corrected;
}

/** Appends the update of a parameter vector. */
export function update(
  e: Emit,
  o: Optimizer,
  a: {
    readonly params: Value;
    readonly gradient: Value;
    readonly moments: readonly Value[];
    readonly rates: Value;
    /** Rate factors, 0 where there is no decay. */
    readonly decay: Value;
    readonly schedule: (name: string) => Value;
  },
): { readonly params: Value; readonly moments: readonly Value[] } {
  const k = (x: number) => e.scalar(x, "float32");
  const op = (name: string, ...inputs: Value[]) => e.op(name, inputs);
  let g = a.gradient;
  if (o.clip !== undefined) {
    const norm = e.op("ReduceL2", [g], { keepdims: 0 });
    g = op("Mul", g, op("Min", k(1), op("Div", k(o.clip), op("Max", norm, k(1e-20)))));
  }
  const decayed = o.decay > 0 ? op("Mul", op("Mul", a.params, a.decay), k(o.decay)) : undefined;
  const rates = op("Mul", a.rates, a.schedule("rate"));
  if (o.kind === "sgd") {
    if (decayed) g = op("Add", g, op("Mul", op("Mul", a.params, op("Sign", a.decay)), k(o.decay)));
    const m = op("Add", op("Mul", a.moments[0]!, k(o.momentum)), g);
    return { params: op("Sub", a.params, op("Mul", rates, m)), moments: [m] };
  }
  if (o.kind === "adam" && decayed) g = op("Add", g, op("Mul", op("Mul", a.params, op("Sign", a.decay)), k(o.decay)));
  const m = op("Add", op("Mul", a.moments[0]!, k(o.beta1)), op("Mul", g, k(1 - o.beta1)));
  const v = op("Add", op("Mul", a.moments[1]!, k(o.beta2)), op("Mul", op("Mul", g, g), k(1 - o.beta2)));
  const move = op("Div", op("Mul", rates, m), op("Add", op("Sqrt", v), a.schedule("epsilon")));
  let p = op("Sub", a.params, move);
  if (o.kind === "adamw" && decayed) p = op("Sub", p, op("Mul", decayed, a.schedule("plain")));
  return { params: p, moments: [m, v] };
}
