import { intsAttr } from "../graph/attr.ts";
import { transpose } from "../graph/constant.ts";
import type { Node, Use, Value } from "../graph/ir.ts";
import type { Weight } from "../graph/ops/index.ts";
import type { WeightRow } from "../plan/target.ts";
import type { Scheme, WeightForm } from "../plan/types.ts";
import { elementCount } from "../quant/dtype.ts";
import type { Granularity } from "../quant/granularity.ts";
import type { Context } from "./context.ts";
import type { WeightSite } from "./proposal.ts";

/** One constant operand that will be stored as codes. */
export interface WeightUse {
  readonly node: Node;
  readonly weight: Weight;
  readonly row: WeightRow;
}

/**
 * The granularity of a weight at its node: per output channel where the operand has such an axis and the form allows it.
 * A left operand, and a product whose right operand is no matrix, get one scale: kernels read per-column scales of matrices only.
 */
export function granularityOf(ctx: Context, use: WeightUse): Granularity {
  const { weight, row } = use;
  const want = ctx.recipeAt(use.node).weight;
  const rank = weight.constant.shape.length;
  const product = weight.kind === "product";
  const matrix = !product || ctx.facts.get(use.node)?.bias !== undefined || weight.groups > 1 || rank === 2 || weight.reduce.length > 1;
  if (want?.per === "block" && row.per.includes("block") && isBlockable(use)) {
    const axis = weight.reduce[0]!;
    const size = blockSize(want.blockSize ?? 32, row, weight.constant.shape[axis]!);
    if (size !== undefined) return { kind: "block", axis, size };
  }
  if (want?.per === "tensor" && row.per.includes("tensor")) return { kind: "tensor" };
  if (weight.channel === undefined || !row.per.includes("channel") || !matrix || (product && weight.input === 0)) return { kind: "tensor" };
  return { kind: "channel", axis: weight.channel };
}

/** A matrix with one axis of sums: what blocks can lie along. */
function isBlockable({ weight }: WeightUse): boolean {
  return (
    weight.kind !== "recurrent" &&
    weight.reduce.length === 1 &&
    weight.constant.shape.length === 2 &&
    (weight.kind === "table" || weight.input === 1)
  );
}

/** The size nearest above the one wanted (else the largest) that the target takes on an axis of this length. */
function blockSize(want: number, row: WeightRow, length: number): number | undefined {
  const whole = (s: number): boolean =>
    (row.wholeBlocks === undefined || length % s === 0 || (row.wholeBlocks === "or-one" && length <= s)) &&
    length > s * ((row.leastBlocks ?? 1) - 1);
  const sizes = row.blockSizes ?? [want];
  return sizes.find((s) => s >= want && whole(s)) ?? [...sizes].reverse().find(whole);
}

/** Why a weight has no form in this row although its operator has; undefined when it has. */
export function misfit(ctx: Context, use: WeightUse): string | undefined {
  const g = granularityOf(ctx, use);
  if (use.row.per.includes(g.kind)) return undefined;
  const shape = `[${use.weight.constant.shape}]`;
  return isBlockable(use) ? `no block of ${use.row.blockSizes?.join(" or ")} divides ${shape}` : `${shape} is no matrix in blocks`;
}

/** Whether codes and scales of a table are smaller than half of the floats: else they are not worth a Gather of their own. */
export function tableWorthwhile(shape: readonly number[], channel: number | undefined): boolean {
  const count = elementCount(shape);
  const scales = channel === undefined ? 1 : shape[channel]!;
  return count + 4 * scales <= 2 * count;
}

/**
 * Weight uses to sites, keyed by the value that the consumers read. A constant that several operators reach through different values
 * (an embedding, and its transpose in the output projection) is stored once: the site moves up to the value that all of them share,
 * and the axis of its channels or blocks with it, through the permutations.
 */
export function weightSites(ctx: Context, uses: readonly WeightUse[]): WeightSite[] {
  const byRoot = new Map<Value, WeightUse[]>();
  for (const u of uses) {
    const root = u.weight.constant.root;
    byRoot.set(root, [...(byRoot.get(root) ?? []), u]);
  }
  const out: WeightSite[] = [];
  for (const group of byRoot.values()) {
    const holders = new Set(group.map((u) => u.weight.value));
    const shared = holders.size > 1 ? sharedHolder(ctx, group) : undefined;
    if (shared) out.push(...tied(ctx, group, shared));
    else
      for (const h of holders)
        out.push(
          ...sitesAt(
            ctx,
            group.filter((u) => u.weight.value === h),
          ),
        );
  }
  return out;
}

/** Sites of uses that read the same value: one for each form and scheme. */
function sitesAt(ctx: Context, uses: readonly WeightUse[]): WeightSite[] {
  const parts = new Map<string, WeightUse[]>();
  for (const u of uses) {
    const key = JSON.stringify([u.weight.kind === "table", u.row.form, granularityOf(ctx, u)]);
    parts.set(key, [...(parts.get(key) ?? []), u]);
  }
  return [...parts.values()].map((part) => {
    const u = part[0]!;
    return site(ctx, u.weight.value, part, part.map(useOf), granularityOf(ctx, u), u.weight.constant.shape, () =>
      u.weight.constant.float32(),
    );
  });
}

const useOf = (u: WeightUse): Use => ({ node: u.node, input: u.weight.input });

/** Elements of a weight up to which its floats are kept once made: a model may be larger than memory. */
const MOST_KEPT = 1 << 20;

function site(
  ctx: Context,
  value: Value,
  part: readonly WeightUse[],
  uses: readonly Use[],
  granularity: Granularity,
  shape: readonly number[],
  float32: () => Float32Array,
): WeightSite {
  const u = part[0]!;
  const want = ctx.recipeAt(u.node).weight!;
  const own = ctx.input.schemes?.get(ctx.nodePath(u.node))?.because;
  const symmetric = want.symmetric || u.row.symmetricOnly === true;
  const { dtype } = u.row;
  // Of the 16 levels of 4 bits none is given away; unsigned types have no lowest code to leave out.
  const narrow = symmetric && ctx.input.target.weightNarrow && dtype === "int8";
  const fewer = want.bits !== undefined && symmetric && dtype === "int8" && { bits: want.bits };
  const scheme: Scheme = { dtype, symmetric, narrow, granularity, ...fewer };
  const codes = u.weight.kind === "table" && u.row.form === "qdq" && granularity.kind !== "block";
  const form: WeightForm = codes ? "gather-codes" : u.row.form;
  const because = `${dtype} ${granularity.kind}${part.length > 1 ? `, shared by ${part.length} nodes` : ""}: weight of ${u.node.op}${own === undefined ? "" : `; ${own}`}`;
  let cache: Float32Array | undefined;
  const keep = elementCount(shape) <= MOST_KEPT;
  return {
    value,
    path: ctx.path(value),
    uses,
    nodes: part.map((p) => p.node),
    scheme,
    form,
    shape,
    float32: () => {
      if (cache) return cache;
      const x = float32();
      if (keep) cache = x;
      return x;
    },
    because,
  };
}

/** The last value on the way from the root that is float32 and common to all uses; undefined when their channel axes differ there. */
function sharedHolder(ctx: Context, group: readonly WeightUse[]): Value | undefined {
  const chains = group.map((u) => [u.weight.constant.root, ...u.weight.constant.chain.map((n) => n.outputs[0]!)]);
  let shared: Value | undefined;
  let at = 0;
  for (; at < Math.min(...chains.map((c) => c.length)); at++) {
    const v = chains[0]![at]!;
    if (!chains.every((c) => c[at] === v)) break;
    shared = v;
  }
  if (!shared || !ctx.isFloat32(shared) || group.some((u) => u.row.form !== "qdq")) return undefined;
  const there = group.map((u) => granularityAt(u, at - 1, granularityOf(ctx, u)));
  const alike = (i: number): boolean =>
    JSON.stringify(there[i]) === JSON.stringify(there[0]) &&
    group[i]!.row.dtype === group[0]!.row.dtype &&
    ctx.recipeAt(group[i]!.node).weight!.symmetric === ctx.recipeAt(group[0]!.node).weight!.symmetric;
  return there.every((g, i) => g !== undefined && alike(i)) ? shared : undefined;
}

/** Channels or blocks of a use at step `from` of its chain: their axis taken back through the permutations behind it. */
function granularityAt(u: WeightUse, from: number, g: Granularity): Granularity | undefined {
  if (g.kind === "tensor") return undefined;
  let axis = g.axis;
  const rest = u.weight.constant.chain.slice(from);
  for (const n of rest.reverse()) {
    if (n.op === "Identity") continue;
    if (n.op !== "Transpose") return undefined;
    const rank = u.weight.constant.shape.length;
    axis = (intsAttr(n, "perm") ?? Array.from({ length: rank }, (_, i) => rank - 1 - i))[axis]!;
  }
  return { ...g, axis };
}

/** Sites at a shared value: products read it through a DequantizeLinear (and their own Transpose), tables by their codes. */
function tied(ctx: Context, group: readonly WeightUse[], shared: Value): WeightSite[] {
  const out: WeightSite[] = [];
  const kinds = new Map<string, WeightUse[]>();
  for (const u of group) {
    const key = u.weight.kind === "table" ? "table" : u.row.form;
    kinds.set(key, [...(kinds.get(key) ?? []), u]);
  }
  for (const part of kinds.values()) {
    const u = part[0]!;
    const chain = u.weight.constant.chain;
    const at = chain.findIndex((n) => n.inputs[0] === shared);
    const there = granularityAt(u, at < 0 ? chain.length : at, granularityOf(ctx, u))!;
    const uses = new Map<string, Use>();
    for (const p of part) {
      const next = p.weight.constant.chain.find((n) => n.inputs[0] === shared);
      const use: Use = next ? { node: next, input: 0 } : useOf(p);
      uses.set(`${ctx.nodePath(use.node)}#${use.input}`, use);
    }
    const back = chain.slice(at < 0 ? chain.length : at);
    out.push(
      site(ctx, shared, part, [...uses.values()], there, shapeBefore(u.weight.constant.shape, back), () =>
        undo(u.weight.constant.float32(), u.weight.constant.shape, back),
      ),
    );
  }
  return out;
}

const permOf = (n: Node, rank: number): readonly number[] =>
  n.op === "Transpose"
    ? (intsAttr(n, "perm") ?? Array.from({ length: rank }, (_, i) => rank - 1 - i))
    : Array.from({ length: rank }, (_, i) => i);

/** The permutation that undoes `perm`: out[perm[i]] = i. */
function inverse(perm: readonly number[]): number[] {
  const out: number[] = [];
  perm.forEach((p, i) => {
    out[p] = i;
  });
  return out;
}

function shapeBefore(shape: readonly number[], back: readonly Node[]): readonly number[] {
  let s = shape;
  for (const n of [...back].reverse()) {
    const inv = inverse(permOf(n, s.length));
    const from = s;
    s = inv.map((p) => from[p]!);
  }
  return s;
}

function undo(x: Float32Array, shape: readonly number[], back: readonly Node[]): Float32Array {
  let s = shape;
  let y = x;
  for (const n of [...back].reverse()) {
    const inv = inverse(permOf(n, s.length));
    y = transpose(y, s, inv);
    const from = s;
    s = inv.map((p) => from[p]!);
  }
  return y;
}
