import { stringAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import { floatTensor } from "../emit.ts";
import type { Row, Rule } from "../rule.ts";
import { range } from "./window.ts";

/**
 * Resizing is linear and separable: Y = A₀ · X · A₁ᵀ over the two last axes, with A [out, in] per axis. The same Resize applied to an
 * identity matrix along one axis reads A off, whatever the mode, coordinates and anti-aliasing; the backward step is Aᵀ.
 * Nearest with whole factors and asymmetric or half-pixel coordinates repeats each element: dX sums the copies.
 */
export const resize: Rule = (r) => {
  const e = r.e;
  if (stringAttr(r.node, "coordinate_transformation_mode", "half_pixel") === "tf_crop_and_resize")
    r.refuse("it crops by a region of interest");
  const xs = r.fixed(r.x());
  const ys = r.fixed(r.y());
  const rank = xs.length;
  const axes = range(0, rank).filter((a) => changes(r, a, xs, ys));
  if (axes.length === 0) return [r.dy()];
  if (repeats(r, xs, ys)) {
    const apart = e.reshape(
      r.dy(),
      xs.flatMap((d, a) => [d, ys[a]! / d]),
    );
    return [
      e.like(
        e.reduce(
          "ReduceSum",
          apart,
          xs.map((_, a) => 2 * a + 1),
          0,
        ),
        r.x(),
      ),
    ];
  }
  let g = r.dy();
  for (const a of axes) {
    const m = axisMatrix(r, a, xs[a]!, ys[a]!);
    if (a === rank - 1) g = r.op("MatMul", g, m);
    else if (a === rank - 2) g = r.op("MatMul", e.transpose(m, [1, 0]), g);
    else {
      const toLast = range(0, rank).map((i) => (i === a ? rank - 1 : i === rank - 1 ? a : i));
      g = e.transpose(r.op("MatMul", e.transpose(g, toLast), m), toLast);
    }
  }
  return [e.like(g, r.x())];
};

function scaleOf(r: Row, axis: number): number | undefined {
  const scales = r.node.inputs[2];
  if (!scales?.isConstant || scales.data!.shape[0] === 0 || scales.data!.dtype !== "float32") return undefined;
  const listed = r.node.attrs.get("axes");
  const bytes = scales.data!.bytes().slice();
  const values = new Float32Array(bytes.buffer);
  if (listed?.kind !== "ints") return values[axis];
  const at = listed.value.map((a) => r.axis(Number(a), r.rank(r.x()))).indexOf(axis);
  return at < 0 ? 1 : values[at];
}
const changes = (r: Row, a: number, xs: readonly number[], ys: readonly number[]) => xs[a] !== ys[a] || (scaleOf(r, a) ?? 1) !== 1;

function repeats(r: Row, xs: readonly number[], ys: readonly number[]): boolean {
  if (stringAttr(r.node, "mode", "nearest") !== "nearest") return false;
  const whole = xs.every((d, a) => ys[a]! % d === 0 && (scaleOf(r, a) ?? ys[a]! / d) === ys[a]! / d);
  const coordinates = stringAttr(r.node, "coordinate_transformation_mode", "half_pixel");
  const rounding = stringAttr(r.node, "nearest_mode", "round_prefer_floor");
  // Half pixel: (o + ½)/k − ½ lies within ½ of its source, any rounding to nearest. Asymmetric: o/k, floor.
  return (
    whole && ((coordinates === "half_pixel" && rounding.startsWith("round")) || (coordinates === "asymmetric" && rounding === "floor"))
  );
}

/** A [out, in]: the node's Resize along the third axis of an identity [1, 1, in, in]. */
function axisMatrix(r: Row, axis: number, from: number, to: number): Value {
  const e = r.e;
  const dtype = e.dtype(r.x());
  const eye = Array.from({ length: from * from }, (_, i) => (Math.floor(i / from) === i % from ? 1 : 0));
  const id = e.graph.constant(floatTensor(eye, [1, 1, from, from], dtype), "grad/identity");
  const attrs = Object.fromEntries([...r.node.attrs].filter(([k]) => k !== "axes" && k !== "keep_aspect_ratio_policy"));
  const scale = scaleOf(r, axis);
  const scales = () => e.graph.constant(floatTensor([1, 1, scale!, 1], [4], "float32"), "grad/scales");
  const inputs = scale !== undefined ? [id, undefined, scales()] : [id, undefined, undefined, e.ints([1, 1, to, from])];
  return e.reshape(e.op("Resize", inputs, attrs), [to, from]);
}
