import { intAttr, intsAttr, stringAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import type { DimX } from "../emit.ts";
import type { Row, Rule } from "../rule.ts";
import { range } from "./window.ts";

/** Same elements in the same order: Reshape, Flatten, Squeeze, Unsqueeze. */
export const sameOrder: Rule = (r) => [r.e.reshapeLike(r.dy(), r.x())];

export const transpose: Rule = (r) => {
  const rank = r.rank(r.x());
  const perm = intsAttr(r.node, "perm") ?? range(0, rank).reverse();
  const back = range(0, rank).map((i) => perm.indexOf(i));
  return [r.e.like(r.e.transpose(r.dy(), back), r.x())];
};

export const concat: Rule = (r) => {
  const axis = r.axis(intAttr(r.node, "axis", 0), r.rank(r.y()));
  const inputs = r.node.inputs.filter((v) => v !== undefined);
  if (inputs.length === 1) return [r.dy()];
  const sizes = r.e.vector(inputs.map((v) => r.e.dim(v, axis)));
  const parts = r.e.node("Split", [r.dy(), sizes], { axis }, inputs.length);
  return inputs.map((v, i) => (r.need(i) ? r.e.like(parts.outputs[i]!, v) : undefined));
};
/** Outputs that nobody asks about count as zeros. */
export const split: Rule = (r) => {
  const axis = intAttr(r.node, "axis", 0);
  const parts = r.node.outputs.flatMap((y, i) => (y ? [r.hasDy(i) ? r.dy(i) : r.e.zeros(y, r.e.dtype(r.x()))] : []));
  if (parts.length !== r.node.outputs.length) r.refuse("an output of Split is left out");
  return [parts.length === 1 ? parts[0] : r.e.like(r.e.op("Concat", parts, { axis }), r.x())];
};

/**
 * Step 1: zeros around. Steps above 1: zeros between, too ([.., n, 1] padded to [.., n, s]). Everything else, computed bounds and
 * backward steps included, goes by position: the slice of 0, 1, 2 … says where each dY belongs.
 */
export const slice: Rule = (r) => {
  const e = r.e;
  const xs = e.staticShape(r.x());
  const [starts, ends, axes, steps] = [1, 2, 3, 4].map((i) => r.constInts(i));
  const open = (i: number, known: number[] | undefined) => r.has(i) && !known;
  if (!xs || !starts || !ends || open(3, axes) || open(4, steps) || steps?.some((s) => s < 1)) {
    return [r.scatterFlat(r.dy(), e.op("Slice", [e.positions(r.x()), ...r.node.inputs.slice(1)]))];
  }
  const begin = xs.map(() => 0);
  const count = [...xs];
  const step = xs.map(() => 1);
  for (let i = 0; i < starts.length; i++) {
    const a = r.axis(axes?.[i] ?? i, xs.length);
    const bound = (v: number) => Math.max(0, Math.min(xs[a]!, v < 0 ? v + xs[a]! : v));
    begin[a] = bound(starts[i]!);
    step[a] = steps?.[i] ?? 1;
    count[a] = Math.max(0, Math.ceil((bound(ends[i]!) - begin[a]!) / step[a]!));
  }
  if (count.some((n) => n === 0)) return [e.zeros(r.x())];
  let g = r.dy();
  if (step.some((s) => s > 1)) {
    const thin = e.reshape(
      g,
      xs.flatMap((_, a) => (step[a]! > 1 ? [count[a]!, 1] : [count[a]!])),
    );
    const after = xs.flatMap((_, a) => (step[a]! > 1 ? [0, step[a]! - 1] : [0]));
    const wide = e.op("Pad", [thin, e.ints([...after.map(() => 0), ...after])]);
    g = e.reshape(
      wide,
      count.map((n, a) => n * step[a]!),
    );
  }
  const after = xs.map((n, a) => n - begin[a]! - count[a]! * step[a]!);
  return [e.like(e.op("Pad", [g, e.ints([...begin, ...after])]), r.x())];
};

/** Constant: the padding cut off (a Pad with negative widths). Reflect, edge, wrap: padded elements add to those they repeat. */
export const pad: Rule = (r) => {
  const e = r.e;
  const pads = r.x(1);
  const axes = r.node.inputs[3];
  if (stringAttr(r.node, "mode", "constant") !== "constant") {
    const at = e.op("Pad", [e.positions(r.x()), pads, undefined, axes], { mode: stringAttr(r.node, "mode", "constant") });
    return [r.scatterFlat(r.dy(), at)];
  }
  const known = r.constInts(1);
  const less = known ? e.ints(known.map((p) => (p === 0 ? 0 : -p))) : r.op("Neg", pads);
  const dx = r.need(0) ? e.like(e.op("Pad", axes ? [r.dy(), less, undefined, axes] : [r.dy(), less]), r.x()) : undefined;
  const sum = (v: Value) => e.op("ReduceSum", [v], { keepdims: 0 });
  // What fills the border gets all that does not go to x.
  const fill = () => e.reshapeLike(r.op("Sub", sum(r.dy()), sum(dx ?? e.op("Pad", [r.dy(), less]))), r.x(2));
  return [dx, undefined, r.need(2) ? fill() : undefined];
};

export const expand: Rule = (r) => [r.unbroadcast(r.dy(), r.x())];
/** Copies add up: [r0·d0, …] as [r0, d0, …] summed over every r. */
export const tile: Rule = (r) => {
  const e = r.e;
  const xs = e.staticShape(r.x());
  const repeats = r.constInts(1);
  if (!xs || !repeats) return [r.scatterFlat(r.dy(), e.op("Tile", [e.positions(r.x()), r.x(1)]))];
  const apart = e.reshape(
    r.dy(),
    xs.flatMap((d, i) => [repeats[i]!, d]),
  );
  const sum = e.reduce(
    "ReduceSum",
    apart,
    xs.map((_, i) => 2 * i),
    0,
  );
  return [e.like(sum, r.x())];
};

/** DepthToSpace and SpaceToDepth undo each other; the CRD order is spelled out. */
export const depthToSpace: Rule = (r) => {
  const e = r.e;
  const b = intAttr(r.node, "blocksize", 1);
  if (stringAttr(r.node, "mode", "DCR") === "DCR") return [e.like(e.op("SpaceToDepth", [r.dy()], { blocksize: b }), r.x())];
  // y [N, c, h·b, w·b] <- x [N, c·b·b, h, w] with channel = (c, bh, bw).
  const [n, c, h, w] = e.dims(r.x(), 4) as [DimX, DimX, DimX, DimX];
  const channels = typeof c === "number" ? c / (b * b) : r.op("Div", c, e.ints([b * b]));
  const parts = e.reshape(r.dy(), [n, channels, h, b, w, b]);
  return [e.reshapeLike(e.transpose(parts, [0, 1, 3, 5, 2, 4]), r.x())];
};
export const spaceToDepth: Rule = (r) => [
  r.e.like(r.e.op("DepthToSpace", [r.dy()], { blocksize: intAttr(r.node, "blocksize", 1), mode: "DCR" }), r.x()),
];
export const trilu: Rule = (r) => [
  r.e.like(r.e.op("Trilu", r.has(1) ? [r.dy(), r.x(1)] : [r.dy()], { upper: intAttr(r.node, "upper", 1) }), r.x()),
];
/** Goes by position. */
export const reverseSequence: Rule = (r) => [
  r.e.like(r.e.op("ReverseSequence", [r.dy(), r.x(1)], Object.fromEntries(r.node.attrs)), r.x()),
];

/** Rows add up where an index repeats: ScatterND along axis 0 (other axes are brought there and back). */
export const gather: Rule = (r: Row) => {
  const e = r.e;
  const rank = r.rank(r.x());
  const indices = r.rank(r.x(1));
  const axis = r.axis(intAttr(r.node, "axis", 0), rank);
  const at = e.op("Unsqueeze", [e.dtype(r.x(1)) === "int64" ? r.x(1) : e.op("Cast", [r.x(1)], { to: 7 }), e.ints([-1])]);
  // dY [before, indices…, after] -> [indices…, before, after]
  const toFront = [...range(axis, axis + indices), ...range(0, axis), ...range(axis + indices, rank - 1 + indices)];
  const g = e.transpose(r.dy(), toFront);
  if (axis === 0) return [e.like(e.op("ScatterND", [e.zeros(r.x()), at, g], { reduction: "add" }), r.x())];
  const front = [axis, ...range(0, axis), ...range(axis + 1, rank)];
  const zeros = e.transpose(e.zeros(r.x()), front);
  const sum = e.op("ScatterND", [zeros, at, g], { reduction: "add" });
  return [
    e.like(
      e.transpose(
        sum,
        range(0, rank).map((i) => front.indexOf(i)),
      ),
      r.x(),
    ),
  ];
};
export const gatherElements: Rule = (r) => [
  r.e.like(r.e.op("ScatterElements", [r.e.zeros(r.x()), r.x(1), r.dy()], { axis: intAttr(r.node, "axis", 0), reduction: "add" }), r.x()),
];
export const gatherND: Rule = (r) => {
  const e = r.e;
  const batch = intAttr(r.node, "batch_dims", 0);
  if (batch === 0) return [e.like(e.op("ScatterND", [e.zeros(r.x()), r.x(1), r.dy()], { reduction: "add" }), r.x())];
  return [r.scatterFlat(r.dy(), e.op("GatherND", [e.positions(r.x()), r.x(1)], { batch_dims: batch }))];
};
/** Written elements: dY is zero for the data and read back for the updates. Added ones: dY passes to both. */
export const scatterElements: Rule = (r) => {
  const axis = intAttr(r.node, "axis", 0);
  const reduction = stringAttr(r.node, "reduction", "none");
  if (reduction !== "none" && reduction !== "add") r.refuse(`reduction "${reduction}"`);
  const zero = () => r.e.op("ScatterElements", [r.dy(), r.x(1), r.e.zeros(r.x(2))], { axis });
  return [
    r.need(0) ? (reduction === "add" ? r.dy() : r.e.like(zero(), r.x(0))) : undefined,
    undefined,
    r.need(2) ? r.e.like(r.e.op("GatherElements", [r.dy(), r.x(1)], { axis }), r.x(2)) : undefined,
  ];
};
export const scatterND: Rule = (r) => {
  const reduction = stringAttr(r.node, "reduction", "none");
  if (reduction !== "none" && reduction !== "add") r.refuse(`reduction "${reduction}"`);
  return [
    r.need(0) ? (reduction === "add" ? r.dy() : r.e.like(r.op("ScatterND", r.dy(), r.x(1), r.e.zeros(r.x(2))), r.x(0))) : undefined,
    undefined,
    r.need(2) ? r.e.like(r.op("GatherND", r.dy(), r.x(1)), r.x(2)) : undefined,
  ];
};
