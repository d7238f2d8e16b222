import { intAttr, intsAttr, stringAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import type { Row } from "../rule.ts";

/** A sliding window over the spatial axes, with every default written out. */
export interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly begin: readonly number[];
  readonly end: readonly number[];
}

/** Reads the window of a Conv or a pool over x; SAME padding needs the spatial size of x. */
export function windowOf(r: Row, x: Value, kernel: readonly number[]): Window {
  const n = kernel.length;
  const strides = intsAttr(r.node, "strides") ?? kernel.map(() => 1);
  const dilations = intsAttr(r.node, "dilations") ?? kernel.map(() => 1);
  const auto = stringAttr(r.node, "auto_pad", "NOTSET");
  if (auto === "NOTSET" || auto === "VALID") {
    const pads = (auto === "NOTSET" ? intsAttr(r.node, "pads") : undefined) ?? [...kernel, ...kernel].map(() => 0);
    return { kernel, strides, dilations, begin: pads.slice(0, n), end: pads.slice(n) };
  }
  const size = r.fixed(x).slice(2);
  const total = kernel.map((k, i) => {
    const s = strides[i]!;
    return Math.max(0, (Math.ceil(size[i]! / s) - 1) * s + dilations[i]! * (k - 1) + 1 - size[i]!);
  });
  const less = total.map((t) => Math.floor(t / 2));
  const more = total.map((t, i) => t - less[i]!);
  return auto === "SAME_UPPER"
    ? { kernel, strides, dilations, begin: less, end: more }
    : { kernel, strides, dilations, begin: more, end: less };
}
export const kernelShape = (r: Row) => intsAttr(r.node, "kernel_shape") ?? [];
export const groupOf = (r: Row) => intAttr(r.node, "group", 1);
export const range = (from: number, to: number) => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);

/**
 * The transpose of a strided window: ConvTranspose(g, w) cut to the spatial size of x. With o outputs the transpose reaches
 * (o−1)·s + d(k−1) + 1 − p; what x has beyond that gets zeros (output_padding, below s), what it has less is cut (ceil_mode).
 */
export function spreadBack(r: Row, g: Value, w: Value, x: Value, y: Value, win: Window, group: number): Value {
  const xs = r.e.shape(x)?.slice(2);
  const ys = r.e.shape(y)?.slice(2);
  const { kernel, strides, dilations, begin } = win;
  const end = [...win.end];
  const extra = kernel.map(() => 0);
  let cut = false;
  for (let i = 0; i < kernel.length; i++) {
    const [a, b, s] = [xs?.[i], ys?.[i], strides[i]!];
    if (typeof a === "number" && typeof b === "number") {
      const rest = a + begin[i]! + end[i]! - dilations[i]! * (kernel[i]! - 1) - 1 - (b - 1) * s;
      if (rest >= 0) extra[i] = rest;
      else end[i]! -= rest;
    } else if (s > 1) {
      extra[i] = s - 1;
      cut = true;
    }
  }
  const out = r.e.op("ConvTranspose", [g, w], {
    strides,
    dilations,
    group,
    pads: [...begin, ...end],
    ...(extra.some((n) => n > 0) ? { output_padding: extra } : {}),
  });
  if (!cut) return r.e.like(out, x);
  const axes = range(2, kernel.length + 2);
  const to = r.e.vector(axes.map((a) => r.e.dim(x, a)));
  return r.e.like(r.e.op("Slice", [out, r.e.ints(axes.map(() => 0)), to, r.e.ints(axes)]), x);
}
