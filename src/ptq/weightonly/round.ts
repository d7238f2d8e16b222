import type { Gram } from "../gram.ts";
import { type Layer, rowsOf } from "../layers.ts";
import { gridOf, type Solved } from "../sequential.ts";
import { LANES, lanesOf, roundWithFeedback } from "../solve/gptq.ts";
import { blocksOf, type Form, formOf, type Grid, newSolution, quadratic, type Solution } from "../solve/problem.ts";
import { fractions } from "../solve/scales.ts";
import { type Clip, clipRange, refine } from "./clip.ts";

/** Positions of a layer's Gram statistics: more moved perplexity by less than its noise. */
export const POSITIONS = 16384;
/** Damping of the Gram matrix, as a fraction of its mean diagonal; grows tenfold where the factorization fails. */
const LAMBDA = 0.01;
/** Fractions of a block's range that are tried. */
const TRIED = 16;
/** Rows whose loss and energy stand for the layer's: all of them would cost as much as the rounding. */
const SAMPLE = 32;

/** One layer by GPTQ with act order and static scales a block, each clipped to the fraction of its range that its own part of H likes best. */
export function roundLayer(layer: Layer, grams: readonly Gram[]): Solved {
  const { rows, k, groups, rowStride, kStride } = layer;
  const w = rowsOf(layer, layer.weight.constant.float32());
  const grid = gridOf(layer);
  const forms = grams.map((g) => formFor(g, k));
  const solutions = forms.map((form, g) => roundRows(form, w[g]!, rows, grid));
  const nb = Math.ceil(k / grid.block);
  const count = groups * rows * k;
  const codes = grid.lo < 0 ? new Int8Array(count) : new Uint8Array(count);
  const scales = new Float32Array(groups * rows * nb);
  const zeros = new Int32Array(scales.length);
  let error = 0;
  let energy = 0;
  solutions.forEach((s, g) => {
    scales.set(s.scales, g * rows * nb);
    zeros.set(s.zeros, g * rows * nb);
    for (let m = 0; m < rows; m++)
      for (let i = 0; i < k; i++) {
        const b = m * nb + Math.floor(i / grid.block);
        const at = (g * rows + m) * rowStride + i * kStride;
        codes[at] = s.codes[m * k + i]! + s.zeros[b]!;
      }
    const step = Math.max(1, Math.floor(rows / SAMPLE));
    for (let m = 0; m < rows; m += step) {
      error += s.loss[m]!;
      energy += quadratic(grams[g]!.h, k, w[g]!.subarray(m * k, (m + 1) * k));
    }
  });
  const decoded = (): Float32Array => {
    const out = new Float32Array(count);
    for (let m = 0; m < groups * rows; m++)
      for (let i = 0; i < k; i++) {
        const b = m * nb + Math.floor(i / grid.block);
        const at = m * rowStride + i * kStride;
        out[at] = (codes[at]! - zeros[b]!) * scales[b]!;
      }
    return out;
  };
  return {
    layer,
    codes,
    scales,
    zeros,
    get weight() {
      return decoded();
    },
    stored: {
      dtype: "float32",
      shape: layer.weight.constant.shape,
      byteLength: 4 * count,
      bytes: () => new Uint8Array(decoded().buffer),
    },
    bias: undefined,
    get target() {
      return layer.weight.constant.float32();
    },
    targetBias: undefined,
    error: energy > 0 ? error / energy : 0,
  };
}

/** Forms of Gram matrices that several layers share (query, key and value). */
const FORMS = new WeakMap<Float64Array, Form>();
function formFor(gram: Gram, k: number): Form {
  const form = FORMS.get(gram.h) ?? formOf(gram.h, k, LAMBDA);
  FORMS.set(gram.h, form);
  return form;
}

/**
 * Rows [rows, k] with static scales: first the range of every block is clipped to the fraction with the least error weighted by the diagonal
 * of H (what rounding to nearest would do to the output, were inputs uncorrelated), then codes are chosen with feedback over the whole row.
 */
function roundRows(form: Form, w: Float64Array, rows: number, grid: Grid): Solution {
  const { k, diag } = form;
  const nb = blocksOf(k, grid.block);
  const out = newSolution(rows, k, grid.block);
  const fs = fractions(grid, TRIED);
  const lanes = lanesOf(k);
  const clips = Array.from({ length: nb * LANES }, (): Clip => ({ scale: 1, lo: 0, hi: 0, zero: 0 }));
  for (let m0 = 0; m0 < rows; m0 += LANES) {
    for (let v = 0; v < LANES; v++) {
      const at = Math.min(m0 + v, rows - 1) * k;
      for (let b = 0; b < nb; b++) {
        const from = b * grid.block;
        const to = Math.min(k, from + grid.block);
        const c = clips[b * LANES + v]!;
        clipRange(grid, w, at + from, at + to, fs, c, diag, from);
        refine(c, w, at + from, at + to, diag, from);
        for (let i = from, x = from * LANES + v; i < to; i++, x += LANES) {
          lanes.w[x] = w[at + i]!;
          lanes.s[x] = c.scale;
          lanes.lo[x] = c.lo;
          lanes.hi[x] = c.hi;
        }
      }
    }
    roundWithFeedback(form, lanes);
    for (let v = 0; v < LANES && m0 + v < rows; v++) {
      const m = m0 + v;
      out.loss[m] = lanes.loss[v]!;
      for (let b = 0; b < nb; b++) {
        out.scales[m * nb + b] = clips[b * LANES + v]!.scale;
        out.zeros[m * nb + b] = clips[b * LANES + v]!.zero;
      }
      for (let i = 0; i < k; i++) out.codes[m * k + i] = lanes.c[i * LANES + v]!;
    }
  }
  return out;
}
