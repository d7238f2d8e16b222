/** Cosine from 1 to `floor` after a linear warm-up; t counts from 0 to steps − 1. */
export function cosine(t: number, steps: number, warmup: number, floor = 0): number {
  if (t < warmup) return (t + 1) / (warmup + 1);
  const at = Math.min(1, (t - warmup) / Math.max(1, steps - warmup));
  return floor + (1 - floor) * 0.5 * (1 + Math.cos(Math.PI * at));
}
