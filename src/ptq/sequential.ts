import { floats, type TensorData } from "../graph/tensor.ts";
import type { Feeds, Runtime } from "../runtime/types.ts";
import { crossOf, type Gram, GramEngine } from "./gram.ts";
import { boundsOf, type Layer, rowsOf } from "./layers.ts";
import { dependants, Prefix } from "./prefix.ts";
import { type Halves, readersOf } from "./reader.ts";
import { readBy } from "./segment.ts";
import type { AdaRound } from "./solve/adaround.ts";
import { EXACT_MOST } from "./solve/exact.ts";
import { multiply } from "./solve/linalg.ts";
import { formOf, type Grid, newSolution, quadratic, type Solution } from "./solve/problem.ts";
import { type RowGroup, SOLVE_LIGHT, type SolveEffort, solveGroups } from "./solve/rows.ts";
import { continuousTarget, correctedBias } from "./solve/target.ts";
import type { Streams } from "./streams.ts";

export interface SequentialOptions {
  readonly streams: Streams;
  readonly runtime: Runtime;
  readonly layers: readonly Layer[];
  readonly indices: readonly number[];
  readonly load: (index: number) => Promise<Feeds>;
  readonly memoryBytes: number;
  readonly seed: number;
  /** Positions that the statistics of a layer with k inputs take, over all samples. */
  readonly positions?: (k: number) => number;
  /** What to do at each layer once its statistics are there. */
  readonly solve: (layer: Layer, grams: readonly Gram[], halves: Halves | undefined) => Solved | Promise<Solved>;
  readonly progress?: (done: number, of: number, layer: string) => void;
  readonly signal?: AbortSignal;
}

/** What a layer got. `codes` are stored codes in the layout of the weight operand; scales and zero points one per row, or [rows, blocks]. */
export interface Solved {
  readonly layer: Layer;
  readonly codes: Int32Array | Uint8Array | Int8Array;
  readonly scales: Float32Array;
  readonly zeros: Int32Array;
  /** The dequantized weight, in the operand's layout. */
  readonly weight: Float32Array;
  /** The same, decoded from the codes whenever it is read: for networks whose weights would not fit twice. */
  readonly stored?: TensorData;
  readonly bias: Float32Array | undefined;
  /** The continuous target in the operand's layout, and the bias that goes with it: what more bits would come close to. */
  readonly target: Float32Array;
  readonly targetBias: Float32Array | undefined;
  /** Loss over the energy of the float layer's (centred) output: before is round-to-nearest of the plan. */
  readonly error: number;
}

/**
 * Positions a layer's statistics take: some for each input, so that k² numbers are known well, though neighbours are alike; never few.
 * Four times as many gave 0.2 dB more and cost twice the time on 3x3 kernels.
 */
export function positionsWanted(k: number): number {
  return Math.max(4096, Math.min(16384, 256 * k), 24 * k);
}

/**
 * Layers in execution order, each behind an already quantized prefix: statistics of its input in both streams, its rounding, and on. Layers
 * that do not depend on each other (query, key and value; heads) share a pass.
 */
export async function solveSequentially(o: SequentialOptions): Promise<Solved[]> {
  const { streams, layers } = o;
  const graph = streams.model.graph;
  const relevant = streams.ancestors(layers.map((l) => l.input));
  for (const l of layers) relevant.add(l.node);
  const prefix = new Prefix({ ...o, memoryBytes: o.memoryBytes });
  const engine = new GramEngine(o.runtime);
  const out: Solved[] = [];
  const readerOptions = { streams, engine, samples: o.indices.length, positions: o.positions ?? positionsWanted, seed: o.seed };
  try {
    for (let at = 0; at < layers.length; ) {
      // The longest run of layers none of which reads another's result.
      let end = at + 1;
      while (end < layers.length) {
        const after = dependants(graph.nodes, new Set(layers.slice(at, end).map((l) => l.node)), readBy);
        if (after.has(layers[end]!.node)) break;
        end++;
      }
      const wave = layers.slice(at, end);
      const readers = readersOf(wave, readerOptions);
      await prefix.advance(
        wave[0]!.index,
        readers.flatMap((r) => r.wants),
        relevant,
        new Set(readers.flatMap((r) => r.done)),
        async (n, tensors) => {
          for (let r = 0; r < readers.length; r++) await readers[r]!.add(n, tensors[2 * r]!, tensors[2 * r + 1]!);
        },
      );
      for (const layer of wave) {
        o.signal?.throwIfAborted();
        const reader = readers.find((r) => r.layers.includes(layer))!;
        const { grams, halves } = await reader.grams(layer.bias !== undefined);
        const solved = await o.solve(layer, grams, halves);
        streams.setWeight(layer.weight.value, solved.stored ?? floats(solved.weight, layer.weight.constant.shape));
        if (solved.bias && layer.bias) streams.setConstant(layer.bias.value, floats(solved.bias, layer.bias.value.data!.shape));
        out.push(solved);
        o.progress?.(out.length, layers.length, layer.key);
      }
      at = end;
    }
  } finally {
    await engine.release();
  }
  return out;
}

/** How one layer is solved. */
export interface SolveOptions {
  /** Damping, as a fraction of the mean diagonal. Measured on five networks: 0.001 … 0.1 differ by 0.3 dB. */
  readonly lambda: number;
  /** The continuous target W* (repairs what earlier layers broke) instead of W. */
  readonly asymmetric: boolean;
  readonly correctBias: boolean;
  readonly effort: SolveEffort;
  /** Learned rounding on top, row by row where it helps. */
  readonly learned?: { readonly engine: AdaRound; readonly steps: number };
  /** Little search. Default: for more than 6 bits. */
  readonly light?: boolean;
  /** Leaves the codes at the plan's (round-to-nearest, or solved before), so that only the bias changes. */
  readonly keepCodes?: boolean;
}
export const LAMBDA = 0.01;

/** Solves one layer from its statistics. */
export async function solveLayer(layer: Layer, grams: readonly Gram[], halves: Halves | undefined, o: SolveOptions): Promise<Solved> {
  const { rows, k, groups, rowStride, kStride } = layer;
  const w = rowsOf(layer, layer.weight.constant.float32());
  const grid = gridOf(layer);
  const lambda = halves && !o.keepCodes ? chooseLambda(w, halves, rows, k, grid, o) : o.lambda;
  const forms = grams.map((g) => formOf(g.h, k, lambda));
  const targets: RowGroup[] = forms.map((form, g) => ({
    form,
    w: o.asymmetric ? continuousTarget(w[g]!, grams[g]!, form, rows) : w[g]!,
    rows,
  }));
  const light = o.light ?? grid.hi - grid.lo > 64;
  const solutions = o.keepCodes ? storedRows(layer, targets) : solveGroups(targets, grid, light ? SOLVE_LIGHT : o.effort);
  if (o.learned && !o.keepCodes && !light) await learn(targets, solutions, grid, o.learned);
  const weight = new Float32Array(groups * rows * k);
  const target = new Float32Array(weight.length);
  const codes = new Int32Array(weight.length);
  const nb = Math.ceil(k / grid.block);
  const scales = new Float32Array(groups * rows * nb);
  const zeros = new Int32Array(scales.length);
  const bias = o.correctBias && layer.bias ? Float32Array.from(layer.bias.data) : undefined;
  const targetBias = bias && Float32Array.from(bias);
  let error = 0;
  let energy = 0;
  const e = new Float64Array(k);
  for (let g = 0; g < groups; g++) {
    const s = solutions[g]!;
    const gram = grams[g]!;
    scales.set(s.scales, g * rows * nb);
    zeros.set(s.zeros, g * rows * nb);
    const what = new Float64Array(rows * k);
    for (let m = 0; m < rows; m++)
      for (let i = 0; i < k; i++) {
        const b = m * nb + Math.floor(i / grid.block);
        const at = (g * rows + m) * rowStride + i * kStride;
        codes[at] = s.codes[m * k + i]! + s.zeros[b]!;
        const x = Math.fround(s.codes[m * k + i]! * s.scales[b]!);
        weight[at] = x;
        target[at] = targets[g]!.w[m * k + i]!;
        what[m * k + i] = x;
      }
    if (bias && targetBias) {
      const own = Float64Array.from(bias.subarray(g * rows, (g + 1) * rows));
      bias.set(correctedBias(own, w[g]!, what, gram, rows, k), g * rows);
      targetBias.set(correctedBias(own, w[g]!, targets[g]!.w, gram, rows, k), g * rows);
    }
    for (let m = 0; m < rows; m++) {
      error += s.loss[m]!;
      for (let i = 0; i < k; i++) e[i] = w[g]![m * k + i]!;
      energy += quadratic(gram.h, k, e);
    }
  }
  return { layer, codes, scales, zeros, weight, bias, target, targetBias, error: energy > 0 ? error / energy : 0 };
}

/** Multiplications of one step of learned rounding at most: beyond, a layer would take minutes. */
const MOST_LEARNED = 2 ** 27;

/** Learned rounding of layers with one scale a row; kernels that were enumerated have nothing to learn. */
async function learn(
  targets: readonly RowGroup[],
  solutions: Solution[],
  grid: Grid,
  o: NonNullable<SolveOptions["learned"]>,
): Promise<void> {
  for (const [g, t] of targets.entries()) {
    const { k } = t.form;
    if (k <= EXACT_MOST || grid.block < k || grid.zero === "free" || t.rows * k * k > MOST_LEARNED) continue;
    const bounds = { lo: grid.lo - grid.zero, hi: grid.hi - grid.zero };
    solutions[g] = (await o.engine.improve(t.form, t.w, solutions[g]!, bounds, o.steps)).solution;
  }
}

/** Tried from the least: with few positions, and strongly correlated ones, more damping generalizes better. */
const LAMBDAS = [0.003, 0.01, 0.03, 0.1, 0.3, 1, 3];
/** Rows that choose the damping: a sample of the layer's, for the time. */
const TRIAL_ROWS = 16;

/**
 * The damping whose solution from one half of the samples does best on the other: for V solved from one, the error on the other is
 * E‖W x − V x̂‖² = V Ĥ Vᵀ − 2 W C Vᵀ + const. A cheap rounding (one scale) of some rows is enough to choose.
 */
function chooseLambda(w: readonly Float64Array[], halves: Halves, rows: number, k: number, grid: Grid, o: SolveOptions): number {
  const trial = Math.min(rows, TRIAL_ROWS);
  const effort: SolveEffort = { coarse: 3, fine: 0, keep: 1, deep: 0, beam: 0 };
  let best = o.lambda;
  let least = Infinity;
  const v = new Float64Array(trial * k);
  const vh = new Float64Array(trial * k);
  for (const lambda of LAMBDAS) {
    let loss = 0;
    for (const [fit, check] of [halves, [halves[1], halves[0]] as const]) {
      const groups = fit.map((gram, g): RowGroup => {
        const form = formOf(gram.h, k, lambda);
        const part = w[g]!.subarray(0, trial * k);
        return { form, w: o.asymmetric ? continuousTarget(part, gram, form, trial) : part, rows: trial };
      });
      solveGroups(groups, grid, effort).forEach((s, g) => {
        const nb = s.scales.length / trial;
        for (let m = 0; m < trial; m++)
          for (let i = 0; i < k; i++) v[m * k + i] = s.codes[m * k + i]! * s.scales[m * nb + Math.floor(i / grid.block)]!;
        multiply(v, check[g]!.h, trial, k, k, vh);
        for (let p = 0; p < vh.length; p++) loss += v[p]! * vh[p]!;
        const wc = crossOf(w[g]!.subarray(0, trial * k), check[g]!, trial, k);
        for (let p = 0; p < wc.length; p++) loss -= 2 * v[p]! * wc[p]!;
      });
    }
    if (loss < least) {
      least = loss;
      best = lambda;
    }
  }
  return best;
}

/** The plan's own codes as a solution. */
function storedRows(layer: Layer, targets: readonly RowGroup[]): Solution[] {
  const { k, rows, rowStride, kStride } = layer;
  const { codes, scale, zeroPoint } = layer.stored();
  const block = gridOf(layer).block;
  const nb = Math.ceil(k / block);
  const blocked = layer.site.scheme.granularity.kind === "block";
  return targets.map(({ form, w }, g) => {
    const s = newSolution(rows, k, block);
    const e = new Float64Array(k);
    for (let m = 0; m < rows; m++) {
      const row = g * rows + m;
      for (let b = 0; b < nb; b++) {
        const at = blocked ? (kStride === 1 ? row * nb + b : b * rows + m) : row;
        s.scales[m * nb + b] = scale.length === 1 ? scale[0]! : scale[at]!;
        s.zeros[m * nb + b] = zeroPoint.length === 1 ? zeroPoint[0]! : zeroPoint[at]!;
      }
      for (let i = 0; i < k; i++) {
        const b = m * nb + Math.floor(i / block);
        s.codes[m * k + i] = codes[row * rowStride + i * kStride]! - s.zeros[b]!;
        e[i] = s.scales[b]! * s.codes[m * k + i]! - w[m * k + i]!;
      }
      s.loss[m] = quadratic(form.h, k, e);
    }
    return s;
  });
}

/** The grid of a layer's scheme. */
export function gridOf(layer: Layer): Grid {
  const { min, max } = boundsOf(layer);
  const { symmetric, granularity } = layer.site.scheme;
  return {
    lo: min,
    hi: max,
    zero: symmetric ? (min < 0 ? 0 : (max + 1) / 2) : "free",
    block: granularity.kind === "block" ? Math.min(granularity.size, layer.k) : layer.k,
    shared: granularity.kind === "tensor",
  };
}
