/** Zero crossings of the sinc on each side, and the Kaiser window's β: pass band to 0.9 of Nyquist, stop band near −90 dB. */
const HALF = 24;
const BETA = 8.6;

/**
 * Another sample rate by a windowed sinc: y[m] = Σ_k x[k] · c·sinc(c·u) · w(u), u = m·from/to − k, where c = min(1, to/from) limits the
 * band and w is a Kaiser window over HALF/c samples on each side (Kaiser and Schafer 1980). ⌈n·to/from⌉ samples come out.
 */
export function resample(x: Float32Array, from: number, to: number): Float32Array {
  if (from === to) return x;
  const g = gcd(from, to);
  const [up, down] = [to / g, from / g];
  const c = Math.min(1, to / from);
  const reach = Math.ceil(HALF / c);
  const taps = 2 * reach;
  // The fraction of m·down/up takes `up` values: one row of weights each, for k = floor − reach + 1 … floor + reach.
  const rows = new Float64Array(up * taps);
  for (let p = 0; p < up; p++) {
    let sum = 0;
    for (let j = 0; j < taps; j++) {
      const u = p / up + reach - 1 - j;
      const w = kernel(u, c, HALF / c);
      rows[p * taps + j] = w;
      sum += w;
    }
    // Unit gain for a constant, whatever the phase.
    for (let j = 0; j < taps; j++) rows[p * taps + j] = rows[p * taps + j]! / sum;
  }
  const out = new Float32Array(Math.ceil((x.length * up) / down));
  for (let m = 0; m < out.length; m++) {
    const at = m * down;
    const whole = Math.floor(at / up);
    const row = (at % up) * taps;
    let s = 0;
    for (let j = 0; j < taps; j++) {
      const k = whole - reach + 1 + j;
      if (k >= 0 && k < x.length) s += x[k]! * rows[row + j]!;
    }
    out[m] = s;
  }
  return out;
}

function kernel(u: number, c: number, half: number): number {
  const r = u / half;
  if (Math.abs(r) >= 1) return 0;
  const a = Math.PI * c * u;
  return (a === 0 ? c : (c * Math.sin(a)) / a) * (bessel0(BETA * Math.sqrt(1 - r * r)) / bessel0(BETA));
}

/** Modified Bessel function of order 0, by its power series. */
function bessel0(x: number): number {
  let term = 1;
  let sum = 1;
  for (let k = 1; term > 1e-17 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function gcd(a: number, b: number): number {
  while (b !== 0) [a, b] = [b, a % b];
  return a;
}
