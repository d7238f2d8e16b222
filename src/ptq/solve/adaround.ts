import { Graph, newModel, type Value } from "../../graph/ir.ts";
import { writeModel } from "../../graph/onnx/index.ts";
import { floats, tensorFromBytes } from "../../graph/tensor.ts";
import { tensorType } from "../../graph/types.ts";
import { DTYPES } from "../../quant/dtype.ts";
import type { Runtime, Session, Tensor } from "../../runtime/types.ts";
import { descend, refresh, rowState } from "./descent.ts";
import type { Form, Solution } from "./problem.ts";

/** ζ and γ of the rectified sigmoid h(V) = clip((ζ − γ) σ(V) + γ, 0, 1). */
const ZETA = 1.1;
const GAMMA = -0.1;
const RATE = 0.01;
const [B1, B2, EPS] = [0.9, 0.999, 1e-8];
/** β of the regularizer falls from 20 to 2 by a cosine after this part of the steps, in which there is no regularizer. */
const WARM = 0.2;
/** λ = c · E_RTN / (M·K): the regularizer against the loss that round-to-nearest makes. Measured: 6 … 122 work, below 2 a tenth stays undecided. */
const WEIGHT = 25;
/** More undecided elements than this (|h − ½| < 0.49), and the regularizer doubles and the search goes on. */
const UNDECIDED = 0.005;
const MOST_ROUNDS = 4;

export interface LearnedRounding {
  readonly solution: Solution;
  /** Part of the elements whose rounding was not decided at the end. */
  readonly undecided: number;
  /** Rows that got better than the start. */
  readonly won: number;
}

/**
 * Learned rounding in Gram space (AdaRound, Nagel et al. 2020, arXiv:2004.10568): at fixed scales,
 *
 *   min over V [M, K]   Σ_rows (ŵ − w)ᵀ H (ŵ − w) + λ Σ (1 − |2 h(V) − 1|^β),   ŵ = s · clip(⌊w / s⌋ + h(V), lo, hi)
 *
 * by Adam, as one ONNX Loop: a step costs 2 M K² and needs no sample. The result is rounded, descended to a point that no single code
 * improves, and a row is taken only where it beats both the start and round-to-nearest.
 */
export class AdaRound {
  readonly #session: Promise<Session>;

  constructor(runtime: Runtime) {
    this.#session = runtime.open(loopModel(), { label: "learned rounding", level: "basic" });
    this.#session.catch(() => {}); // awaited at the first use
  }

  /** `w` [rows, k]: the target. `start`: a solution with one scale a row; its scales are kept. Codes c lie in [lo, hi] of each row. */
  async improve(
    form: Form,
    w: Float64Array,
    start: Solution,
    bounds: { readonly lo: number; readonly hi: number },
    steps: number,
  ): Promise<LearnedRounding> {
    const { k, h } = form;
    const rows = start.loss.length;
    const scale = (m: number) => start.scales[m]!;
    const base = new Float32Array(rows * k);
    let v = new Float32Array(rows * k);
    let nearest = 0;
    const row = rowState(k, k);
    const nearestLoss = new Float64Array(rows);
    for (let m = 0; m < rows; m++) {
      for (let i = 0; i < k; i++) {
        const x = w[m * k + i]! / scale(m);
        base[m * k + i] = Math.floor(x);
        const f = Math.min(0.99, Math.max(0.01, x - Math.floor(x)));
        v[m * k + i] = -Math.log((ZETA - GAMMA) / (f - GAMMA) - 1);
        row.c[i] = clamp(Math.round(x), bounds);
      }
      row.s[0] = scale(m);
      refresh(row, h, w, m * k);
      nearestLoss[m] = row.loss;
      nearest += row.loss;
    }
    // Scaled so that losses are near 1 whatever the layer's units: Adam does not care, its ε does.
    const unit = nearest > 0 ? (rows * k) / nearest : 1;
    let lambda = WEIGHT;
    let undecided = 1;
    const session = await this.#session;
    for (let round = 0; round < MOST_ROUNDS; round++) {
      const feeds: Record<string, Tensor> = {
        w: tensor(Float32Array.from(w), [rows, k]),
        h: tensor(
          Float32Array.from(h, (x) => x * unit),
          [k, k],
        ),
        s: tensor(
          Float32Array.from({ length: rows }, (_, m) => scale(m)),
          [rows, 1],
        ),
        base: tensor(base, [rows, k]),
        lo: tensor(Float32Array.of(bounds.lo), []),
        hi: tensor(Float32Array.of(bounds.hi), []),
        lambda: tensor(Float32Array.of(lambda), []),
        // Later rounds go on at β = 2.
        from: tensor(Float32Array.of(round === 0 ? 0 : 1), []),
        steps: { dtype: "int64", dims: [], data: BigInt64Array.of(BigInt(round === 0 ? steps : Math.ceil(steps / 4))) },
        v0: tensor(v, [rows, k]),
      };
      v = (await session.run(feeds))["v"]!.data as Float32Array<ArrayBuffer>;
      let open = 0;
      for (let p = 0; p < v.length; p++) if (Math.abs(soft(v[p]!) - 0.5) < 0.49) open++;
      undecided = open / v.length;
      if (undecided < UNDECIDED) break;
      lambda *= 2;
    }
    const out: Solution = {
      ...start,
      codes: Int32Array.from(start.codes),
      scales: Float64Array.from(start.scales),
      loss: Float64Array.from(start.loss),
    };
    let won = 0;
    for (let m = 0; m < rows; m++) {
      for (let i = 0; i < k; i++) row.c[i] = clamp(base[m * k + i]! + (soft(v[m * k + i]!) >= 0.5 ? 1 : 0), bounds);
      row.s[0] = scale(m);
      row.lo[0] = bounds.lo;
      row.hi[0] = bounds.hi;
      refresh(row, h, w, m * k);
      descend(row, h);
      if (!(row.loss < out.loss[m]!) || !(row.loss <= nearestLoss[m]!)) continue;
      won++;
      out.loss[m] = row.loss;
      for (let i = 0; i < k; i++) out.codes[m * k + i] = row.c[i]!;
    }
    return { solution: out, undecided, won };
  }

  async release(): Promise<void> {
    await (await this.#session).release();
  }
}

const tensor = (data: Float32Array, dims: readonly number[]): Tensor => ({ dtype: "float32", dims, data });
const clamp = (x: number, b: { readonly lo: number; readonly hi: number }): number => Math.min(b.hi, Math.max(b.lo, x));
const soft = (v: number): number => Math.min(1, Math.max(0, (ZETA - GAMMA) / (1 + Math.exp(-v)) + GAMMA));

/** The loop over Adam steps; shapes are free, so that one session serves every layer. */
function loopModel(): Uint8Array {
  const model = newModel(13, 8);
  const g = model.graph;
  const matrix = tensorType("float32", ["m", "k"]);
  const scalar = tensorType("float32", []);
  const [w, h, s, base, lo, hi, lambda, from, steps, v0] = [
    g.addInput("w", matrix),
    g.addInput("h", tensorType("float32", ["k", "k"])),
    g.addInput("s", tensorType("float32", ["m", 1])),
    g.addInput("base", matrix),
    g.addInput("lo", scalar),
    g.addInput("hi", scalar),
    g.addInput("lambda", scalar),
    g.addInput("from", scalar),
    g.addInput("steps", tensorType("int64", [])),
    g.addInput("v0", matrix),
  ];
  const go = g.constant(tensorFromBytes("bool", [], Uint8Array.of(1)), "go");
  const zeros = g.append({ op: "Sub", inputs: [v0, v0] }).outputs[0]!;
  const total = g.append({ op: "Cast", inputs: [steps], attrs: { to: DTYPES.float32.code } }).outputs[0]!;

  const body = new Graph("adam", g);
  const i = body.addInput("i", tensorType("int64", []));
  const cond = body.addInput("cond", tensorType("bool", []));
  const v = body.addInput("v_in", matrix);
  const m1 = body.addInput("m1_in", matrix);
  const m2 = body.addInput("m2_in", matrix);
  const constants = new Map<number, Value>();
  const num = (x: number): Value => {
    let c = constants.get(x);
    if (!c) {
      c = body.constant(floats([x], []), `c${constants.size}`);
      constants.set(x, c);
    }
    return c;
  };
  const op = (name: string, ...inputs: Value[]): Value => body.append({ op: name, inputs }).outputs[0]!;
  const mul = (a: Value, b: Value) => op("Mul", a, b);
  const mask = (b: Value) => body.append({ op: "Cast", inputs: [b], attrs: { to: DTYPES.float32.code } }).outputs[0]!;

  const step = body.append({ op: "Cast", inputs: [i], attrs: { to: DTYPES.float32.code } }).outputs[0]!;
  // Progress behind the warm start, 0 … 1; `from` 1 starts at the end of it.
  const p = op("Max", op("Max", op("Div", op("Sub", op("Div", step, total), num(WARM)), num(1 - WARM)), from), num(0));
  const beta = op("Add", num(2), mul(num(9), op("Add", num(1), op("Cos", mul(p, num(Math.PI))))));
  const on = mask(op("Greater", p, num(0)));

  const sigma = op("Sigmoid", v);
  const raw = op("Add", mul(sigma, num(ZETA - GAMMA)), num(GAMMA));
  const soften = op("Min", op("Max", raw, num(0)), num(1));
  const q = op("Add", base, soften);
  const inside = mask(op("And", op("GreaterOrEqual", q, lo), op("LessOrEqual", q, hi)));
  const e = op("Sub", mul(op("Min", op("Max", q, lo), hi), s), w);
  const slope = mul(mul(op("MatMul", e, h), num(2)), mul(s, inside));
  const far = op("Sub", mul(soften, num(2)), num(1));
  const bent = mul(op("Sign", far), op("Pow", op("Max", op("Abs", far), num(1e-6)), op("Sub", beta, num(1))));
  const push = mul(bent, mul(mul(on, lambda), mul(beta, num(-2))));
  const free = mask(op("And", op("Greater", raw, num(0)), op("Less", raw, num(1))));
  const dv = mul(mul(sigma, op("Sub", num(1), sigma)), mul(num(ZETA - GAMMA), free));
  const grad = mul(op("Add", slope, push), dv);
  const n1 = op("Add", mul(m1, num(B1)), mul(grad, num(1 - B1)));
  const n2 = op("Add", mul(m2, num(B2)), mul(mul(grad, grad), num(1 - B2)));
  const t = op("Add", step, num(1));
  const c1 = op("Sub", num(1), op("Pow", num(B1), t));
  const c2 = op("Sub", num(1), op("Pow", num(B2), t));
  const move = op("Div", op("Div", n1, c1), op("Add", op("Sqrt", op("Div", n2, c2)), num(EPS)));
  const next = op("Sub", v, mul(move, num(RATE)));
  for (const out of [op("Identity", cond), next, n1, n2]) body.addOutput(out);

  const loop = g.append({
    op: "Loop",
    inputs: [steps, go, v0, zeros, zeros],
    outputs: ["v", undefined, undefined],
    attrs: { body: { kind: "graph", value: body } },
  });
  const out = loop.outputs[0]!;
  out.type = matrix;
  g.addOutput(out);
  return writeModel(model);
}
