import { newModel } from "../graph/ir.ts";
import { writeModel } from "../graph/onnx/index.ts";
import { tensorType } from "../graph/types.ts";
import type { Runtime, Session } from "../runtime/types.ts";
import { multiply } from "./solve/linalg.ts";

/**
 * Second-order statistics of one layer's input, x of the float stream and x̂ of the quantized one, per group, over `count` positions;
 * centred: covariances.
 *
 *   Ĥ = E[x̂ x̂ᵀ] [k, k], μ̂ = E[x̂] [k];   of "input":  C = E[x x̂ᵀ] [k, k],    μ = E[x] [k]
 *                                         of "output": C = E[y x̂ᵀ] [rows, k], μ = E[y] [rows],  y = W x without the bias
 *
 * All that is ever asked of x is W C and W μ (`crossOf`, `meanOf`): taken from the float layer's own output they cost rows · k a position.
 */
export interface Gram {
  readonly h: Float64Array;
  readonly of: "input" | "output";
  readonly cross: Float64Array;
  readonly mean: Float64Array;
  readonly meanHat: Float64Array;
  readonly count: number;
}

/** W C [rows, k] of the float layer's weight W [rows, k], or of its first `rows` rows. */
export function crossOf(w: Float64Array, gram: Gram, rows: number, k: number): Float64Array {
  if (gram.of === "output") return gram.cross.subarray(0, rows * k);
  const out = new Float64Array(rows * k);
  multiply(w, gram.cross, rows, k, k, out);
  return out;
}

/** W μ [rows]. */
export function meanOf(w: Float64Array, gram: Gram, rows: number, k: number): Float64Array {
  if (gram.of === "output") return gram.mean.subarray(0, rows);
  const out = new Float64Array(rows);
  for (let m = 0; m < rows; m++) for (let i = 0; i < k; i++) out[m]! += w[m * k + i]! * gram.mean[i]!;
  return out;
}

/** Below this k the products are made here: the call of the engine costs more than the product. */
const SMALL = 40;
/** Elements of one buffered chunk, over all groups: 4 MB of float32 for each stream. */
const CHUNK = 2 ** 20;

/** The products of chunks: H = BᵀB and C = AᵀB for A [t, j], B [t, k], as one ONNX graph for every shape. */
export class GramEngine {
  readonly #session: Promise<Session>;

  constructor(runtime: Runtime) {
    const model = newModel(13, 8);
    const g = model.graph;
    const a = g.addInput("a", tensorType("float32", ["t", "j"]));
    const b = g.addInput("b", tensorType("float32", ["t", "k"]));
    for (const [name, left, rows] of [
      ["h", b, "k"],
      ["c", a, "j"],
    ] as const) {
      const out = g.append({ op: "Gemm", inputs: [left, b], outputs: [name], attrs: { transA: 1 } }).outputs[0]!;
      out.type = tensorType("float32", [rows, "k"]);
      g.addOutput(out);
    }
    this.#session = runtime.open(writeModel(model), { label: "gram" });
    this.#session.catch(() => {}); // awaited at the first product
  }

  async products(a: Float32Array, b: Float32Array, t: number, j: number, k: number): Promise<readonly [Float32Array, Float32Array]> {
    const session = await this.#session;
    const out = await session.run({ a: { dtype: "float32", dims: [t, j], data: a }, b: { dtype: "float32", dims: [t, k], data: b } });
    return [out["h"]!.data as Float32Array, out["c"]!.data as Float32Array];
  }

  /** H alone. */
  async square(b: Float32Array, t: number, k: number): Promise<Float32Array> {
    const x = { dtype: "float32", dims: [t, k], data: b } as const;
    const out = await (await this.#session).run({ a: x, b: x }, ["h"]);
    return out["h"]!.data as Float32Array;
  }

  async release(): Promise<void> {
    await (await this.#session).release();
  }
}

/**
 * Accumulates `Gram` from rows that come in a fixed order; memory does not depend on their number. Rows are stored minus a shift (the
 * mean of the first ones): products are float32 within a chunk, and a mean far from zero would cost their digits. Sums of chunks are float64.
 */
export class GramCollector {
  readonly groups: number;
  readonly k: number;
  /** Columns of `a`: k, or the rows of the layer when its output is taken. */
  readonly j: number;
  /** Rows to write into, [group][rows, j] and [group][rows, k]; `filled` says how many are there. */
  readonly a: readonly Float32Array[];
  readonly b: readonly Float32Array[];
  /** Of `a` and `b`; one and the same where both are the layer's input. */
  readonly shiftA: readonly Float32Array[];
  readonly shift: readonly Float32Array[];
  readonly capacity: number;
  filled = 0;
  #count = 0;
  readonly #engine: GramEngine;
  readonly #crossed: boolean;
  readonly #of: Gram["of"];
  readonly #h: readonly Float64Array[];
  readonly #c: readonly Float64Array[];
  readonly #sumA: readonly Float64Array[];
  readonly #sumB: readonly Float64Array[];

  /**
   * Without `crossed` there is one stream: `a` is empty, and C and μ of the Gram are Ĥ and μ̂. `outputs`: `a` takes so many outputs of the
   * float layer instead of its inputs.
   */
  constructor(groups: number, k: number, engine: GramEngine, crossed = true, outputs?: number) {
    this.groups = groups;
    this.k = k;
    this.j = outputs ?? k;
    this.#of = outputs === undefined ? "input" : "output";
    const { j } = this;
    this.#engine = engine;
    this.capacity = Math.max(16, Math.floor(CHUNK / (groups * k)));
    const each = <T>(make: () => T): readonly T[] => Array.from({ length: groups }, make);
    this.#crossed = crossed;
    this.a = crossed ? each(() => new Float32Array(this.capacity * j)) : [];
    this.b = each(() => new Float32Array(this.capacity * k));
    this.shift = each(() => new Float32Array(k));
    this.shiftA = outputs === undefined ? this.shift : each(() => new Float32Array(j));
    this.#h = each(() => new Float64Array(k * k));
    this.#c = crossed ? each(() => new Float64Array(j * k)) : [];
    this.#sumA = each(() => new Float64Array(j));
    this.#sumB = each(() => new Float64Array(k));
  }

  get count(): number {
    return this.#count + this.filled;
  }

  /** Takes the buffered rows into the sums. */
  async flush(): Promise<void> {
    const t = this.filled;
    const { j, k } = this;
    if (t === 0) return;
    for (let g = 0; g < this.groups; g++) {
      const b = this.b[g]!;
      if (!this.#crossed) {
        addRows(b, t, k, this.#sumB[g]!);
        addAll(await this.#engine.square(b.subarray(0, t * k), t, k), this.#h[g]!);
        continue;
      }
      const a = this.a[g]!;
      addRows(a, t, j, this.#sumA[g]!);
      addRows(b, t, k, this.#sumB[g]!);
      if (k < SMALL) addProducts(a, b, t, j, k, this.#h[g]!, this.#c[g]!);
      else {
        const [h, c] = await this.#engine.products(a.subarray(0, t * j), b.subarray(0, t * k), t, j, k);
        addAll(h, this.#h[g]!);
        addAll(c, this.#c[g]!);
      }
    }
    this.#count += t;
    this.filled = 0;
  }

  /** Takes the sums of another collector with the same shift; flush both first. */
  merge(other: GramCollector): void {
    for (let g = 0; g < this.groups; g++) {
      addAll(other.#h[g]!, this.#h[g]!);
      if (this.#crossed) addAll(other.#c[g]!, this.#c[g]!);
      addAll(other.#sumA[g]!, this.#sumA[g]!);
      addAll(other.#sumB[g]!, this.#sumB[g]!);
    }
    this.#count += other.#count;
  }

  /** Flush first. One entry a group. */
  finish(centred: boolean): Gram[] {
    const { j, k } = this;
    const n = Math.max(1, this.#count);
    if (!this.#crossed) return this.#h.map((h, g) => this.#alone(h, g, n, centred));
    return this.#h.map((h, g): Gram => {
      const { h: H, mean: meanHat } = this.#alone(h, g, n, centred);
      const c = this.#c[g]!;
      const ma = this.shiftA[g]!;
      const mb = this.shift[g]!;
      const da = this.#sumA[g]!.map((s) => s / n);
      const db = this.#sumB[g]!.map((s) => s / n);
      const C = new Float64Array(j * k);
      // With a = x − m, b = x̂ − m̂: E[x x̂ᵀ] = E[a bᵀ] + E[a] m̂ᵀ + m E[b]ᵀ + m m̂ᵀ; covariance: E[a bᵀ] − E[a] E[b]ᵀ.
      for (let r = 0, p = 0; r < j; r++)
        for (let i = 0; i < k; i++, p++)
          C[p] = c[p]! / n + (centred ? -da[r]! * db[i]! : da[r]! * mb[i]! + ma[r]! * db[i]! + ma[r]! * mb[i]!);
      return { h: H, of: this.#of, cross: C, mean: da.map((d, r) => d + ma[r]!), meanHat, count: this.#count };
    });
  }

  /** As above, of one stream. */
  #alone(h: Float64Array, g: number, n: number, centred: boolean): Gram {
    const { k } = this;
    const m = this.shift[g]!;
    const db = this.#sumB[g]!.map((s) => s / n);
    const out = new Float64Array(k * k);
    for (let i = 0; i < k; i++)
      for (let j = i; j < k; j++) {
        const hh = (h[i * k + j]! + h[j * k + i]!) / (2 * n);
        const x = centred ? hh - db[i]! * db[j]! : hh + db[i]! * m[j]! + m[i]! * db[j]! + m[i]! * m[j]!;
        out[i * k + j] = x;
        out[j * k + i] = x;
      }
    const mean = db.map((d, i) => d + m[i]!);
    return { h: out, of: "input", cross: out, mean, meanHat: mean, count: this.#count };
  }
}

function addRows(x: Float32Array, t: number, k: number, sum: Float64Array): void {
  for (let n = 0, p = 0; n < t; n++) for (let i = 0; i < k; i++, p++) sum[i]! += x[p]!;
}

function addAll(x: Float32Array | Float64Array, sum: Float64Array): void {
  for (let i = 0; i < x.length; i++) sum[i]! += x[i]!;
}

/** h += bᵀb, c += aᵀb for small k. */
function addProducts(a: Float32Array, b: Float32Array, t: number, j: number, k: number, h: Float64Array, c: Float64Array): void {
  for (let n = 0, p = 0; n < t; n++, p += k) {
    for (let i = 0; i < k; i++) {
      const bi = b[p + i]!;
      const row = i * k;
      for (let l = i; l < k; l++) h[row + l]! += bi * b[p + l]!;
    }
    for (let r = 0, at = n * j; r < j; r++) {
      const ar = a[at + r]!;
      const row = r * k;
      for (let l = 0; l < k; l++) c[row + l]! += ar * b[p + l]!;
    }
  }
  for (let i = 0; i < k; i++) for (let l = 0; l < i; l++) h[i * k + l] = h[l * k + i]!;
}
