/** Ranks from 0, ties by their mean. */
export function ranksOf(x: readonly number[]): number[] {
  const order = x.map((_, i) => i).sort((a, b) => x[a]! - x[b]! || a - b);
  const out = new Array<number>(x.length);
  for (let i = 0; i < order.length; ) {
    let j = i;
    while (j < order.length && x[order[j]!] === x[order[i]!]) j++;
    for (let k = i; k < j; k++) out[order[k]!] = (i + j - 1) / 2;
    i = j;
  }
  return out;
}

/** Spearman's rank correlation; undefined below 2 values, or when one side is constant. */
export function rankCorrelation(a: readonly number[], b: readonly number[]): number | undefined {
  const [x, y] = [ranksOf(a), ranksOf(b)];
  const mean = (x.length - 1) / 2;
  let xy = 0;
  let xx = 0;
  let yy = 0;
  for (let i = 0; i < x.length; i++) {
    xy += (x[i]! - mean) * (y[i]! - mean);
    xx += (x[i]! - mean) ** 2;
    yy += (y[i]! - mean) ** 2;
  }
  return x.length < 2 || xx === 0 || yy === 0 ? undefined : xy / Math.sqrt(xx * yy);
}
