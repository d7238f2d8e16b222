import { type AttrLike, float } from "../../src/graph/attr.ts";
import type { OnnxOp } from "../../src/graph/ops/names.ts";
import { tensorFrom } from "../../src/graph/tensor.ts";
import { away, between, type Case, count, distinct, type In, i64, normal, type Rng, whole } from "./check.ts";

type Make = (r: Rng) => Omit<Case, "op">;
const f64 = (values: readonly number[], shape: readonly number[] = []) => tensorFrom(Float64Array.from(values), shape);
const some = (r: Rng) => r.shape(r.int(1, 4));
const unary =
  (
    make: (r: Rng, shape: readonly number[]) => In,
    attrs: (r: Rng) => Record<string, AttrLike> = () => ({}),
    more: Partial<Case> = {},
  ): Make =>
  (r) => ({ inputs: [make(r, some(r))], attrs: attrs(r), ...more });
const range = (n: number) => Array.from({ length: n }, (_, i) => i);
/** A shape that broadcasts to `to`: leading axes dropped, some set to 1. */
const thinner = (r: Rng, to: readonly number[]) => to.slice(r.int(0, to.length - 1)).map((d) => (r.next() < 0.4 ? 1 : d));
const binary =
  (make: (r: Rng, shape: readonly number[]) => In, attrs: Record<string, AttrLike> = {}): Make =>
  (r) => {
    const full = r.shape(r.int(1, 4));
    const thin = thinner(r, full);
    const flip = r.next() < 0.5;
    return { inputs: flip ? [make(r, thin), make(r, full)] : [make(r, full), make(r, thin)], attrs };
  };
/** Three inputs whose elements all differ by 0.1 or more, so that maxima do not tie under a small change. */
const variadic: Make = (r) => {
  const s = r.shape(3);
  const shapes = [s, thinner(r, s), thinner(r, s)];
  const all = distinct(r, [shapes.reduce((n, t) => n + count(t), 0)]).data;
  let at = 0;
  return { inputs: shapes.map((shape) => ({ shape, data: all.slice(at, (at += count(shape))) })) };
};
const some1 = (r: Rng, rank: number): number[] => {
  const axes = range(rank).filter(() => r.next() < 0.5);
  return axes.length > 0 ? axes : [r.int(0, rank - 1)];
};
const reduction =
  (make: (r: Rng, shape: readonly number[]) => In): Make =>
  (r) => {
    const rank = r.int(1, 4);
    const axes = some1(r, rank).map((a) => (r.next() < 0.3 ? a - rank : a));
    const inputs = r.next() < 0.2 ? [] : [i64(axes)];
    return { inputs: [make(r, r.shape(rank)), ...inputs], attrs: { keepdims: r.int(0, 1) } };
  };

/** A convolution of 1 to 3 spatial axes: groups, depthwise, strides, dilations, uneven pads, SAME. */
function convolution(r: Rng, transposed: boolean): Omit<Case, "op"> {
  const rank = r.pick([1, 2, 2, 2, 3]);
  const group = r.pick([1, 1, 2, 3]);
  const depthwise = group > 1 && r.next() < 0.5;
  const cg = depthwise ? 1 : r.int(1, 3);
  const mg = depthwise ? 1 : r.int(1, 3);
  const kernel = Array.from({ length: rank }, () => r.int(1, 3));
  const strides = kernel.map(() => r.int(1, 3));
  const dilations = kernel.map(() => r.int(1, 2));
  const pads = [...kernel, ...kernel].map((k) => r.int(0, k - 1));
  const size = kernel.map((k, i) => dilations[i]! * (k - 1) + r.int(1, 5));
  const x = whole(r, [r.int(1, 3), group * cg, ...size]);
  const w = whole(r, transposed ? [group * cg, mg, ...kernel] : [group * mg, cg, ...kernel]);
  const b = whole(r, [group * mg]);
  const auto = transposed ? "NOTSET" : r.pick(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]);
  const attrs: Record<string, AttrLike> = { strides, group };
  // onnxruntime refuses dilations with SAME.
  if (!auto.startsWith("SAME")) attrs["dilations"] = dilations;
  if (auto === "NOTSET") attrs["pads"] = pads;
  else attrs["auto_pad"] = auto;
  if (transposed) {
    const extra = strides.map((s) => r.int(0, s - 1));
    if (r.next() < 0.5) attrs["output_padding"] = extra;
  }
  if (r.next() < 0.5) attrs["kernel_shape"] = kernel;
  return { inputs: r.next() < 0.5 ? [x, w, b] : [x, w], attrs, mode: "exact" };
}
function pool(r: Rng, average: boolean): { size: number[]; attrs: Record<string, AttrLike> } {
  const rank = r.pick([1, 2, 2, 3]);
  const kernel = Array.from({ length: rank }, () => r.int(1, 3));
  const tiled = r.next() < 0.3;
  const strides = tiled ? kernel : kernel.map(() => r.int(1, 3));
  const pads = tiled ? [] : [...kernel, ...kernel].map((k) => r.int(0, k - 1));
  const size = tiled ? kernel.map((k) => k * r.int(1, 3)) : kernel.map((k) => k + r.int(1, 5));
  const attrs: Record<string, AttrLike> = { kernel_shape: kernel, strides };
  const auto = tiled ? "NOTSET" : r.pick(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER"]);
  if (auto !== "NOTSET") attrs["auto_pad"] = auto;
  else if (!tiled) attrs["pads"] = pads;
  if (average) attrs["count_include_pad"] = r.int(0, 1);
  if (!tiled && auto === "NOTSET") attrs["ceil_mode"] = r.int(0, 1);
  return { size, attrs };
}
const erf = (x: number): number => {
  // Series for small x, continued fraction for the tail: 1e-15.
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; n < 100; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let f = 0;
  for (let n = 60; n > 0; n--) f = n / 2 / (a + f);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + f));
};
const reference =
  (f: (x: number) => number, attrs: Record<string, AttrLike> = {}): Make =>
  (r) => ({
    inputs: [normal(r, some(r), 1.5)],
    attrs,
    mode: "reference",
    forward: ([x]) => x!.map(f),
    tolerance: 1e-5, // the row runs in float32
  });

/** x [2, C, 4, 2] normalized over each of `groups` groups of channels, with scale and bias per channel. */
function grouped(r: Rng, channels: number, groups: number): Omit<Case, "op"> {
  const size = (channels / groups) * 8;
  return {
    inputs: [normal(r, [2, channels, 4, 2]), normal(r, [channels]), normal(r, [channels])],
    mode: "reference",
    forward: ([v, scale, bias]) => {
      const y = new Float64Array(v!.length);
      for (let at = 0; at < v!.length; at += size) {
        const part = v!.slice(at, at + size);
        const mean = part.reduce((a, b) => a + b, 0) / size;
        const variance = part.reduce((a, b) => a + (b - mean) ** 2, 0) / size;
        for (let j = 0; j < size; j++) {
          const c = Math.floor((at + j) / 8) % channels;
          y[at + j] = ((part[j]! - mean) / Math.sqrt(variance + 1e-5)) * scale![c]! + bias![c]!;
        }
      }
      return y;
    },
    tolerance: 1e-5, // float32 sums
  };
}

/** Every differentiated operator of the table has cases here. */
export const CASES: Partial<Record<OnnxOp, readonly Make[]>> = {
  Abs: [unary(away)],
  Acos: [reference(Math.acos)].map((m) => (r) => ({ ...m(r), inputs: [between(r, some(r), -0.9, 0.9)], tolerance: 1e-5 })),
  Acosh: [reference(Math.acosh)].map((m) => (r) => ({ ...m(r), inputs: [between(r, some(r), 1.5, 4)] })),
  Add: [binary(normal)],
  Asin: [reference(Math.asin)].map((m) => (r) => ({ ...m(r), inputs: [between(r, some(r), -0.9, 0.9)], tolerance: 1e-5 })),
  Asinh: [reference(Math.asinh)],
  Atan: [reference(Math.atan)],
  Atanh: [reference(Math.atanh)].map((m) => (r) => ({ ...m(r), inputs: [between(r, some(r), -0.9, 0.9)], tolerance: 1e-5 })),
  AveragePool: [
    (r) => {
      const { size, attrs } = pool(r, true);
      return { inputs: [whole(r, [r.int(1, 2), r.int(1, 3), ...size])], attrs, mode: "exact", tolerance: 1e-5 };
    },
  ],
  BatchNormalization: [
    (r) => {
      const c = r.int(1, 3);
      return {
        inputs: [normal(r, [2, c, ...r.shape(r.int(0, 2))]), normal(r, [c]), normal(r, [c]), normal(r, [c]), between(r, [c], 0.5, 2)],
        attrs: { epsilon: float(0.01) },
      };
    },
  ],
  Cast: [(r) => ({ inputs: [normal(r, some(r))], attrs: { to: 11 } })],
  CastLike: [(r) => ({ inputs: [normal(r, some(r)), f64([1], [1])] })],
  Celu: [reference((x) => (x > 0 ? x : 1.7 * (Math.exp(x / 1.7) - 1)), { alpha: float(1.7) })],
  Clip: [
    (r) => ({ inputs: [distinct(r, some(r)), f64([-0.25]), f64([1.2])] }),
    (r) => ({ inputs: [distinct(r, some(r)), { shape: [], data: Float64Array.of(-0.5) }, { shape: [], data: Float64Array.of(0.7) }] }),
    (r) => ({ inputs: [away(r, some(r)), undefined, f64([0.1])] }),
  ],
  Concat: [
    (r) => {
      const s = r.shape(r.int(1, 4));
      const axis = r.int(0, s.length - 1);
      const part = () =>
        normal(
          r,
          s.map((d, i) => (i === axis ? r.int(1, 3) : d)),
        );
      return { inputs: [part(), part(), part()], attrs: { axis: r.next() < 0.5 ? axis : axis - s.length } };
    },
  ],
  Conv: [
    (r) => convolution(r, false),
    (r) => ({ inputs: [whole(r, [2, 3, 4, 5]), whole(r, [2, 3, 1, 1])], attrs: { strides: [r.int(1, 2), 1] }, mode: "exact" }),
    // Enough channels and positions for one product a tap; enough channels on few positions for all taps at once.
    (r) => ({
      inputs: [whole(r, [2, 9, 11, 12]), whole(r, [3, 9, r.int(1, 3), 3])],
      attrs: { pads: [1, 0, 1, 2], dilations: [1, r.int(1, 2)] },
      mode: "exact",
    }),
    // Depthwise, stride 1.
    (r) => ({
      inputs: [whole(r, [2, 3, 6, 5]), whole(r, [3, 1, r.int(1, 3), 3]), whole(r, [3])],
      attrs: { group: 3, pads: [0, 2, 1, r.int(0, 3)], dilations: [1, r.int(1, 2)] },
      mode: "exact",
    }),
    (r) => ({ inputs: [whole(r, [2, 9, 5, 4]), whole(r, [3, 9, 3, 2])], attrs: { pads: [1, 0, 1, 1] }, mode: "exact" }),
  ],
  ConvTranspose: [
    (r) => convolution(r, true),
    (r) => ({
      inputs: [whole(r, [1, 2, 4, 3]), whole(r, [2, 2, 3, 3])],
      attrs: { strides: [2, 2], output_shape: [8, 6], auto_pad: r.pick(["SAME_UPPER", "SAME_LOWER"]) },
      mode: "exact",
    }),
  ],
  Cos: [unary(normal)],
  Cosh: [reference(Math.cosh)].map((m) => (r) => ({ ...m(r), inputs: [away(r, some(r))] })),
  CumSum: [
    (r) => {
      const s = some(r);
      return { inputs: [normal(r, s), i64([r.int(0, s.length - 1)], [])], attrs: { exclusive: r.int(0, 1), reverse: r.int(0, 1) } };
    },
  ],
  DepthToSpace: [
    (r) => {
      const b = r.int(1, 3);
      return {
        inputs: [normal(r, [r.int(1, 2), b * b * r.int(1, 2), r.int(1, 3), r.int(1, 3)])],
        attrs: { blocksize: b, mode: r.pick(["DCR", "CRD"]) },
      };
    },
  ],
  Div: [binary(away)],
  Dropout: [unary(normal)],
  Einsum: [
    (r) => ({
      inputs: [normal(r, [2, 3, 4]), normal(r, [2, 4, 3])],
      attrs: { equation: r.pick(["bij,bjk->bik", "bij,bjk->ik", "bij, bjk -> kb"]) },
    }),
    (r) => ({ inputs: [normal(r, [3, 4])], attrs: { equation: r.pick(["ij->ji", "ij->i", "ij->"]) } }),
    (r) => ({
      inputs: [normal(r, [2, 3, 2, 4]), normal(r, [2, 3, 4, 3])],
      attrs: { equation: r.pick(["...ij,...jk->...ik", "...ij,...jk"]) },
    }),
    (r) => ({ inputs: [normal(r, [2, 3]), normal(r, [4]), normal(r, [3, 2])], attrs: { equation: "ab,c,bd->ad" } }),
  ],
  Elu: [reference((x) => (x < 0 ? 1.5 * (Math.exp(x) - 1) : x), { alpha: float(1.5) })].map((m) => (r) => ({
    ...m(r),
    inputs: [away(r, some(r))],
  })),
  Erf: [reference(erf)],
  Exp: [unary(normal)],
  Expand: [
    (r) => {
      const s = some(r);
      return {
        inputs: [
          normal(
            r,
            s.map((d) => (r.next() < 0.5 ? 1 : d)),
          ),
          i64([r.int(1, 2), ...s]),
        ],
      };
    },
  ],
  Flatten: [
    (r) => {
      const s = r.shape(r.int(1, 4));
      return { inputs: [normal(r, s)], attrs: { axis: r.int(-s.length, s.length) } };
    },
  ],
  Gather: [
    (r) => {
      const s = r.shape(r.int(1, 3));
      const axis = r.int(0, s.length - 1);
      const at = r.shape(r.int(0, 2));
      const indices = i64(
        range(count(at)).map(() => r.int(-s[axis]!, s[axis]! - 1)),
        at,
      );
      return { inputs: [normal(r, s), indices], attrs: { axis: r.next() < 0.5 ? axis : axis - s.length } };
    },
  ],
  GatherElements: [
    (r) => {
      const s = r.shape(3);
      const axis = r.int(0, 2);
      const at = s.map((d, i) => (i === axis ? r.int(1, 5) : r.int(1, d)));
      return {
        inputs: [
          normal(r, s),
          i64(
            range(count(at)).map(() => r.int(-s[axis]!, s[axis]! - 1)),
            at,
          ),
        ],
        attrs: { axis },
      };
    },
  ],
  GatherND: [
    (r) => ({ inputs: [normal(r, [3, 2, 2]), i64([0, 1, 2, 0, 0, 1], [3, 2])] }),
    (r) => ({ inputs: [normal(r, [2, 3, 2]), i64([2, 0], [2, 1])], attrs: { batch_dims: 1 } }),
  ],
  Gelu: [
    reference((x) => 0.5 * x * (1 + erf(x / Math.SQRT2))),
    reference((x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))), { approximate: "tanh" }),
  ],
  Gemm: [
    (r) => {
      const [m, k, n, ta, tb] = [r.int(1, 4), r.int(1, 4), r.int(1, 4), r.int(0, 1), r.int(0, 1)];
      const a = normal(r, ta ? [k, m] : [m, k]);
      const b = normal(r, tb ? [n, k] : [k, n]);
      const c = normal(r, r.pick([[m, n], [n], [m, 1], [1, n], [1], []]));
      return { inputs: r.next() < 0.7 ? [a, b, c] : [a, b], attrs: { transA: ta, transB: tb, alpha: float(0.5), beta: float(1.5) } };
    },
  ],
  GlobalAveragePool: [(r) => ({ inputs: [whole(r, [2, 3, ...r.shape(r.int(1, 3))])], mode: "exact", tolerance: 1e-5 })],
  GlobalMaxPool: [
    (r) => {
      const x = distinct(r, [2, 2, ...r.shape(2)]);
      return {
        inputs: [x],
        mode: "reference",
        forward: ([v]) => {
          const area = count(x.shape.slice(2));
          return Float64Array.from({ length: 4 }, (_, i) => Math.max(...v!.slice(i * area, (i + 1) * area)));
        },
      };
    },
  ],
  GroupNormalization: [
    (r) => {
      const c = r.int(1, 2) * 2;
      return { ...grouped(r, c, 2), attrs: { num_groups: 2 } };
    },
  ],
  HardSigmoid: [reference((x) => Math.max(0, Math.min(1, 0.3 * x + 0.4)), { alpha: float(0.3), beta: float(0.4) })],
  HardSwish: [reference((x) => x * Math.max(0, Math.min(1, x / 6 + 0.5))), reference((x) => x * Math.max(0, Math.min(1, x / 6 + 0.5)))].map(
    (m) => (r) => ({ ...m(r), inputs: [between(r, some(r), -5, 5)], tolerance: 1e-4 }),
  ),
  Identity: [unary(normal)],
  InstanceNormalization: [(r) => grouped(r, 3, 3)],
  LayerNormalization: [
    (r) => {
      const s = [...r.shape(r.int(1, 2)), r.int(2, 5)];
      const axis = r.int(0, s.length - 1);
      return {
        inputs: [normal(r, s), normal(r, s.slice(axis)), normal(r, s.slice(axis))],
        attrs: { axis: r.next() < 0.5 ? axis : axis - s.length },
      };
    },
  ],
  LeakyRelu: [reference((x) => (x < 0 ? 0.2 * x : x), { alpha: float(0.2) })].map((m) => (r) => ({ ...m(r), inputs: [away(r, some(r))] })),
  Log: [unary((r, s) => between(r, s, 0.2, 3))],
  LogSoftmax: [
    (r) => {
      const s = some(r);
      return { inputs: [normal(r, s)], attrs: { axis: r.int(-s.length, s.length - 1) } };
    },
  ],
  LpNormalization: [
    (r) => {
      const s = r.shape(r.int(1, 3), 2);
      return { inputs: [away(r, s)], attrs: { axis: r.int(-s.length, s.length - 1), p: r.int(1, 2) } };
    },
  ],
  MatMul: [
    (r) => {
      const [m, k, n] = r.shape(3) as [number, number, number];
      const batch = r.shape(r.int(0, 2));
      const a = r.next() < 0.5 ? thinner(r, [...batch, 1]).slice(0, -1) : batch;
      const b = r.next() < 0.5 ? thinner(r, [...batch, 1]).slice(0, -1) : batch;
      return { inputs: [normal(r, [...a, m, k]), normal(r, [...b, k, n])] };
    },
    (r) => ({ inputs: [normal(r, [2, 3, 4]), normal(r, [4, 5])] }),
    (r) => ({
      inputs: r.pick([
        [normal(r, [4]), normal(r, [2, 4, 3])],
        [normal(r, [2, 3, 4]), normal(r, [4])],
        [normal(r, [4]), normal(r, [4])],
      ]),
    }),
  ],
  Max: [variadic],
  MaxPool: [
    (r) => {
      const { size, attrs } = pool(r, false);
      return { inputs: [distinct(r, [r.int(1, 2), r.int(1, 2), ...size])], attrs };
    },
    (r) => ({ inputs: [distinct(r, [1, 2, 5, 4])], attrs: { kernel_shape: [2, 2], dilations: [2, 1] }, outputs: 2, used: [0] }),
  ],
  Mean: [
    (r) => {
      const s = r.shape(3);
      return { inputs: [whole(r, s), whole(r, thinner(r, s)), whole(r, thinner(r, s))], mode: "exact", tolerance: 1e-5 };
    },
  ],
  Min: [variadic],
  Mish: [reference((x) => x * Math.tanh(Math.log1p(Math.exp(x))))].map((m) => (r) => ({ ...m(r), opset: 18 })),
  Mod: [
    (r) => {
      const s = some(r);
      return { inputs: [between(r, s, 2.1, 2.9), between(r, s, 0.81, 0.99)], attrs: { fmod: 1 } };
    },
  ],
  Mul: [binary(normal)],
  Neg: [unary(normal)],
  PRelu: [
    (r) => {
      const c = r.int(1, 3);
      const x = away(r, [2, c, 3]);
      return {
        inputs: [x, normal(r, [c, 1])],
        mode: "reference",
        forward: ([v, slope]) => v!.map((a, i) => (a < 0 ? a * slope![Math.floor(i / 3) % c]! : a)),
        tolerance: 1e-5,
      };
    },
  ],
  Pad: [
    (r) => {
      const s = r.shape(r.int(1, 3));
      const pads = [...s, ...s].map(() => r.int(0, 2));
      return { inputs: [normal(r, s), i64(pads), { shape: [], data: Float64Array.of(0.5) }] };
    },
    (r) => ({ inputs: [normal(r, [2, 4, 3]), i64([1, -1, 0, 2]), undefined, i64([1, 2])] }),
    (r) => {
      const s = [r.int(3, 4), r.int(3, 4)];
      return { inputs: [normal(r, s), i64([1, 2, 2, 1])], attrs: { mode: r.pick(["reflect", "edge", "wrap"]) } };
    },
  ],
  Pow: [
    (r) => {
      const s = some(r);
      return { inputs: [between(r, s, 0.3, 2), normal(r, thinner(r, s))] };
    },
    (r) => ({ inputs: [away(r, some(r)), f64([r.pick([2, 3])])] }),
    (r) => ({ inputs: [away(r, some(r)), i64([2], [])] }),
  ],
  RMSNormalization: [
    (r) => {
      const s = [...r.shape(2), 4];
      const axis = r.int(1, 2);
      return { inputs: [normal(r, s), normal(r, s.slice(axis))], attrs: { axis }, opset: 23 };
    },
  ],
  Reciprocal: [unary(away)],
  ReduceL1: [
    (r) => {
      const n = r.int(1, 4);
      const forward: Case["forward"] = ([v]) =>
        Float64Array.from({ length: v!.length / n }, (_, i) => v!.slice(i * n, (i + 1) * n).reduce((a, b) => a + Math.abs(b), 0));
      return { inputs: [away(r, [2, 3, n]), i64([-1])], attrs: { keepdims: r.int(0, 1) }, mode: "reference", forward, tolerance: 1e-5 };
    },
  ],
  ReduceL2: [reduction(away)],
  ReduceLogSum: [reduction((r, s) => between(r, s, 0.3, 2))],
  ReduceLogSumExp: [reduction(normal)],
  ReduceMax: [reduction(distinct)],
  ReduceMean: [reduction(normal)],
  ReduceMin: [reduction(distinct)],
  ReduceSum: [reduction(normal)],
  ReduceSumSquare: [reduction(normal)],
  Relu: [unary(away)],
  Reshape: [
    (r) => {
      const s = r.shape(3);
      return { inputs: [normal(r, s), i64([s[2]!, -1])] };
    },
  ],
  Resize: [
    // Whole factors.
    (r) => {
      const s = [1, 2, r.int(1, 3), r.int(1, 3)];
      const k = [r.int(1, 3), r.int(1, 3)];
      return {
        inputs: [whole(r, s), undefined, tensorFrom(Float32Array.of(1, 1, ...k), [4])],
        attrs: r.pick<Record<string, AttrLike>>([
          { mode: "nearest" },
          { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" },
          { mode: "linear" },
          { mode: "linear", coordinate_transformation_mode: "align_corners" },
        ]),
        mode: "exact",
        tolerance: 1e-5,
      };
    },
    // Any size.
    (r) => ({
      inputs: [whole(r, [1, 2, r.int(2, 5), r.int(2, 5)]), undefined, undefined, i64([1, 2, r.int(1, 7), r.int(1, 7)])],
      attrs: r.pick<Record<string, AttrLike>>([
        { mode: "nearest", nearest_mode: "ceil" },
        { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" },
        { mode: "linear" },
        { mode: "linear", coordinate_transformation_mode: "pytorch_half_pixel" },
        { mode: "cubic", cubic_coeff_a: float(-0.5) },
      ]),
      mode: "exact",
      tolerance: 1e-4,
    }),
    // A scale that is no ratio of sizes.
    (r) => ({
      inputs: [whole(r, [1, 1, 5, 4]), undefined, tensorFrom(Float32Array.of(1, 1, 1.5, 0.6), [4])],
      attrs: { mode: r.pick(["nearest", "linear"]), coordinate_transformation_mode: "asymmetric" },
      mode: "exact",
      tolerance: 1e-5,
    }),
  ],
  ReverseSequence: [(r) => ({ inputs: [normal(r, [4, 2]), i64([3, 2])], attrs: { time_axis: 0, batch_axis: 1 } })],
  ScatterElements: [
    (r) => ({ inputs: [normal(r, [3, 3]), i64([1, 0, 2, 2, 1, 0], [2, 3]), normal(r, [2, 3])], attrs: { axis: 0 } }),
    (r) => ({ inputs: [normal(r, [3, 3]), i64([1, 1, 2, 2, 1, 0], [2, 3]), normal(r, [2, 3])], attrs: { axis: 1, reduction: "add" } }),
  ],
  ScatterND: [
    (r) => ({ inputs: [normal(r, [4, 2]), i64([2, 0], [2, 1]), normal(r, [2, 2])] }),
    (r) => ({ inputs: [normal(r, [4, 2]), i64([2, 2], [2, 1]), normal(r, [2, 2])], attrs: { reduction: "add" } }),
  ],
  Selu: [reference((x) => 1.0507010221481323 * (x > 0 ? x : 1.6732631921768188 * (Math.exp(x) - 1)))],
  Shrink: [reference((x) => (x > 0.9 ? x - 0.3 : x < -0.9 ? x + 0.3 : 0), { bias: float(0.3), lambd: float(0.9) })].map((m) => (r) => ({
    ...m(r),
    inputs: [away(r, some(r))],
  })),
  Sigmoid: [unary(normal)],
  Sin: [unary(normal)],
  Sinh: [reference(Math.sinh)],
  Slice: [
    (r) => {
      const s = r.shape(3, 2, 6);
      const axes = some1(r, 3);
      const starts = axes.map((a) => r.int(-s[a]!, s[a]! - 1));
      const ends = axes.map((a) => r.pick<number | bigint>([s[a]!, s[a]! + 5, 2 ** 31 - 1, 2n ** 63n - 1n]));
      return { inputs: [normal(r, s), i64(starts), i64(ends), i64(axes), i64(axes.map(() => r.int(1, 3)))] };
    },
    (r) => ({ inputs: [normal(r, [3, 5]), i64([-1]), i64([-9]), i64([1]), i64([-2])] }),
    (r) => ({ inputs: [normal(r, [3, 5]), i64([1, 1]), i64([2, -1])] }),
  ],
  Softmax: [
    (r) => {
      const s = some(r);
      return { inputs: [normal(r, s)], attrs: { axis: r.int(-s.length, s.length - 1) } };
    },
  ],
  Softplus: [reference((x) => Math.log1p(Math.exp(x)))],
  Softsign: [reference((x) => x / (1 + Math.abs(x)))],
  SpaceToDepth: [
    (r) => {
      const b = r.int(1, 3);
      return { inputs: [normal(r, [r.int(1, 2), r.int(1, 3), b * r.int(1, 2), b * r.int(1, 2)])], attrs: { blocksize: b } };
    },
  ],
  Split: [
    (r) => ({ inputs: [normal(r, [2, 6]), i64([1, 2, 3])], attrs: { axis: 1 }, outputs: 3, used: [0, 1, 2] }),
    (r) => ({ inputs: [normal(r, [6, 2])], attrs: { axis: 0, num_outputs: 3 }, outputs: 3, used: [1] }),
  ],
  Sqrt: [unary((r, s) => between(r, s, 0.2, 3))],
  Squeeze: [(r) => ({ inputs: [normal(r, [1, r.int(1, 3), 1, 2]), ...(r.next() < 0.5 ? [i64([0, 2])] : [i64([-2])])] })],
  Sub: [binary(normal)],
  Sum: [variadic],
  Swish: [reference((x) => x / (1 + Math.exp(-1.5 * x)), { alpha: float(1.5) })].map((m) => (r) => ({ ...m(r), opset: 24 })),
  Tan: [reference(Math.tan)].map((m) => (r) => ({ ...m(r), inputs: [between(r, some(r), -1, 1)] })),
  Tanh: [unary(normal)],
  ThresholdedRelu: [reference((x) => (x > 0.1 ? x : 0), { alpha: float(0.1) })].map((m) => (r) => ({
    ...m(r),
    inputs: [away(r, some(r))],
  })),
  Tile: [
    (r) => {
      const s = some(r);
      return { inputs: [normal(r, s), i64(s.map(() => r.int(1, 3)))] };
    },
  ],
  TopK: [
    (r) => {
      const s = r.shape(2, 3, 5);
      return { inputs: [distinct(r, s), i64([2])], attrs: { axis: r.int(0, 1), largest: r.int(0, 1) }, outputs: 2, used: [0] };
    },
  ],
  Transpose: [
    (r) => {
      const s = r.shape(r.int(2, 4));
      const perm = range(s.length).sort(() => r.next() - 0.5);
      return { inputs: [normal(r, s)], attrs: r.next() < 0.3 ? {} : { perm } };
    },
  ],
  Trilu: [(r) => ({ inputs: [normal(r, [2, 3, 4]), i64([r.int(-1, 1)], [])], attrs: { upper: r.int(0, 1) } })],
  Unsqueeze: [(r) => ({ inputs: [normal(r, [2, 3]), i64(r.pick([[0, 2], [-1]]))] })],
  Where: [
    (r) => {
      const s = r.shape(3);
      const c = thinner(r, s);
      const mask = tensorFrom(
        Uint8Array.from({ length: count(c) }, () => r.int(0, 1)),
        c,
        "bool",
      );
      return { inputs: [mask, normal(r, s), normal(r, thinner(r, s))] };
    },
  ],
};
