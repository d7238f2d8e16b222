import { constantOf } from "../../graph/constant.ts";
import type { Model, Value } from "../../graph/ir.ts";
import { floats, tensorFrom } from "../../graph/tensor.ts";
import { Resolver } from "../../plan/resolve.ts";
import type { Numbers, PlanBundle, Site } from "../../plan/types.ts";
import { codeBounds, MIN_SCALE, ROUND_MAGIC } from "../../quant/affine.ts";
import { INT_DTYPES, isIntDType } from "../../quant/dtype.ts";
import type { Grid } from "../solve/problem.ts";
import { fractions, type Spot, spotOf } from "../solve/scales.ts";

type WeightSite = Extract<Site, { kind: "weight" }>;

/** Fractions of the plain range that are tried; what is between them the refinement finds. */
const TRIED = 12;
/** Rounds of moving scale and zero to the least squared error behind the chosen fraction. */
const REFITS = 3;

/**
 * Scales and zero points of weights in blocks from the weights alone: of each block the range is shrunk to the fraction with the least
 * squared error, and scale and zero are then refined against the codes in turn. For codes q the best scale of a block is
 *
 *   s* = Σ w (q − z) / Σ (q − z)²
 *
 * as in the half-quadratic search of HQQ with p = 2; each round can only lower the error. Weights with one scale a channel or tensor keep
 * theirs at 8 bits, where clipping has nothing to win.
 */
export function clipBlocks(model: Model, bundle: PlanBundle): PlanBundle {
  const resolve = new Resolver(model);
  const tensors = new Map(bundle.tensors);
  const sites = bundle.plan.sites.map((site, i): Site => {
    if (site.kind !== "weight" || site.codes || !isIntDType(site.scheme.dtype) || INT_DTYPES[site.scheme.dtype].bits >= 8) return site;
    const value = resolve.value(site.value);
    const found = clip(site, value);
    if (!found) return site;
    const stem = `c${String(i).padStart(4, "0")}`;
    const put = (name: string, x: Float32Array | Int32Array): Numbers => {
      if (x.every((y) => y === x[0])) return [x[0]!];
      tensors.set(name, x instanceof Float32Array ? floats(x) : tensorFrom(x));
      return { tensor: name };
    };
    for (const n of [site.scale, site.zeroPoint]) if ("tensor" in n) tensors.delete(n.tensor);
    return {
      ...site,
      scale: put(`${stem}.scale`, found.scale),
      zeroPoint: put(`${stem}.zero_point`, found.zero),
      because: `${site.because}; clipped by squared error`,
    };
  });
  return { plan: { ...bundle.plan, sites }, tensors };
}

/** Parameters in the order of the site: [outer, blocks, inner] of the blocked axis. */
function clip(site: WeightSite, value: Value): { scale: Float32Array; zero: Int32Array } | undefined {
  const { dtype, narrow, symmetric, granularity: g } = site.scheme;
  const view = constantOf(value);
  if (!view || g.kind !== "block" || !isIntDType(dtype)) return undefined;
  const w = view.float32();
  const { shape } = view;
  const length = shape[g.axis]!;
  const inner = shape.slice(g.axis + 1).reduce((a, b) => a * b, 1);
  const outer = w.length / (length * inner);
  const blocks = Math.ceil(length / g.size);
  const { min: lo, max: hi } = codeBounds(dtype, narrow);
  const grid: Grid = { lo, hi, zero: symmetric ? (lo < 0 ? 0 : (hi + 1) / 2) : "free", block: g.size, shared: false };
  const fs = fractions(grid, TRIED);
  const scale = new Float32Array(outer * blocks * inner);
  const zero = new Int32Array(scale.length);
  const x = new Float64Array(g.size);
  const best: Spot = { scale: 1, lo: 0, hi: 0, zero: 0 };
  const ones = new Float64Array(g.size).fill(1);
  for (let o = 0; o < outer; o++)
    for (let b = 0; b < blocks; b++) {
      const from = b * g.size;
      const n = Math.min(g.size, length - from);
      for (let c = 0; c < inner; c++) {
        for (let i = 0; i < n; i++) x[i] = w[(o * length + from + i) * inner + c]!;
        clipRange(grid, x, 0, n, fs, best, ones, 0);
        refine(best, x, 0, n, ones, 0);
        const at = (o * blocks + b) * inner + c;
        scale[at] = best.scale;
        zero[at] = best.zero;
      }
    }
  return { scale, zero };
}

/** Where one block's codes lie: real = scale · c, c an integer in [lo, hi]. */
export type Clip = Spot;
const tried: Clip = { scale: 1, lo: 0, hi: 0, zero: 0 };

/** The grid for w[from, to) whose range is the fraction of the plain one with the least Σ h_i e_i²; h starts at `weights[first]`. */
export function clipRange(
  grid: Grid,
  w: Float64Array,
  from: number,
  to: number,
  fs: Float64Array,
  out: Clip,
  weights: Float64Array,
  first: number,
): void {
  let least = Infinity;
  for (let f = fs.length - 1; f >= 0; f--) {
    spotOf(grid, w, from, to, fs[f]!, tried);
    const { scale, lo, hi } = tried;
    const inverse = 1 / scale;
    let e = 0;
    for (let i = from, h = first; i < to; i++, h++) {
      // Adding and taking away 1.5 · 2^52 rounds half to even.
      let c = w[i]! * inverse + ROUND_MAGIC - ROUND_MAGIC;
      if (c < lo) c = lo;
      else if (c > hi) c = hi;
      const d = scale * c - w[i]!;
      e += weights[h]! * d * d;
    }
    if (e >= least) continue;
    least = e;
    out.scale = scale;
    out.lo = lo;
    out.hi = hi;
    out.zero = tried.zero;
  }
}

/** Moves the scale to the least weighted error of its codes, Σ h w c / Σ h c², while that helps. */
export function refine(p: Clip, x: Float64Array, from: number, to: number, weights: Float64Array, first: number): void {
  const { lo, hi } = p;
  let last = Infinity;
  let s = p.scale;
  for (let round = 0; round <= REFITS; round++) {
    const inverse = 1 / s;
    let e = 0;
    let wc = 0;
    let cc = 0;
    for (let i = from, h = first; i < to; i++, h++) {
      let c = x[i]! * inverse + ROUND_MAGIC - ROUND_MAGIC;
      if (c < lo) c = lo;
      else if (c > hi) c = hi;
      const d = s * c - x[i]!;
      const f = weights[h]!;
      e += f * d * d;
      wc += f * x[i]! * c;
      cc += f * c * c;
    }
    if (e >= last) return;
    p.scale = s;
    last = e;
    const next = Math.fround(wc / cc);
    if (!(next >= MIN_SCALE) || next === s) return;
    s = next;
  }
}
