/**
 * Which elements share one (scale, zeroPoint) pair.
 * `axis` is always the axis that is kept apart, never the one reduced over; negative axes are not allowed here.
 */
export type Granularity =
  | { readonly kind: "tensor" }
  | { readonly kind: "channel"; readonly axis: number }
  | { readonly kind: "block"; readonly axis: number; readonly size: number };

/**
 * Shape of `scale` and `zeroPoint` for a tensor of `shape`.
 *
 *   tensor                 [O, I, H, W] -> []
 *   channel, axis 0        [O, I, H, W] -> [O]
 *   block, axis 0, size B  [K, N]       -> [ceil(K / B), N]
 */
export function qparamShape(shape: readonly number[], g: Granularity): readonly number[] {
  switch (g.kind) {
    case "tensor":
      return [];
    case "channel":
      return [dim(shape, g.axis)];
    case "block": {
      const blocks = Math.ceil(dim(shape, g.axis) / g.size);
      return shape.map((d, i) => (i === g.axis ? blocks : d));
    }
    default:
      return g satisfies never;
  }
}

function dim(shape: readonly number[], axis: number): number {
  const d = shape[axis];
  if (d === undefined) throw new RangeError(`internal: axis ${axis} is outside shape [${shape.join(", ")}]`);
  return d;
}

/**
 * Index into scale/zeroPoint for a flat row-major element index, as three numbers: the element `i` uses
 * parameter `floor(i / outer) * stride + floor((i % outer) / inner) [/ size] ...`. Returned as a closure-free walker for hot loops:
 *
 *   for (let o = 0, i = 0; o < w.outer; o++) for (let a = 0; a < w.axisLength; a++) for (let n = 0; n < w.inner; n++, i++)
 *     p = granularity tensor: 0 · channel: a · block: (o * w.blocks + floor(a / w.size)) * w.inner + n
 */
export interface Walk {
  readonly outer: number;
  readonly axisLength: number;
  readonly inner: number;
  readonly blocks: number;
  readonly size: number;
}
export function walkOf(shape: readonly number[], axis: number, size = 1): Walk {
  let outer = 1;
  let inner = 1;
  for (let i = 0; i < axis; i++) outer *= shape[i]!;
  for (let i = axis + 1; i < shape.length; i++) inner *= shape[i]!;
  const axisLength = dim(shape, axis);
  return { outer, axisLength, inner, blocks: Math.ceil(axisLength / size), size };
}
