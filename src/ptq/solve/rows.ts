import { type Beam, beamOf, roundWithBeam } from "./beam.ts";
import { copyState, descend, descendPairs, type RowState, refitScales, refresh, rowState, setRow } from "./descent.ts";
import { EXACT_MOST, enumerateRow } from "./exact.ts";
import { LANES, type Lanes, lanesOf, roundWithFeedback } from "./gptq.ts";
import { blocksOf, type Form, type Grid, newSolution, type Solution } from "./problem.ts";
import { fractions, type Spot, spotOf } from "./scales.ts";

/** How hard to look. */
export interface SolveEffort {
  /** Scales tried over the whole span, and again around the two best. */
  readonly coarse: number;
  readonly fine: number;
  /** Scales per row that get the polish. */
  readonly keep: number;
  /** Of those, how many go on to the costly polish: a beam search, and moves of two codes at once. 0: none. */
  readonly deep: number;
  /** Survivors in the beam; 0: no beam. */
  readonly beam: number;
}
export const SOLVE_DEFAULT: SolveEffort = { coarse: 8, fine: 4, keep: 2, deep: 1, beam: 6 };
/** From 8 bits on the weights' error is small beside that of 8-bit activations: what counts is the target, not the search. */
export const SOLVE_LIGHT: SolveEffort = { coarse: 4, fine: 0, keep: 1, deep: 0, beam: 0 };
export const SOLVE_BEST: SolveEffort = { coarse: 24, fine: 4, keep: 5, deep: 3, beam: 16 };

/** Rows that share one quadratic form: a layer, or one group of a grouped convolution. */
export interface RowGroup {
  readonly form: Form;
  /** What to round: the continuous target W* [rows, k]. */
  readonly w: Float64Array;
  readonly rows: number;
}

/** Solves every group; one solution each, in order. */
export function solveGroups(groups: readonly RowGroup[], grid: Grid, effort: SolveEffort = SOLVE_DEFAULT): Solution[] {
  if (grid.shared) return solveShared(groups, grid, effort);
  return groups.map((g) => (grid.block < g.form.k ? solveBlocks(g, grid, effort) : solveChannels(g, grid, effort)));
}

const spot = (): Spot => ({ scale: 1, lo: 0, hi: 0, zero: 0 });

/** Puts row `at` into a lane at one scale; bounds are written when they change. */
function fillLane(lanes: Lanes, lane: number, k: number, w: Float64Array, at: number, p: Spot): void {
  const { lo, hi, s } = lanes;
  for (let i = 0, x = lane; i < k; i++, x += LANES) {
    lanes.w[x] = w[at + i]!;
    s[x] = p.scale;
  }
  if (lo[lane] === p.lo && hi[lane] === p.hi) return;
  for (let i = 0, x = lane; i < k; i++, x += LANES) {
    lo[x] = p.lo;
    hi[x] = p.hi;
  }
}

interface Candidate {
  readonly f: number;
  loss: number;
  state?: RowState;
}

/** One scale a row: the best of many scales with error feedback (small kernels: exactly), the few best polished, the best kept. */
function solveChannels({ form, w, rows }: RowGroup, grid: Grid, effort: SolveEffort): Solution {
  const { k, h } = form;
  const out = newSolution(rows, k, k);
  const coarse = fractions(grid, effort.coarse);
  const pitch = coarse.length > 1 ? coarse[1]! - coarse[0]! : 0;
  const lanes = lanesOf(k);
  const states = Array.from({ length: effort.keep }, () => rowState(k, k));
  const spare = rowState(k, k);
  const batch: Deep[][] = [];
  const slots: RowState[][] = Array.from({ length: Math.max(1, effort.deep) }, () => []);
  const hc = new Float64Array(k);
  const beam = effort.beam > 0 && k > EXACT_MOST ? beamOf(form, effort.beam) : undefined;
  const work = { g: new Float64Array(k), down: new Float64Array(k), up: new Float64Array(k) };
  const p = spot();
  const exact = k <= EXACT_MOST;

  const measure = (at: number, fs: readonly number[]): Candidate[] => {
    const found: Candidate[] = [];
    if (exact) {
      for (const f of fs) {
        spotOf(grid, w, at, at + k, f, p);
        found.push({ f, loss: enumerateRow(h, k, w, at, p.scale, p.lo, p.hi, spare.c, work) });
      }
      return found;
    }
    for (let n = 0; n < fs.length; n += LANES) {
      for (let v = 0; v < LANES; v++) fillLane(lanes, v, k, w, at, spotOf(grid, w, at, at + k, fs[Math.min(n + v, fs.length - 1)]!, p));
      roundWithFeedback(form, lanes);
      for (let v = 0; v < LANES && n + v < fs.length; v++) found.push({ f: fs[n + v]!, loss: lanes.loss[v]! });
    }
    return found;
  };
  const byLoss = (a: Candidate, b: Candidate) => a.loss - b.loss || a.f - b.f;

  for (let m = 0; m < rows; m++) {
    const at = m * k;
    const all = measure(at, [...coarse]).sort(byLoss);
    if (effort.fine > 0 && pitch > 0) {
      const more = new Set<number>();
      for (const { f } of all.slice(0, 2))
        for (let d = 1; d <= effort.fine / 2; d++) for (const sign of [-1, 1]) more.add(f + (sign * d * pitch) / (effort.fine / 2 + 1));
      all.push(...measure(at, [...more]));
      all.sort(byLoss);
    }
    const kept = all.slice(0, effort.keep);
    setRow(spare, h, w, at);
    for (const t of states) t.hw.set(spare.hw);
    for (let n = 0; n < kept.length; n += LANES) {
      if (!exact) {
        for (let v = 0; v < LANES; v++)
          fillLane(lanes, v, k, w, at, spotOf(grid, w, at, at + k, kept[Math.min(n + v, kept.length - 1)]!.f, p));
        roundWithFeedback(form, lanes);
      }
      for (let v = 0; v < LANES && n + v < kept.length; v++) {
        const state = states[n + v]!;
        spotOf(grid, w, at, at + k, kept[n + v]!.f, p);
        if (exact) enumerateRow(h, k, w, at, p.scale, p.lo, p.hi, state.c, work);
        else for (let i = 0; i < k; i++) state.c[i] = lanes.c[i * LANES + v]!;
        state.s[0] = p.scale;
        state.lo[0] = p.lo;
        state.hi[0] = p.hi;
        refresh(state, h, w, at);
        polish(state, form, hc);
        kept[n + v]!.loss = state.loss;
        kept[n + v]!.state = state;
      }
    }
    kept.sort((a, b) => a.state!.loss - b.state!.loss || a.f - b.f);
    const chosen = kept.slice(0, exact ? 1 : Math.max(1, effort.deep));
    chosen.forEach(({ f, state }, n) => {
      const t = (batch[n] ??= []);
      const slot = (slots[n]![m % BATCH] ??= rowState(k, k));
      copyState(state!, slot);
      spotOf(grid, w, at, at + k, f, p);
      t.push({ row: m, zero: p.zero, state: slot });
    });
    if ((m + 1) % BATCH !== 0 && m + 1 < rows) continue;
    for (const t of batch) {
      if (!exact && effort.deep > 0) deepen(t, form, w, beam, spare, hc);
      for (const { row, zero, state } of t) {
        if (!(state.loss < out.loss[row]!)) continue;
        out.loss[row] = state.loss;
        out.scales[row] = state.s[0]!;
        out.zeros[row] = zero;
        for (let i = 0; i < k; i++) out.codes[row * k + i] = state.c[i]!;
      }
      t.length = 0;
    }
  }
  return out;
}

/** Rows that are polished together: their states fill a level-2 cache, and each row of H is read once for all of them. */
const BATCH = 8;

interface Deep {
  readonly row: number;
  readonly zero: number;
  readonly state: RowState;
}

/** The costly polish: a beam search at the scales found, kept where better, then moves of two codes. */
function deepen(rows: readonly Deep[], form: Form, w: Float64Array, beam: Beam | undefined, spare: RowState, hc: Float64Array): void {
  const { k, h, diag } = form;
  if (beam)
    for (const { row, state } of rows) {
      spare.s.set(state.s);
      spare.lo.set(state.lo);
      spare.hi.set(state.hi);
      spare.hw.set(state.hw);
      roundWithBeam(form, beam, w, row * k, spare.s, spare.lo, spare.hi, spare.block, spare.c);
      refresh(spare, h, w, row * k);
      polish(spare, form, hc);
      if (spare.loss < state.loss) copyState(spare, state);
    }
  let open = rows.map((r) => r.state);
  for (let n = 0; n < PAIR_ROUNDS && descendPairs(open, h, diag) > 0; n++) {
    open = open.filter((s) => s.moved);
    for (const s of open) polish(s, form, hc);
  }
}

/** Later rounds move little (measured: 3 rounds are within 0.1 % of 6). */
const PAIR_ROUNDS = 3;

/** Codes and scales in turn, until neither moves (at most four rounds, as measured: later ones give nothing). */
export function polish(row: RowState, form: Form, hc: Float64Array): void {
  const { h } = form;
  for (let round = 0; round < 4; round++) {
    descend(row, h);
    if (!refitScales(row, h, hc)) return;
  }
  descend(row, h);
}

/** Static scales per block: each from its own block of H, then feedback over the whole row, then the polish. */
function solveBlocks({ form, w, rows }: RowGroup, grid: Grid, effort: SolveEffort): Solution {
  const { k, h } = form;
  const nb = blocksOf(k, grid.block);
  const out = newSolution(rows, k, grid.block);
  const fs = fractions(grid, effort.coarse + effort.fine);
  const lanes = lanesOf(k);
  const row = rowState(k, grid.block);
  const spare = rowState(k, grid.block);
  const beam = effort.deep > 0 && effort.beam > 0 ? beamOf(form, effort.beam) : undefined;
  const hc = new Float64Array(k);
  const e = new Float64Array(grid.block);
  const p = spot();
  const spots = Array.from({ length: nb * LANES }, spot);
  for (let m0 = 0; m0 < rows; m0 += LANES) {
    for (let v = 0; v < LANES; v++) {
      const at = Math.min(m0 + v, rows - 1) * k;
      for (let b = 0; b < nb; b++) {
        const from = b * grid.block;
        const to = Math.min(k, from + grid.block);
        const chosen = spots[b * LANES + v]!;
        let least = Infinity;
        for (const f of fs) {
          spotOf(grid, w, at + from, at + to, f, p);
          const loss = nearestLoss(h, k, w, at, from, to, p, e);
          if (loss < least) {
            least = loss;
            Object.assign(chosen, p);
          }
        }
        for (let i = from, x = from * LANES + v; i < to; i++, x += LANES) {
          lanes.w[x] = w[at + i]!;
          lanes.s[x] = chosen.scale;
          lanes.lo[x] = chosen.lo;
          lanes.hi[x] = chosen.hi;
        }
      }
    }
    roundWithFeedback(form, lanes);
    for (let v = 0; v < LANES && m0 + v < rows; v++) {
      const m = m0 + v;
      for (let i = 0; i < k; i++) row.c[i] = lanes.c[i * LANES + v]!;
      for (let b = 0; b < nb; b++) {
        const s = spots[b * LANES + v]!;
        row.s[b] = s.scale;
        row.lo[b] = s.lo;
        row.hi[b] = s.hi;
        out.zeros[m * nb + b] = s.zero;
      }
      setRow(row, h, w, m * k);
      spare.hw.set(row.hw);
      refresh(row, h, w, m * k);
      polish(row, form, hc);
      if (effort.deep > 0) deepen([{ row: m, zero: 0, state: row }], form, w, beam, spare, hc);
      out.loss[m] = row.loss;
      out.scales.set(row.s, m * nb);
      for (let i = 0; i < k; i++) out.codes[m * k + i] = row.c[i]!;
    }
  }
  return out;
}

/** Loss of rounding one block to nearest, the rest of the row being exact: e_bᵀ H_bb e_b. */
function nearestLoss(h: Float64Array, k: number, w: Float64Array, at: number, from: number, to: number, p: Spot, e: Float64Array): number {
  for (let i = from; i < to; i++) {
    const q = Math.min(p.hi, Math.max(p.lo, Math.round(w[at + i]! / p.scale)));
    e[i - from] = p.scale * q - w[at + i]!;
  }
  let loss = 0;
  for (let i = from; i < to; i++) {
    let s = 0;
    for (let j = from; j < to; j++) s += h[i * k + j]! * e[j - from]!;
    loss += s * e[i - from]!;
  }
  return loss;
}

/** One scale for all rows of all groups: scales judged by their summed loss, then codes polished in turn with the common scale. */
function solveShared(groups: readonly RowGroup[], grid: Grid, effort: SolveEffort): Solution[] {
  let length = 0;
  for (const g of groups) length += g.rows * g.form.k;
  const joined = new Float64Array(length);
  let end = 0;
  for (const g of groups) {
    joined.set(g.w.subarray(0, g.rows * g.form.k), end);
    end += g.rows * g.form.k;
  }
  const p = spot();
  const out = groups.map((g) => newSolution(g.rows, g.form.k, g.form.k));
  const lanes = groups.map((g) => lanesOf(g.form.k));

  /** Rounds everything at scale p; the summed loss. Codes go to `out` when `keep`. */
  const roundAll = (keep: boolean): number => {
    let total = 0;
    groups.forEach(({ form, w, rows }, n) => {
      const { k } = form;
      const lane = lanes[n]!;
      for (let m0 = 0; m0 < rows; m0 += LANES) {
        for (let v = 0; v < LANES; v++) fillLane(lane, v, k, w, Math.min(m0 + v, rows - 1) * k, p);
        roundWithFeedback(form, lane);
        for (let v = 0; v < LANES && m0 + v < rows; v++) {
          total += lane.loss[v]!;
          if (keep) for (let i = 0; i < k; i++) out[n]!.codes[(m0 + v) * k + i] = lane.c[i * LANES + v]!;
        }
      }
    });
    return total;
  };
  let least = Infinity;
  let best = 1;
  for (const f of fractions(grid, effort.coarse)) {
    spotOf(grid, joined, 0, length, f, p);
    const loss = roundAll(false);
    if (loss < least) {
      least = loss;
      best = f;
    }
  }
  spotOf(grid, joined, 0, length, best, p);
  roundAll(true);
  for (let round = 0; round < 3; round++) {
    let cg = 0;
    let chc = 0;
    groups.forEach(({ form, w, rows }, n) => {
      const { k, h } = form;
      const s = out[n]!;
      const row = rowState(k, k);
      const hc = new Float64Array(k);
      row.s[0] = p.scale;
      row.lo[0] = p.lo;
      row.hi[0] = p.hi;
      for (let m = 0; m < rows; m++) {
        for (let i = 0; i < k; i++) row.c[i] = s.codes[m * k + i]!;
        refresh(row, h, w, m * k);
        descend(row, h);
        for (let n = 0; n < PAIR_ROUNDS && effort.deep > 0 && descendPairs([row], h, form.diag) > 0; n++) descend(row, h);
        for (let i = 0; i < k; i++) {
          s.codes[m * k + i] = row.c[i]!;
          cg += row.c[i]! * row.g[i]!;
        }
        hc.fill(0);
        for (let i = 0; i < k; i++) if (row.c[i] !== 0) for (let j = 0; j < k; j++) hc[j]! += row.c[i]! * h[i * k + j]!;
        for (let i = 0; i < k; i++) chc += row.c[i]! * hc[i]!;
        s.loss[m] = row.loss;
        s.scales[m] = p.scale;
        s.zeros[m] = p.zero;
      }
    });
    const next = Math.fround(p.scale - cg / chc);
    if (round === 2 || !(next > 0) || next === p.scale || !(chc > 0)) break;
    p.scale = next;
  }
  return out;
}
