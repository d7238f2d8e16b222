import { Random } from "../random.ts";

/** Two-sided 95 % of the normal distribution. */
const Z = 1.959963984540054;

/**
 * Wilson's score interval of a rate of `k` in `n` (Wilson 1927):
 * centre = (p + z²/2n) / (1 + z²/n);  half = z / (1 + z²/n) · sqrt(p(1−p)/n + z²/4n²)
 */
export function wilsonInterval(k: number, n: number): readonly [number, number] {
  const p = k / n;
  const d = 1 + (Z * Z) / n;
  const half = (Z / d) * Math.sqrt((p * (1 - p)) / n + (Z * Z) / (4 * n * n));
  const centre = (p + (Z * Z) / (2 * n)) / d;
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

/** mean ± z · standard error; undefined for fewer than two values. */
export function meanInterval(x: readonly number[]): readonly [number, number] | undefined {
  if (x.length < 2) return undefined;
  const m = mean(x);
  let square = 0;
  for (const v of x) square += (v - m) ** 2;
  const se = Math.sqrt(square / (x.length - 1) / x.length);
  return [m - Z * se, m + Z * se];
}

export function mean(x: readonly number[]): number {
  let sum = 0;
  for (const v of x) sum += v;
  return sum / x.length;
}

/**
 * Percentile bootstrap over samples (Efron 1979): `value` gets how often each of the `n` samples was drawn. Seeded, so that a report is
 * the same each time.
 */
export function bootstrapInterval(n: number, value: (times: Uint32Array) => number, rounds = 300): readonly [number, number] | undefined {
  if (n < 2) return undefined;
  const random = new Random(1);
  const times = new Uint32Array(n);
  const found: number[] = [];
  for (let r = 0; r < rounds; r++) {
    times.fill(0);
    for (let i = 0; i < n; i++) {
      const k = random.below(n);
      times[k] = times[k]! + 1;
    }
    const v = value(times);
    if (!Number.isNaN(v)) found.push(v);
  }
  if (found.length < rounds / 2) return undefined;
  found.sort((a, b) => a - b);
  const at = (q: number) => found[Math.round(q * (found.length - 1))]!;
  return [at(0.025), at(0.975)];
}
