import { intsAttr, stringAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import type { Row, Rule } from "../rule.ts";
import { groupOf, range, spreadBack, type Window, windowOf } from "./window.ts";

/** Y = X ⋆ W + b.  dX = ConvTranspose(dY, W),  dW = X ⋆ dY over samples,  db = Σ dY over (N, spatial). */
export const conv: Rule = (r) => {
  const group = groupOf(r);
  const win = windowOf(r, r.x(0), r.fixed(r.x(1)).slice(2));
  const axes = [0, ...range(2, win.kernel.length + 2)];
  return [
    r.need(0) ? inputGradient(r, win, group) : undefined,
    r.need(1) ? weightGradient(r, r.x(0), r.dy(), r.x(1), win, group) : undefined,
    r.need(2) ? r.e.reduce("ReduceSum", r.dy(), axes, 0) : undefined,
  ];
};

/**
 * dX = ConvTranspose(dY, W). With stride 1 it is a convolution with the kernel turned round and its channels exchanged within each group,
 * padded by d(k−1) − p, for which the engine has the better code (8 × 64 × 56 × 56, kernel 3: 26 against 49 ms; depthwise 32 × 16 × 48 × 48:
 * 3.2 against 7.4 ms).
 */
function inputGradient(r: Row, win: Window, group: number): Value {
  const e = r.e;
  const { kernel, strides, dilations, begin, end } = win;
  const reach = kernel.map((k, i) => dilations[i]! * (k - 1));
  const pads = [...reach.map((n, i) => n - begin[i]!), ...reach.map((n, i) => n - end[i]!)];
  if (!strides.every((s) => s === 1) || !pads.every((p) => p >= 0)) return spreadBack(r, r.dy(), r.x(1), r.x(0), r.y(), win, group);
  const [m, c] = r.fixed(r.x(1)) as [number, number];
  const axes = range(2, kernel.length + 2);
  let w = r.x(1);
  if (group === 1) w = e.transpose(w, [1, 0, ...axes]);
  else if (c !== 1 || m !== group) {
    const parts = e.reshape(w, [group, m / group, c, ...kernel]);
    w = e.reshape(e.transpose(parts, [0, 2, 1, ...axes.map((a) => a + 1)]), [group * c, m / group, ...kernel]);
  }
  if (kernel.some((k) => k > 1)) {
    const all = (v: number) => e.ints(axes.map(() => v));
    w = e.op("Slice", [w, all(-1), all(-(2 ** 31)), e.ints(axes), all(-1)]);
  }
  return e.like(e.op("Conv", [r.dy(), w], { group, pads, dilations }), r.x(0));
}

/** The transpose of a convolution: dX = Conv(dY, W); dW is that of a convolution whose input is dY and whose output gradient is X. */
export const convTranspose: Rule = (r) => {
  const group = groupOf(r);
  const kernel = r.fixed(r.x(1)).slice(2);
  const win = transposedWindow(r, kernel);
  const axes = [0, ...range(2, kernel.length + 2)];
  const attrs = { strides: win.strides, dilations: win.dilations, group, pads: [...win.begin, ...win.end] };
  return [
    r.need(0) ? r.e.like(r.e.op("Conv", [r.dy(), r.x(1)], attrs), r.x(0)) : undefined,
    r.need(1) ? weightGradient(r, r.dy(), r.x(0), r.x(1), win, group) : undefined,
    r.need(2) ? r.e.reduce("ReduceSum", r.dy(), axes, 0) : undefined,
  ];
};

/** Pads of a ConvTranspose; `output_shape` and SAME fix the output and leave the pads to follow. */
function transposedWindow(r: Row, kernel: readonly number[]): Window {
  const auto = stringAttr(r.node, "auto_pad", "NOTSET");
  const asked = intsAttr(r.node, "output_shape");
  if (!asked && !auto.startsWith("SAME")) return windowOf(r, r.x(0), kernel);
  const strides = intsAttr(r.node, "strides") ?? kernel.map(() => 1);
  const dilations = intsAttr(r.node, "dilations") ?? kernel.map(() => 1);
  const extra = intsAttr(r.node, "output_padding") ?? kernel.map(() => 0);
  const size = r.fixed(r.x(0)).slice(2);
  const out = asked ?? size.map((n, i) => n * strides[i]!);
  const total = kernel.map((k, i) => Math.max(0, strides[i]! * (size[i]! - 1) + extra[i]! + dilations[i]! * (k - 1) + 1 - out[i]!));
  const half = total.map((t) => Math.floor(t / 2));
  const rest = total.map((t, i) => t - half[i]!);
  return auto === "SAME_UPPER"
    ? { kernel, strides, dilations, begin: half, end: rest }
    : { kernel, strides, dilations, begin: rest, end: half };
}

/**
 * dW [M, C/G, k…] of a convolution with input x [N, C, …] and output gradient g [N, M, …]. P: positions of the output.
 *
 *   kernel 1, no padding   Σₙ g [M, P]·xᵀ [P, C]
 *   2 axes, stride 1       one product a tap: Σₙ xₜ [C, P]·gᵀ [P, M] with xₜ the input seen through tap t; few channels or positions: all
 *                          taps stacked into one product
 *   depthwise, stride 1    Σ xₜ·g over samples and positions, tap by tap
 *   else                   a convolution with samples and channels exchanged, stride and dilation exchanged: input [C/G, G·N, …], kernel g as
 *                          [M, N, …], group G; its output [C/G, M, ≥ k…] is cut to k
 *
 * Which is faster was measured (onnxruntime 1.30, one thread, 32 × 16 × 32 × 32, kernel 3): taps 4.7, stacked 7.5, exchanged 17 ms, forward 2.9.
 */
function weightGradient(r: Row, x: Value, g: Value, w: Value, win: Window, group: number): Value {
  const ws = r.fixed(w);
  const { kernel, strides, begin, end } = win;
  if (group === 1) {
    if (kernel.every((k) => k === 1) && [...begin, ...end].every((p) => p === 0)) return pointwise(r, x, g, w, win);
    const out = r.e.staticShape(g)?.slice(2);
    if (kernel.length === 2 && strides.every((s) => s === 1) && out) return perTap(r, x, g, w, win, out);
  }
  const out = r.e.staticShape(g)?.slice(2);
  const depthwise = ws[0] === group && ws[1] === 1 && kernel.length === 2 && strides.every((s) => s === 1);
  if (depthwise && out) return perTapDepthwise(r, x, g, w, win, out);
  return exchanged(r, x, g, w, win, group, ws);
}

function pointwise(r: Row, x: Value, g: Value, w: Value, { strides, kernel }: Window): Value {
  const e = r.e;
  const spatial = range(2, kernel.length + 2);
  const at = strides.every((s) => s === 1)
    ? x
    : e.op("Slice", [x, e.ints(spatial.map(() => 0)), e.ints(spatial.map(() => 2 ** 31 - 1)), e.ints(spatial), e.ints(strides)]);
  const gm = e.reshape(g, [e.dim(x, 0), e.dim(g, 1), -1]);
  const xm = e.reshape(at, [e.dim(x, 0), e.dim(x, 1), -1]);
  const each = r.op("MatMul", gm, e.transpose(xm, [0, 2, 1]));
  return e.like(e.reshape(e.reduce("ReduceSum", each, [0], 0), r.fixed(w)), w);
}

/** Fewer channels or positions than these: the products of single taps are too small to be worth their calls. */
const FEW_CHANNELS = 8;
const FEW_POSITIONS = 64;

/** The padded input as each tap sees it: [N, C, out…] for every position in the kernel, row by row. */
function tapsOf(r: Row, x: Value, win: Window, out: readonly number[]): Value[] {
  const e = r.e;
  const pads = [0, 0, ...win.begin, 0, 0, ...win.end];
  const padded = pads.some((p) => p > 0) ? e.op("Pad", [x, e.ints(pads)]) : x;
  const taps: Value[] = [];
  for (let i = 0; i < win.kernel[0]!; i++)
    for (let j = 0; j < win.kernel[1]!; j++) {
      const from = [i * win.dilations[0]!, j * win.dilations[1]!];
      const to = from.map((f, a) => f + out[a]!);
      taps.push(e.op("Slice", [padded, e.ints(from), e.ints(to), e.ints([2, 3])]));
    }
  return taps;
}

function perTapDepthwise(r: Row, x: Value, g: Value, w: Value, win: Window, out: readonly number[]): Value {
  const e = r.e;
  const each = tapsOf(r, x, win, out).map((t) => e.reshape(e.reduce("ReduceSum", r.mul(t, g), [0, 2, 3], 0), [1, r.fixed(w)[0]!]));
  const taps = each.length === 1 ? each[0]! : e.op("Concat", each, { axis: 0 });
  return e.like(e.reshape(e.transpose(taps, [1, 0]), r.fixed(w)), w);
}

function perTap(r: Row, x: Value, g: Value, w: Value, win: Window, out: readonly number[]): Value {
  const e = r.e;
  const [m, c, kh, kw] = r.fixed(w) as [number, number, number, number];
  const [n, positions] = [e.dim(x, 0), out[0]! * out[1]!];
  const gt = e.transpose(e.reshape(g, [n, m, positions]), [0, 2, 1]);
  const taps = tapsOf(r, x, win, out);
  let sums: Value; // [taps, C, M]
  if (c < FEW_CHANNELS || positions <= FEW_POSITIONS) {
    const columns = e.reshape(e.op("Concat", taps, { axis: 1 }), [n, kh * kw * c, positions]);
    sums = e.reduce("ReduceSum", r.op("MatMul", columns, gt), [0], 0);
  } else {
    const each = taps.map((t) => e.reduce("ReduceSum", r.op("MatMul", e.reshape(t, [n, c, positions]), gt), [0], 0));
    sums = each.length === 1 ? each[0]! : e.op("Concat", each, { axis: 0 });
  }
  return e.like(e.transpose(e.reshape(sums, [kh, kw, c, m]), [3, 2, 0, 1]), w);
}

function exchanged(r: Row, x: Value, g: Value, w: Value, win: Window, group: number, ws: readonly number[]): Value {
  const e = r.e;
  const { kernel, strides, dilations, begin, end } = win;
  const spatial = range(2, kernel.length + 2);
  const swapped = [1, 0, ...spatial];
  let input: Value;
  if (group === 1) input = e.transpose(x, swapped);
  else {
    const rest = spatial.map((a) => e.dim(x, a));
    const parts = e.reshape(x, [e.dim(x, 0), group, ws[1]!, ...rest]);
    const turned = e.transpose(parts, [2, 1, 0, ...spatial.map((a) => a + 1)]);
    const n = e.product([e.dim(x, 0), group]);
    input = e.reshape(turned, [ws[1]!, n, ...rest]);
  }
  const full = e.op("Conv", [input, e.transpose(g, swapped)], {
    strides: dilations,
    dilations: strides,
    group,
    pads: [...begin, ...end],
  });
  const cut = e.op("Slice", [full, e.ints(spatial.map(() => 0)), e.ints(kernel), e.ints(spatial)]);
  return e.like(e.transpose(cut, swapped), w);
}
