import { intAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import { floatTensor } from "../emit.ts";
import type { Row, Rule } from "../rule.ts";
import { kernelShape, range, spreadBack, windowOf } from "./window.ts";

/** The pool once more, for the flat position (over N·C·spatial) of each maximum; dY goes back there, overlaps add up. */
export const maxPool: Rule = (r) => {
  const again = () =>
    r.e.graph.append({
      op: "MaxPool",
      inputs: [r.x()],
      outputs: [r.e.graph.freshName("grad/MaxPool"), r.e.graph.freshName("grad/Indices")],
      attrs: { ...Object.fromEntries(r.node.attrs), storage_order: 0 },
      name: r.e.graph.freshName("grad/MaxPool"),
      ...(r.e.origin ? { origin: r.e.origin } : {}),
    }).outputs[1]!;
  const own = intAttr(r.node, "storage_order", 0) === 0 ? r.node.outputs[1] : undefined;
  return [r.scatterFlat(r.dy(), own ?? again())];
};

/** dX = transpose of the window with ones, of dY / count; count leaves out padding unless count_include_pad. */
export const averagePool: Rule = (r) => {
  const e = r.e;
  const kernel = kernelShape(r);
  const win = windowOf(r, r.x(), kernel);
  const area = kernel.reduce((a, b) => a * b, 1);
  const ceil = intAttr(r.node, "ceil_mode", 0) === 1;
  const plain = !ceil && [...win.begin, ...win.end].every((p) => p === 0);
  const g = plain ? r.mul(r.dy(), 1 / area) : r.mul(r.dy(), inverseCounts(r, win));
  const rank = kernel.length + 2;
  const [n, c] = [e.dim(r.x(), 0), e.dim(r.x(), 1)];
  const tiles = plain && kernel.every((k, i) => win.strides[i] === k && win.dilations[i] === 1);
  const xs = e.shape(r.x())?.slice(2);
  if (tiles && xs?.every((d, i) => typeof d === "number" && d % kernel[i]! === 0)) {
    // Windows tile x: every dY is repeated k times along each axis.
    const out = range(2, rank).map((_, i) => (xs[i] as number) / kernel[i]!);
    const thin = e.reshape(g, [n, c, ...out.flatMap((d) => [d, 1])]);
    const wide = e.op("Expand", [thin, e.ints([1, 1, ...out.flatMap((_, i) => [1, kernel[i]!])])]);
    return [e.reshapeLike(wide, r.x())];
  }
  // One channel at a time: [N·C, 1, spatial].
  const flat = e.reshape(g, [e.product([n, c]), 1, ...range(2, rank).map((a) => e.dim(r.y(), a))]);
  const ones = e.graph.constant(
    floatTensor(
      Array.from({ length: area }, () => 1),
      [1, 1, ...kernel],
      e.dtype(r.x()),
    ),
    "grad/ones",
  );
  return [e.reshapeLike(spreadBack(r, flat, ones, r.x(), r.y(), win, 1), r.x())];
};

/** 1 / count for every output position, [1, 1, spatial]. A window that sticks out beyond the end padding counts only up to it. */
function inverseCounts(r: Row, win: ReturnType<typeof windowOf>): Value {
  const xs = r.fixed(r.x()).slice(2);
  const ys = r.fixed(r.y()).slice(2);
  const include = intAttr(r.node, "count_include_pad", 0) === 1;
  const along = ys.map((n, i) =>
    Array.from({ length: n }, (_, o) => {
      let count = 0;
      for (let k = 0; k < win.kernel[i]!; k++) {
        const at = o * win.strides[i]! - win.begin[i]! + k * win.dilations[i]!;
        if (include ? at < xs[i]! + win.end[i]! : at >= 0 && at < xs[i]!) count++;
      }
      return count;
    }),
  );
  let counts = [1];
  for (const axis of along) counts = counts.flatMap((c) => axis.map((d) => c * d));
  const data = floatTensor(
    counts.map((c) => 1 / Math.max(1, c)),
    [1, 1, ...ys],
    r.e.dtype(r.x()),
  );
  return r.e.graph.constant(data, "grad/inverse_counts");
}

const spatialOf = (r: Row) => range(2, r.rank(r.x()));
export const globalAveragePool: Rule = (r) => {
  const n = r.e.product(spatialOf(r).map((a) => r.e.dim(r.x(), a)));
  const g = typeof n === "number" ? r.mul(r.dy(), 1 / n) : r.op("Div", r.dy(), r.number(n));
  return [r.e.like(r.e.op("Expand", [g, r.e.shapeValue(r.x())]), r.x())];
};
/** To the elements that equal the maximum; ties share equally. */
export const globalMaxPool: Rule = (r) => {
  const hit = r.number(r.op("Equal", r.x(), r.y()));
  return [r.mul(hit, r.op("Div", r.dy(), r.e.reduce("ReduceSum", hit, spatialOf(r), 1)))];
};
