/** Seeded numbers for tests: mulberry32 and Box-Muller. */
export function uniforms(seed: number): () => number {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), s | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function gaussians(n: number, seed: number): Float64Array {
  const u = uniforms(seed);
  return Float64Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(1 - u())) * Math.cos(2 * Math.PI * u()));
}

/** Correlated, one-sided inputs [t, k], like those behind a ReLU. */
export function skewedInputs(t: number, k: number, seed: number): Float64Array {
  const z = Math.max(2, Math.floor(k / 5));
  const mix = gaussians(k * z, seed);
  const latent = gaussians(t * z, seed + 1);
  const noise = gaussians(t * k, seed + 2);
  const x = new Float64Array(t * k);
  for (let n = 0; n < t; n++)
    for (let i = 0; i < k; i++) {
      let s = 0.5 * noise[n * k + i]!;
      for (let j = 0; j < z; j++) s += mix[i * z + j]! * latent[n * z + j]!;
      x[n * k + i] = Math.max(0, s);
    }
  return x;
}

/** XᵀX / t [k, k]. */
export function gramOf(x: Float64Array, t: number, k: number): Float64Array {
  const h = new Float64Array(k * k);
  for (let n = 0; n < t; n++) for (let i = 0; i < k; i++) for (let j = 0; j < k; j++) h[i * k + j]! += (x[n * k + i]! * x[n * k + j]!) / t;
  return h;
}
