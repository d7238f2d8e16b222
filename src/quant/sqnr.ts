/** Signal-to-quantization-noise ratio in dB: 10 log10(sum x^2 / sum (x - y)^2). Infinity when equal, NaN-free for finite input. */
export function sqnrDb(x: ArrayLike<number>, y: ArrayLike<number>): number {
  if (x.length !== y.length) throw new RangeError(`internal: sqnr of ${x.length} and ${y.length} elements`);
  let signal = 0;
  let noise = 0;
  for (let i = 0; i < x.length; i++) {
    const a = x[i]!;
    const e = a - y[i]!;
    signal += a * a;
    noise += e * e;
  }
  return sqnrDbOf(signal, noise);
}

/** The same from the two sums of squares, for streaming callers. */
export function sqnrDbOf(signal: number, noise: number): number {
  if (noise === 0) return Infinity;
  if (signal === 0) return -Infinity;
  return 10 * Math.log10(signal / noise);
}
