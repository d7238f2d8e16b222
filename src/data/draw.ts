import { Random } from "./random.ts";

/**
 * `n` of the samples with the classes in proportion: each class gets the whole part of its share, and what is left goes to the largest
 * remainders (Hamilton). No class is further than one sample from its share.
 */
export function drawStratified(
  pool: readonly number[],
  classes: readonly (number | undefined)[] | undefined,
  n: number,
  seed: number,
): number[] {
  const byClass = new Map<number | undefined, number[]>();
  for (const i of pool) {
    const c = classes?.[i];
    const list = byClass.get(c);
    if (list === undefined) byClass.set(c, [i]);
    else list.push(i);
  }
  const most = Math.min(n, pool.length);
  const shares = [...byClass].map(([c, list]) => ({ c, list, exact: (most * list.length) / pool.length }));
  const counts = shares.map((s) => Math.floor(s.exact));
  const order = shares.map((_, k) => k).sort((a, b) => shares[b]!.exact - counts[b]! - (shares[a]!.exact - counts[a]!) || a - b);
  let left = most - counts.reduce((a, b) => a + b, 0);
  for (const k of order) if (left-- > 0) counts[k]!++;
  const random = new Random(seed);
  return shares.flatMap((s, k) => random.shuffle([...s.list]).slice(0, counts[k])).sort((a, b) => a - b);
}
