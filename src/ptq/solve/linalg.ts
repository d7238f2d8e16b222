/**
 * Small dense linear algebra in float64, row-major. Sizes here are the inputs of one output channel (9 … a few thousand).
 */

/** Tile edge: three tiles of 64 x 64 doubles (96 KB) stay in a level-2 cache. */
const TILE = 64;

/**
 * Upper Cholesky factor in place: A = RᵀR, A symmetric positive definite [n, n] (the upper triangle is read), R upper, the lower triangle
 * is left as it was. Returns false when a pivot is not positive; `a` is then spoilt.
 * Right-looking over tiles of rows: factor the tile's rows, then A₂₂ −= R₁₂ᵀ R₁₂, four columns of R₁₂ at a time.
 */
export function choleskyUpper(a: Float64Array, n: number): boolean {
  for (let t = 0; t < n; t += TILE) {
    const end = Math.min(n, t + TILE);
    for (let i = t; i < end; i++) {
      const ri = i * n;
      const pivot = a[ri + i]!;
      if (!(pivot > 0) || pivot === Infinity) return false;
      const inv = 1 / Math.sqrt(pivot);
      for (let j = i; j < n; j++) a[ri + j]! *= inv;
      for (let r = i + 1; r < end; r++) {
        const f = a[ri + r]!;
        if (f === 0) continue;
        const rr = r * n;
        for (let j = r; j < n; j++) a[rr + j]! -= f * a[ri + j]!;
      }
    }
    for (let r = end; r < n; r++) subtractPanel(a, n, t, end, r);
  }
  return true;
}

/** A[r, r…] −= Σ_{i in [from, to)} R[i, r] · R[i, r…]. */
function subtractPanel(a: Float64Array, n: number, from: number, to: number, r: number): void {
  const rr = r * n;
  let i = from;
  for (; i + 3 < to; i += 4) {
    const p0 = i * n;
    const p1 = p0 + n;
    const p2 = p1 + n;
    const p3 = p2 + n;
    const f0 = a[p0 + r]!;
    const f1 = a[p1 + r]!;
    const f2 = a[p2 + r]!;
    const f3 = a[p3 + r]!;
    for (let j = r; j < n; j++) a[rr + j]! -= f0 * a[p0 + j]! + f1 * a[p1 + j]! + f2 * a[p2 + j]! + f3 * a[p3 + j]!;
  }
  for (; i < to; i++) {
    const p = i * n;
    const f = a[p + r]!;
    for (let j = r; j < n; j++) a[rr + j]! -= f * a[p + j]!;
  }
}

/** Solves x RᵀR = b for every row of b [rows, n], in place. */
export function solveRows(r: Float64Array, n: number, b: Float64Array, rows: number): void {
  for (let m = 0; m < rows; m++) {
    const x = b.subarray(m * n, (m + 1) * n);
    // Rᵀ y = b, forwards: after y_i is known, take its part out of the rest (contiguous in row i of R).
    for (let i = 0; i < n; i++) {
      const p = i * n;
      const y = x[i]! / r[p + i]!;
      x[i] = y;
      if (y === 0) continue;
      for (let j = i + 1; j < n; j++) x[j]! -= y * r[p + j]!;
    }
    // R x = y, backwards.
    for (let i = n - 1; i >= 0; i--) {
      const p = i * n;
      let s = x[i]!;
      for (let j = i + 1; j < n; j++) s -= r[p + j]! * x[j]!;
      x[i] = s / r[p + i]!;
    }
  }
}

/** out[rows, n] = x[rows, k] · b[k, n]. */
export function multiply(x: Float64Array, b: Float64Array, rows: number, k: number, n: number, out: Float64Array): void {
  out.fill(0);
  for (let i0 = 0; i0 < k; i0 += TILE) {
    const i1 = Math.min(k, i0 + TILE);
    for (let m = 0; m < rows; m++) {
      const o = m * n;
      let i = i0;
      for (; i + 3 < i1; i += 4) {
        const p = m * k + i;
        const f0 = x[p]!;
        const f1 = x[p + 1]!;
        const f2 = x[p + 2]!;
        const f3 = x[p + 3]!;
        const b0 = i * n;
        const b1 = b0 + n;
        const b2 = b1 + n;
        const b3 = b2 + n;
        for (let j = 0; j < n; j++) out[o + j]! += f0 * b[b0 + j]! + f1 * b[b1 + j]! + f2 * b[b2 + j]! + f3 * b[b3 + j]!;
      }
      for (; i < i1; i++) {
        const f = x[m * k + i]!;
        const b0 = i * n;
        for (let j = 0; j < n; j++) out[o + j]! += f * b[b0 + j]!;
      }
    }
  }
}

/** Indices that sort `keys` ascending; equal keys keep their order. */
export function argsort(keys: Float64Array): Int32Array {
  const order = Int32Array.from(keys, (_, i) => i);
  return order.sort((a, b) => keys[a]! - keys[b]! || a - b);
}
