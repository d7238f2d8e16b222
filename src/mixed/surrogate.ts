import { choleskyUpper, solveRows } from "../ptq/solve/linalg.ts";
import type { Choice } from "./build.ts";
import { keyOf } from "./menu.ts";
import type { Sensitivities } from "./point.ts";

/**
 * What the prior leaves open. own: of each single change, as a fraction of it; common: of all of them together; noise: of an evaluation, as a
 * fraction of what is predicted. The likeliest of the grid explains the evaluations.
 */
const GRID = {
  own: [0.1, 0.3, 1],
  common: [0.03, 0.3, 1],
  noise: [0.01, 0.05, 0.2],
} as const;

/**
 * Bayesian linear regression of the loss on which scheme each unit has, over the evaluations so far:
 *
 *   L(c) = L₀ + Σ_u θ(u, c_u) + ε,   θ ~ N(a, own²·diag(a²) + common²·a aᵀ),   ε ~ N(0, (noise·L̂(c))²),
 *
 * a(u, s) the loss that the change adds alone. Mean and variance of θ given n evaluations by the matrix K = Φ Σ Φᵀ + D [n, n]
 * (Rasmussen and Williams 2006, §2.1). The posterior mean is again a sum over units, so that the choice of least loss within a budget stays an
 * integer program; so is the sum of lower bounds mean − β·deviation of each θ, which proposes what to run next (combinatorial upper
 * confidence bounds: Chen, Wang, Yuan 2013). No random numbers.
 */
export class Surrogate {
  readonly start: number;
  /** By unit, by scheme. */
  readonly #alone = new Map<string, Map<string, number>>();
  readonly #seen = new Map<string, { readonly choice: Choice; readonly loss: number }>();
  #mean = new Map<string, Map<string, number>>();
  #deviation = new Map<string, Map<string, number>>();

  constructor({ start, rows }: Sensitivities) {
    this.start = start;
    for (const r of rows) {
      const of = this.#alone.get(r.unit) ?? new Map<string, number>();
      of.set(r.scheme, r.added);
      this.#alone.set(r.unit, of);
    }
    this.#fit();
  }

  /** Choices that were run, in that order. */
  get seen(): readonly { readonly choice: Choice; readonly loss: number }[] {
    return [...this.#seen.values()];
  }
  lossOf(choice: Choice): number | undefined {
    return this.#seen.get(keyOf(choice))?.loss;
  }

  learn(choice: Choice, loss: number): void {
    this.#seen.set(keyOf(choice), { choice, loss });
    this.#fit();
  }

  /** What a unit in a scheme is expected to add. */
  readonly added = (unit: string, scheme: string): number => this.#mean.get(unit)?.get(scheme) ?? 0;
  /** What it may add at the least, `beta` standard deviations below. */
  readonly bound =
    (beta: number) =>
    (unit: string, scheme: string): number =>
      this.added(unit, scheme) - beta * (this.#deviation.get(unit)?.get(scheme) ?? 0);

  predict(choice: Choice): number {
    let sum = this.start;
    for (const [unit, s] of choice) sum += this.added(unit, s.name);
    return sum;
  }

  #prior(unit: string, scheme: string): number {
    return this.#alone.get(unit)?.get(scheme) ?? 0;
  }

  #fit(): void {
    const seen = [...this.#seen.values()];
    const n = seen.length;
    // Single changes of a choice, as (unit, scheme) pairs with their prior.
    const features = seen.map(({ choice }) => [...choice].map(([u, s]) => ({ id: `${u}\t${s.name}`, a: this.#prior(u, s.name) })));
    const totals = features.map((f) => f.reduce((sum, x) => sum + x.a, 0));
    const residual = Float64Array.from(seen, (s, i) => s.loss - this.start - totals[i]!);
    // Σ a² over what two choices have in common.
    const shared = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      const own = new Map(features[i]!.map((x) => [x.id, x.a]));
      for (let j = 0; j <= i; j++) {
        let sum = 0;
        for (const x of features[j]!) if (own.has(x.id)) sum += x.a * x.a;
        shared[i * n + j] = sum;
        shared[j * n + i] = sum;
      }
    }
    const scale = seen.map((s, i) => Math.max(Math.abs(this.start + totals[i]!), Math.abs(s.loss), Number.MIN_VALUE));
    let best: Fit | undefined;
    if (n > 0)
      for (const own of GRID.own)
        for (const common of GRID.common)
          for (const noise of GRID.noise) {
            const fit = fitWith(shared, totals, scale, residual, { own, common, noise });
            if (fit && (!best || fit.evidence > best.evidence)) best = fit;
          }
    const { own, common } = best ?? { own: GRID.own[1], common: GRID.common[1] };
    const [mean, deviation] = [new Map<string, Map<string, number>>(), new Map<string, Map<string, number>>()];
    for (const [unit, schemes] of this.#alone) {
      const [m, d] = [new Map<string, number>(), new Map<string, number>()];
      for (const [scheme, a] of schemes) {
        const id = `${unit}\t${scheme}`;
        // cov(θ, y): own² a² where the choice has it, and common² a · Σ a.
        const cov = Float64Array.from(features, (f, i) => common ** 2 * a * totals[i]! + (f.some((x) => x.id === id) ? (own * a) ** 2 : 0));
        let shift = 0;
        for (let i = 0; i < n; i++) shift += cov[i]! * best!.weights[i]!;
        m.set(scheme, a + shift);
        let variance = (own ** 2 + common ** 2) * a * a;
        if (best) {
          const v = cov.slice();
          solveRows(best.factor, n, v, 1);
          for (let i = 0; i < n; i++) variance -= cov[i]! * v[i]!;
        }
        d.set(scheme, Math.sqrt(Math.max(0, variance)));
      }
      mean.set(unit, m);
      deviation.set(unit, d);
    }
    this.#mean = mean;
    this.#deviation = deviation;
  }
}

interface Fit {
  readonly evidence: number;
  /** K⁻¹ (y − Φ a). */
  readonly weights: Float64Array;
  readonly factor: Float64Array;
  readonly own: number;
  readonly common: number;
}

/** log p(y) = −½ rᵀ K⁻¹ r − ½ log det K + const. */
function fitWith(
  shared: Float64Array,
  totals: readonly number[],
  scale: readonly number[],
  residual: Float64Array,
  h: { readonly own: number; readonly common: number; readonly noise: number },
): Fit | undefined {
  const n = totals.length;
  const k = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++)
      k[i * n + j] = h.own ** 2 * shared[i * n + j]! + h.common ** 2 * totals[i]! * totals[j]! + (i === j ? (h.noise * scale[i]!) ** 2 : 0);
  if (!choleskyUpper(k, n)) return undefined;
  const weights = residual.slice();
  solveRows(k, n, weights, 1);
  let evidence = 0;
  for (let i = 0; i < n; i++) evidence -= 0.5 * residual[i]! * weights[i]! + Math.log(k[i * n + i]!);
  return { evidence, weights, factor: k, own: h.own, common: h.common };
}
