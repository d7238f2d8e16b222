import type { ValueStats } from "../calibrate/types.ts";
import { type QParams, quantize } from "../quant/affine.ts";
import { sqnrDbOf } from "../quant/sqnr.ts";

/** Share of the non-zero elements, by magnitude from below, that counts as the bulk. */
export const BULK = 0.999;
/** A stretch of this share of the largest magnitude without an element parts the bulk from marks such as the -1e9 of a mask, however many. */
const GAP = 0.5;
/** Below one bit (20 log10 2 dB) of the bulk's amplitude the codes carry less than its sign. */
export const LEAST_DB = 20 * Math.log10(2);

/**
 * What a range leaves of the bulk of a value: the SQNR over all non-zero elements but the 0.1 % of largest magnitude.
 *
 *   bulk = { x != 0 : |x| <= t },  t the 99.9 % quantile of |x|, or the lower edge of a gap of half the largest |x|
 *   SQNR = 10 log10( sum_bulk x^2 / sum_bulk (x - dequantize(quantize(x)))^2 )
 *
 * A plain SQNR hides this case: one element 400 times larger than the rest holds all of the power, so rounding everything else to zero
 * costs no dB. Exact zeros are left out: they are exact in any range (A3). A bin is taken as spread evenly: narrower than a step, all of
 * it gets the code of its centre (error e^2 + width^2 / 12); wider, rounding is even too (step^2 / 12).
 */
export function bulkSqnrDb(s: ValueStats, q: QParams): number {
  const h = s.hist;
  if (!h) return Number.POSITIVE_INFINITY;
  const width = 2 ** h.exp;
  const bins = h.counts.length;
  const total = h.counts.reduce((a, b) => a + b, 0);
  if (total === 0) return Number.POSITIVE_INFINITY;
  // Bins in order of magnitude: two pointers from the bins around zero outwards.
  const mid = (i: number): number => (h.first + i + 0.5) * width;
  let up = Math.min(bins, Math.max(0, -h.first));
  let down = up - 1;
  let left = BULK * total;
  let signal = 0;
  let noise = 0;
  let reached = 0; // magnitude up to which elements were taken
  const most = Math.max(Math.abs(s.min), Math.abs(s.max));
  while (left > 0 && (up < bins || down >= 0)) {
    const takeUp = down < 0 || (up < bins && Math.abs(mid(up)) <= Math.abs(mid(down)));
    const i = takeUp ? up++ : down--;
    const n = h.counts[i]!;
    if (n === 0) continue;
    if (signal > 0 && Math.abs(mid(i)) - reached > GAP * most) break;
    reached = Math.abs(mid(i));
    const take = Math.min(n, left);
    left -= take;
    const x = mid(i);
    const spread = (width * width) / 12;
    signal += take * (x * x + spread);
    const e = x - (quantize(x, q) - q.zeroPoint) * q.scale;
    noise += take * (width < q.scale ? e * e + spread : Math.max(e * e, (q.scale * q.scale) / 12));
  }
  return sqnrDbOf(signal, noise);
}

/**
 * What a range leaves of a value as a whole: 10 log10( sum x^2 / sum (x - dequantize(quantize(x)))^2 ) over every element. Clipping that
 * halves the elements that hold the power comes out at 6 dB, whatever share of the elements they are.
 */
export function wholeSqnrDb(s: ValueStats, q: QParams): number {
  const h = s.hist;
  if (!h) return Number.POSITIVE_INFINITY;
  const width = 2 ** h.exp;
  const spread = (width * width) / 12;
  let signal = 0;
  let noise = 0;
  for (let i = 0; i < h.counts.length; i++) {
    const n = h.counts[i]!;
    if (n === 0) continue;
    // Bins at the ends reach past the observed range.
    const x = Math.min(s.max, Math.max(s.min, (h.first + i + 0.5) * width));
    const e = x - (quantize(x, q) - q.zeroPoint) * q.scale;
    signal += n * (x * x + spread);
    noise += n * (width < q.scale ? e * e + spread : Math.max(e * e, (q.scale * q.scale) / 12));
  }
  return sqnrDbOf(signal, noise);
}
