import type { Tensor } from "../runtime/types.ts";

export interface ExpectedDrop {
  readonly pt: number;
  readonly percent: number;
  /** What it is at most, with 95 % confidence. */
  readonly high: { readonly pt: number; readonly percent: number };
}

/** Logits of one decision, their mean taken off. */
interface Row {
  readonly z: Float64Array;
  /** The class, where it is known. */
  readonly label: number | undefined;
}

/** Standard errors of a one-sided bound of 95 %. */
const ONE_SIDED = 1.645;
/** Errors and decisions that are put together, at most. */
const MOST = { errors: 256, rows: 2048 } as const;
/** Temperatures that are tried where labels tell: a quarter to four. */
const TEMPERATURES = Array.from({ length: 33 }, (_, i) => 2 ** ((i - 16) / 8));

/**
 * What accuracy a change of the network should cost: where the two networks decide alike nothing changes, and where they do not, the float
 * network's own probabilities p say how often each is right:
 *
 *   E[acc_float − acc_quant] = mean over decisions and errors of p(argmax z) − p(argmax (z + e)) ≥ 0,   E[acc_float] = mean of p(argmax z).
 *
 * z are logits of the float network. e are errors of the logits, seen on samples that codes were not solved from (there errors are smaller),
 * each put on every z: a few samples tell what errors are like, and all of them where decisions are close. (In proportion to the size of the
 * logits one doubtful sample's error would count many times: an unsure network errs no less.)
 * p is the softmax of z, its temperature the one that fits the labels best where there are any (Guo et al. 2017, arXiv:1706.04599). Without
 * them a network that believes too much in itself makes the loss too large: the error is on the safe side.
 */
export class Belief {
  readonly #rows: Row[] = [];
  readonly #errors: Float64Array[] = [];
  #temperature: number | undefined;

  /** Decisions of the float network. */
  addFloat(float: Tensor, label?: number): void {
    for (const z of logitsOf(float)) if (this.#rows.length < MOST.rows) this.#rows.push({ z, label });
    this.#temperature = undefined;
  }

  /** Errors of a sample that codes were not solved from. */
  addError(float: Tensor, quant: Tensor): void {
    const [x, y] = [logitsOf(float), logitsOf(quant)];
    for (const [i, a] of x.entries()) {
      const b = y[i];
      if (b?.length === a.length && this.#errors.length < MOST.errors) this.#errors.push(a.map((v, j) => b[j]! - v));
    }
  }
  clearErrors(): void {
    this.#errors.length = 0;
  }

  /** In percent; undefined when nothing was added. */
  get drop(): ExpectedDrop | undefined {
    const [rows, errors] = [this.#rows.filter((r) => r.z.length === this.#errors[0]?.length), this.#errors];
    if (rows.length === 0 || errors.length === 0) return undefined;
    this.#temperature ??= temperatureOf(rows);
    const byRow = new Float64Array(rows.length);
    const byError = new Float64Array(errors.length);
    let sure = 0;
    for (const [r, { z }] of rows.entries()) {
      const p = softmax(z, this.#temperature);
      const own = argmax(z);
      sure += p[own]!;
      for (const [k, e] of errors.entries()) {
        const other = argmaxOf(z, e);
        if (other === own) continue;
        const lost = p[own]! - p[other]!;
        byRow[r]! += lost / errors.length;
        byError[k]! += lost / rows.length;
      }
    }
    const mean = byRow.reduce((a, b) => a + b, 0) / rows.length;
    // A mean over pairs: its variance is that of the rows' means and that of the errors' means.
    const error = Math.sqrt(spread(byRow, mean) / rows.length + spread(byError, mean) / errors.length);
    const of = (x: number) => ({ pt: 100 * x, percent: (100 * x * rows.length) / sure });
    return { ...of(mean), high: of(mean + ONE_SIDED * error) };
  }
}

/** Variance; of a single one as large as its square. */
function spread(x: Float64Array, mean: number): number {
  let sum = 0;
  for (const v of x) sum += (v - mean) ** 2;
  return x.length > 1 ? sum / (x.length - 1) : mean * mean;
}

/** Rows along the last axis. Probabilities (each row adds up to 1) are logits after the logarithm. */
function logitsOf(t: Tensor): Float64Array[] {
  const x = t.data;
  const n = t.dims.at(-1) ?? 0;
  if (!(x instanceof Float32Array) || n < 2) return [];
  const out: Float64Array[] = [];
  for (let from = 0; from + n <= x.length; from += n) {
    const z = Float64Array.from(x.subarray(from, from + n));
    if (z.every((v) => v >= 0) && Math.abs(z.reduce((a, b) => a + b, 0) - 1) < 1e-3)
      for (let i = 0; i < n; i++) z[i] = Math.log(Math.max(z[i]!, LEAST));
    const mean = z.reduce((a, b) => a + b, 0) / n;
    out.push(z.map((v) => v - mean));
  }
  return out;
}
/** Probabilities below this are 0 in float32 arithmetic of a softmax that anyone would trust. */
const LEAST = 1e-12;

function softmax(z: Float64Array, temperature: number): Float64Array {
  const most = Math.max(...z);
  const out = z.map((v) => Math.exp((v - most) / temperature));
  const sum = out.reduce((a, b) => a + b, 0);
  return out.map((v) => v / sum);
}

/** The temperature of least mean −log p(label); 1 where no label is known. */
function temperatureOf(rows: readonly Row[]): number {
  const labelled = rows.filter((r) => r.label !== undefined && r.label >= 0 && r.label < r.z.length);
  if (labelled.length === 0) return 1;
  let best = { t: 1, loss: Infinity };
  for (const t of TEMPERATURES) {
    const loss = labelled.reduce((sum, r) => sum - Math.log(Math.max(softmax(r.z, t)[r.label!]!, LEAST)), 0);
    if (loss < best.loss) best = { t, loss };
  }
  return best.t;
}

function argmax(z: Float64Array): number {
  let best = 0;
  for (let i = 1; i < z.length; i++) if (z[i]! > z[best]!) best = i;
  return best;
}
/** Of the sum. */
function argmaxOf(z: Float64Array, e: Float64Array): number {
  let best = 0;
  let most = -Infinity;
  for (let i = 0; i < z.length; i++) {
    const v = z[i]! + e[i]!;
    if (v > most) {
      most = v;
      best = i;
    }
  }
  return best;
}
