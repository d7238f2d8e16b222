import { constantOf } from "../graph/constant.ts";
import type { Graph, Model, Node, Value } from "../graph/ir.ts";
import { rowOf, traitOf } from "../graph/ops/index.ts";
import { allGraphs } from "../graph/walk.ts";
import { both, either, epsilon, is, matchAt, num, op, type Pattern, scalarOf, some, view } from "./pattern.ts";

export type RegionKind =
  | "layer-norm"
  | "rms-norm"
  | "l2-norm"
  | "softmax"
  | "gelu"
  | "silu"
  | "hard-swish"
  | "mish"
  | "rope"
  | "attention-mask";

/**
 * Several nodes that compute one function whose inner values must not be quantized: the square of an activation, the exponential of a
 * softmax, the sum of scores and a mask of −10⁹. Runtimes also fuse them when nothing stands between.
 */
export interface Region {
  readonly kind: RegionKind;
  /** In execution order. */
  readonly nodes: readonly Node[];
  /** Values from outside, constants left out. */
  readonly inputs: readonly Value[];
  /** Values of the region that are used outside. */
  readonly outputs: readonly Value[];
}

const x = is("x");
/** The mean over some axes: one operator, or a sum and a factor. */
const mean = (p: Pattern) =>
  either(op("ReduceMean", p), both("Mul", view(op("ReduceSum", p)), some), op("Div", view(op("ReduceSum", p)), some));
const squared = (p: Pattern) => either(op("Pow", p, num(2)), op("Mul", p, p));
/** `gamma` may come in before `x` does: `x · (gamma / sqrt(…))`. */
const gained = (p: Pattern) => either(p, both("Mul", p, some));
const over = (p: Pattern, variance: Pattern) => {
  const sum = both("Add", variance, epsilon);
  const deviation = either(op("Sqrt", either(sum, op("Max|Clip", variance, epsilon))), op("Pow", sum, num(0.5)));
  const inverse = either(op("Reciprocal", deviation), op("Div", num(1), deviation), op("Pow", sum, num(-0.5)));
  return either(op("Div", p, view(deviation)), both("Mul", p, view(gained(view(inverse)))));
};
const centred = op("Sub", x, view(mean(x)));
/** `mean (x − mean x)²`, or `mean x² − (mean x)²`, not below 0. */
const difference = op("Sub", mean(squared(x)), squared(mean(x)));
const variance = either(mean(squared(centred)), difference, both("Max", difference, num(0)), op("Relu", difference));

/** `(x − mean x) / sqrt(mean (x − mean x)² + eps)`, Ba et al. 2016. */
const LAYER_NORM = over(centred, view(variance));
/** `x / sqrt(mean x² + eps)`, Zhang and Sennrich 2019. */
const RMS_NORM = over(x, view(mean(squared(x))));
/** `x / ‖x‖`, with a floor or not. */
const norm2 = either(
  op("ReduceL2", x),
  op("Sqrt", op("ReduceSum", squared(x))),
  op("Sqrt", both("Add", op("ReduceSum", squared(x)), epsilon)),
);
const floored = either(norm2, op("Clip|Max", norm2), both("Add", norm2, epsilon));
const L2_NORM = op("Div", x, view(floored));
/** `exp(x − max x) / Σ exp(x − max x)`. */
const largest = op("ReduceMax", x);
const exponential = op("Exp", either(op("Sub", x, view(either(largest, both("Max", view(largest), some)))), x));
const SOFTMAX = op("Div", exponential, view(op("ReduceSum", exponential)));
/** Rotation of the halves: `x·cos + (−x₂, x₁)·sin`, Su et al. 2021. */
const ROPE = both("Add", both("Mul", x, is("cos")), both("Mul", op("Concat", op("Neg", op("Slice|Split|Gather", x))), is("sin")));

const SIMPLE: readonly (readonly [RegionKind, readonly string[], Pattern])[] = [
  ["layer-norm", ["Div", "Mul"], LAYER_NORM],
  ["rms-norm", ["Div", "Mul"], RMS_NORM],
  ["l2-norm", ["Div"], L2_NORM],
  ["softmax", ["Div"], SOFTMAX],
  ["rope", ["Add"], ROPE],
];

/** All regions of a model, subgraphs included. A node is in one region at most. */
export function findRegions(model: Model): Region[] {
  const out: Region[] = [];
  for (const g of allGraphs(model.graph)) out.push(...regionsOf(g));
  return out;
}

/** The region of each node. */
export function regionIndex(regions: readonly Region[]): ReadonlyMap<Node, Region> {
  return new Map(regions.flatMap((r) => r.nodes.map((n) => [n, r] as const)));
}

function regionsOf(g: Graph): Region[] {
  const out: Region[] = [];
  const taken = new Set<Node>();
  const position = new Map(g.nodes.map((n, i) => [n, i]));
  const add = (kind: RegionKind, found: Iterable<Node>) => {
    const nodes = [...found].filter((n) => n.graph === g && !taken.has(n)).sort((a, b) => position.get(a)! - position.get(b)!);
    if (nodes.length < 2) return;
    for (const n of nodes) taken.add(n);
    out.push(regionFrom(kind, nodes));
  };
  for (const [kind, ops, pattern] of SIMPLE) {
    for (const n of g.nodes) {
      if (taken.has(n) || !ops.includes(n.op) || !n.outputs[0]) continue;
      const seen = matchAt(pattern, n.outputs[0]);
      if (seen) add(kind, kind.endsWith("-norm") ? withGain(n, seen.nodes) : seen.nodes);
    }
  }
  for (const n of g.nodes) {
    if (taken.has(n)) continue;
    if (n.op === "Mul" || n.op === "Div") {
      const gated = gatedFunction(n);
      if (gated) add(gated.kind, gated.nodes);
    } else if (n.op === "Sub") {
      const pairs = rotatedPairs(n);
      if (pairs) add("rope", pairs);
    } else if (n.op === "Softmax") {
      const scores = maskedScores(n);
      if (scores) add("attention-mask", scores);
    }
  }
  return out.sort((a, b) => position.get(a.nodes[0]!)! - position.get(b.nodes[0]!)!);
}

function regionFrom(kind: RegionKind, nodes: readonly Node[]): Region {
  const inside = new Set(nodes);
  const inputs = new Set<Value>();
  const outputs = new Set<Value>();
  for (const n of nodes) {
    for (const v of n.inputs) if (v && !(v.producer && inside.has(v.producer)) && !constantOf(v)) inputs.add(v);
    for (const o of n.outputs) if (o && (o.isOutput || o.uses.some((u) => !inside.has(u.node)))) outputs.add(o);
  }
  return { kind, nodes, inputs: [...inputs], outputs: [...outputs] };
}

/** A normalization with its gain and shift: `· gamma [C] + beta [C]`, constants. */
function withGain(n: Node, core: ReadonlySet<Node>): Set<Node> {
  const out = new Set(core);
  let v = n.outputs[0]!;
  for (const name of ["Mul", "Add"]) {
    let use = v.uses.length === 1 ? v.uses[0] : undefined;
    if (use?.node.op === "Cast") {
      const next = use.node.outputs[0];
      const after = next?.uses.length === 1 ? next.uses[0] : undefined;
      if (after?.node.op !== name) break;
      out.add(use.node);
      use = after;
    }
    if (use?.node.op !== name || use.node.domain !== "" || !constantOf(use.node.inputs[1 - use.input])) continue;
    out.add(use.node);
    v = use.node.outputs[0]!;
  }
  return out;
}

/** Functions that gate: what they are makes the kind. */
const GATES: Readonly<Record<string, RegionKind>> = {
  Erf: "gelu",
  Tanh: "gelu",
  Sigmoid: "silu",
  HardSigmoid: "hard-swish",
  Clip: "hard-swish",
  Softplus: "mish",
};
const ARITHMETIC = new Set(["Add", "Sub", "Mul", "Div", "Pow", "Cast", "Min", "Max", "Relu"]);

/**
 * `c · x · f(x)` in any association, f elementwise: GELU `x · ½(1 + erf(x/√2))` and its tanh form (Hendrycks and Gimpel 2016), SiLU
 * `x · σ(x)`, hard swish `x · clip(x + 3, 0, 6) / 6`, Mish `x · tanh(softplus x)`. `n` is the last product.
 */
function gatedFunction(n: Node): { readonly kind: RegionKind; readonly nodes: Set<Node> } | undefined {
  const next = n.outputs[0]?.uses.length === 1 ? n.outputs[0].uses[0]! : undefined;
  // A constant factor may still follow; the last product of the chain is the one to look from.
  if (next && (next.node.op === "Mul" || next.node.op === "Div") && scalarOf(next.node.inputs[1 - next.input]) !== undefined) {
    const longer = gatedFrom(next.node);
    if (longer) return undefined;
  }
  return gatedFrom(n);
}

function gatedFrom(n: Node): { readonly kind: RegionKind; readonly nodes: Set<Node> } | undefined {
  const products = new Set<Node>();
  const factors: Value[] = [];
  const expand = (v: Value | undefined): void => {
    const p = v?.producer;
    if (
      p &&
      (p === n || v.uses.length === 1) &&
      p.graph === n.graph &&
      (p.op === "Mul" || (p.op === "Div" && scalarOf(p.inputs[1]) !== undefined))
    ) {
      products.add(p);
      for (const i of p.inputs) expand(i);
    } else if (v && scalarOf(v) === undefined) factors.push(v);
  };
  expand(n.outputs[0]);
  if (factors.length !== 2) return undefined;
  for (const [base, gate] of [factors, [...factors].reverse()] as [Value, Value][]) {
    const inner = unaryCone(gate, base);
    if (!inner) continue;
    const kinds = [...inner].map((m) => GATES[m.op]).filter((k) => k !== undefined);
    if (kinds.length === 0) continue;
    return { kind: kinds.includes("mish") ? "mish" : kinds[0]!, nodes: new Set([...inner, ...products]) };
  }
  return undefined;
}

/** The nodes from `base` to `v` when `v` is a function of `base` and scalar constants alone, elementwise and of at most 12 nodes. */
function unaryCone(v: Value, base: Value): Set<Node> | undefined {
  const out = new Set<Node>();
  const stack = [v];
  while (stack.length > 0) {
    const y = stack.pop()!;
    if (y === base || scalarOf(y) !== undefined) continue;
    const p = y.producer;
    if (p?.domain !== "" || p.graph !== v.graph || !(ARITHMETIC.has(p.op) || p.op in GATES)) return undefined;
    if (out.has(p)) continue;
    out.add(p);
    if (out.size > 12) return undefined;
    for (const i of p.inputs) if (i) stack.push(i);
  }
  return out.size > 0 ? out : undefined;
}

/** Rotation of neighbours: `a·c − b·s` and `a·s + b·c`. `n` is the difference. */
function rotatedPairs(n: Node): Set<Node> | undefined {
  const [p, q] = n.inputs.map((v) => v?.producer);
  if (p?.op !== "Mul" || q?.op !== "Mul") return undefined;
  for (const [a, c] of [p.inputs, [...p.inputs].reverse()]) {
    for (const [b, s] of [q.inputs, [...q.inputs].reverse()]) {
      if (!a || !b || !c || !s) continue;
      const other = a.uses.map((u) => u.node).find((m) => m !== p && m.op === "Mul" && m.inputs.includes(s));
      const sum = other?.outputs[0]?.uses.find((u) => u.node.op === "Add")?.node;
      const last = sum?.inputs.map((v) => v?.producer).find((m) => m && m !== other && m.op === "Mul");
      if (other && sum && last?.inputs.includes(b) && last.inputs.includes(c)) return new Set([p, q, n, other, last, sum]);
    }
  }
  return undefined;
}

/**
 * Scores between their product and the softmax: scaling, the sum with a mask (or a Where), the softmax; and what makes the mask. A mask
 * holds −10⁴ … −10³⁸: an 8-bit range over it leaves no code for the scores.
 */
function maskedScores(softmax: Node): Set<Node> | undefined {
  const out = new Set<Node>([softmax]);
  let masked = false;
  let v = softmax.inputs[0];
  for (let steps = 0; steps < 8; steps++) {
    const p: Node | undefined = v?.producer;
    if (p?.domain !== "" || p.graph !== softmax.graph) break;
    if (p.op === "Add" || p.op === "Where" || p.op === "Sub") {
      const operands = p.inputs.slice(p.op === "Where" ? 1 : 0).filter((i) => i !== undefined);
      const scores = operands.find((i) => fromProduct(i));
      if (!scores || operands.some((i) => i !== scores && isBias(i))) break;
      masked = true;
      out.add(p);
      for (const i of p.inputs) if (i && i !== scores) for (const m of maskCone(i)) out.add(m);
      v = scores;
    } else if (
      ((p.op === "Mul" || p.op === "Div") && p.inputs.some((i) => scalarOf(i) !== undefined)) ||
      p.op === "Cast" ||
      p.op === "Tanh"
    ) {
      out.add(p);
      v = p.inputs.find((i) => i && scalarOf(i) === undefined);
    } else if (p.op === "Reshape" && masked === false) {
      out.add(p);
      v = p.inputs[0];
    } else break;
  }
  return masked ? out : undefined;
}

/** Values that a bias of a product does not have, and every mask has. */
const MASK_BELOW = -1000;

/** A vector over the last axis without values of a mask: the bias of a product, as in front of a classifier's softmax. */
function isBias(v: Value): boolean {
  const c = constantOf(v);
  return c !== undefined && c.shape.length <= 1 && c.dtype.startsWith("float") && c.float32().every((x) => x > MASK_BELOW);
}

/** True when a product stands behind, with only scaling, masks and moves between. */
function fromProduct(v: Value, depth = 0): boolean {
  const p = v.producer;
  if (!p || depth > 8) return false;
  const trait = traitOf(p);
  if (trait === "compute" || p.op === "Einsum") return true;
  if (!["Mul", "Div", "Add", "Where", "Cast", "Tanh", "Reshape", "Transpose", "Unsqueeze", "Squeeze"].includes(p.op)) return false;
  return p.inputs.some((i) => i && fromProduct(i, depth + 1));
}

/** What makes a mask: moves and elementwise operators back to inputs, shapes and constants. Empty when data products are in it. */
function maskCone(v: Value): Set<Node> {
  const out = new Set<Node>();
  const stack = [v];
  while (stack.length > 0) {
    const p = stack.pop()!.producer;
    if (!p || out.has(p) || p.graph !== v.graph) continue;
    const row = rowOf(p);
    const trait = traitOf(p);
    if (!row || trait === "compute" || trait === "recurrent" || trait === "control") return new Set();
    if (trait === "integer" || trait === "source") continue;
    if (trait !== "same-scale" && !row.elementwise) return new Set();
    out.add(p);
    if (out.size > 32) return new Set();
    const data = row.data === "all" ? p.inputs : row.data.map((i) => p.inputs[i]);
    for (const i of data) if (i) stack.push(i);
  }
  return out;
}
