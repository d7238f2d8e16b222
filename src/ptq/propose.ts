import { QcError } from "../diagnostics.ts";
import { intAttr } from "../graph/attr.ts";
import { constantOf } from "../graph/constant.ts";
import type { Node, Use, Value } from "../graph/ir.ts";
import { printTarget, type WeightRow } from "../plan/target.ts";
import type { Scheme, Skip } from "../plan/types.ts";
import { MXFP8_BLOCK, NVFP4_BLOCK } from "../quant/blockfloat.ts";
import { bitsOf } from "../quant/codebook.ts";
import { Context } from "./context.ts";
import { placeComputeInputs } from "./inputs.ts";
import type { ActivationSite, ComputeNode, Proposal, ProposeInput, WeightSite } from "./proposal.ts";
import { placeFusedRegions } from "./regions.ts";
import { isInSubgraph } from "./scope.ts";
import { misfit, tableWorthwhile, type WeightUse, weightSites } from "./weights.ts";

export type { ActivationSite, Proposal, ProposeInput, WeightSite } from "./proposal.ts";

/** What a placement decided: which values are read as codes by whom, and which of them share parameters. */
export interface Placed {
  readonly uses: ReadonlyMap<Value, "all" | readonly Use[]>;
  readonly ties: readonly (readonly [Value, Value])[];
  readonly because: ReadonlyMap<Value, string>;
  /** Nodes that read codes. */
  readonly nodes: ReadonlySet<Node>;
  /** Constants that take part as codes although they are no weights of products (the addend of a quantized sum). */
  readonly constants: ReadonlyMap<Value, readonly Use[]>;
}

/**
 * Which values will be quantized, by whose wish, and why each other node stays float. No numbers yet: `planOf` chooses them.
 *
 * Compute nodes with a constant weight and a row in the target's table are quantized on both sides (recipes with activations); around
 * them the target's placement decides. Constant weights that no activation joins are stored as codes alone, in subgraphs too.
 */
export function proposeSites(input: ProposeInput): Proposal {
  const ctx = new Context(input);
  const { recipe, target } = input;
  if (!recipe.weight)
    throw new QcError({
      code: "plan/recipe-unavailable",
      recipe: recipe.name,
      target: printTarget(target),
      why: "it only casts, and has no sites",
    });
  const wanted = recipe.activations !== "none";
  if (!target.rows.some((r) => r.weight.some((w) => ctx.fits(w, wanted))))
    throw new QcError({
      code: "plan/recipe-unavailable",
      recipe: recipe.name,
      target: printTarget(target),
      why:
        target.gates?.find((g) => g.dtype === recipe.weight?.dtype)?.why ??
        `no operator has weights of ${recipe.weight.dtype} ${wanted ? `with ${recipe.activations} activations` : "alone"} there`,
    });

  const stored = ctx.activationScheme().dtype as string;
  if (recipe.activations === "static" && !target.rows.some((r) => (r.activation as readonly string[]).includes(stored)))
    throw new QcError({
      code: "plan/recipe-unavailable",
      recipe: recipe.name,
      target: printTarget(target),
      why: `no operator has activations of ${stored} there`,
    });

  const compute: ComputeNode[] = [];
  const weightUses: WeightUse[] = [];
  const dynamic: ComputeNode[] = [];
  for (const [node, facts] of ctx.facts) {
    if (!facts || ctx.skips.has(node)) continue;
    const { activations } = ctx.recipeAt(node);
    if (facts.trait === "compute") {
      const weight = facts.weights[0];
      if (!weight) {
        ctx.skip(node, "not-constant-weight", "both operands are computed at run time");
        continue;
      }
      if (weight.constant.dtype !== "float32" || !facts.data.every((i) => ctx.isFloat32(node.inputs[i]!))) {
        ctx.skip(node, "dtype", `its weight is ${weight.constant.dtype}`);
        continue;
      }
      const row = activations !== "none" && !isInSubgraph(node) && !ctx.weightOnly.has(node) ? ctx.weightRow(node, true) : undefined;
      // Integer products take a matrix on the right: other layouts are stored as codes alone.
      const both = row && activations === "dynamic" && !isRightMatrix(weight) ? undefined : row;
      const wrong = both && (misfit(ctx, { node, weight, row: both }) ?? wrongRank(ctx, node, facts.data, both));
      if (wrong) {
        ctx.skip(node, "shape", wrong);
        continue;
      }
      const slow = both && activations === "static" && !input.measured ? slowForm(ctx, node, weight, compute) : undefined;
      if (slow) {
        ctx.skip(node, "target-slow", slow);
        continue;
      }
      if (both && activations === "static" && ctx.activationRow(node)) {
        compute.push({ node, facts, weight });
        weightUses.push({ node, weight, row: both });
      } else if (both && activations === "dynamic") {
        dynamic.push({ node, facts, weight });
        weightUses.push({ node, weight, row: both });
      } else addWeightOnly(ctx, weightUses, node, [weight]);
    } else if (facts.weights.some((w) => w.kind === "recurrent")) {
      const w = facts.weights.filter((x) => x.kind === "recurrent");
      if (w.some((x) => x.constant.dtype !== "float32")) ctx.skip(node, "dtype", "its weights are not float32");
      else {
        const both = activations !== "none" && w.length === 2 ? ctx.weightRow(node, true) : undefined;
        // Peepholes and a batch-first layout have no dynamic form.
        const plain = node.inputs[7] === undefined && intAttr(node, "layout", 0) === 0 && intAttr(node, "input_forget", 0) === 0;
        if (both && plain) for (const weight of w) weightUses.push({ node, weight, row: both });
        else addWeightOnly(ctx, weightUses, node, w);
      }
    } else if (facts.weights.some((w) => w.kind === "table")) {
      const w = facts.weights[0]!;
      if (w.constant.dtype !== "float32") ctx.skip(node, "dtype", `its table is ${w.constant.dtype}`);
      else if (!tableWorthwhile(w.constant.shape, w.channel)) ctx.skip(node, "shape", "a table with rows this short does not shrink");
      else addWeightOnly(ctx, weightUses, node, [w]);
    }
  }

  const placed = target.placement === "fused-regions" ? placeFusedRegions(ctx, compute) : placeComputeInputs(ctx, compute);
  const weights = weightSites(ctx, weightUses);
  const activations = activationSites(ctx, placed, dynamic);
  for (const [value, uses] of placed.constants) weights.push(constantSite(ctx, value, uses));
  const skips = skipsOf(ctx, placed, weights, dynamic);
  return {
    input,
    activations,
    weights,
    skips,
    values: [...new Set(activations.filter((a) => !a.dynamic).map((a) => a.path))],
    quantized: new Set([...placed.nodes, ...dynamic.map((d) => d.node)].map((n) => ctx.nodePath(n))),
  };
}

/** Why the other operand cannot be in blocks: its rank is not one that the target has them for. */
function wrongRank(ctx: Context, node: Node, data: readonly number[], row: WeightRow): string | undefined {
  const { activationRanks } = row;
  if (!activationRanks) return undefined;
  const bad = data.map((i) => rankOf(ctx, node.inputs[i]!)).filter((r) => r === undefined || !activationRanks.includes(r));
  return bad.length === 0
    ? undefined
    : `its input has rank ${bad[0] ?? "unknown"}: blocks lie in values of rank ${activationRanks.join(" and ")}`;
}
function rankOf(ctx: Context, v: Value): number | undefined {
  const t = ctx.type(v);
  return t?.kind === "tensor" ? t.shape?.length : undefined;
}

const isRightMatrix = (w: ComputeNode["weight"]): boolean => w.input === 1 && w.constant.shape.length === 2;

/** Why the target's quantized kernel would be slower than its float one here; undefined when it is not. Nodes come in execution order. */
function slowForm(ctx: Context, node: Node, weight: ComputeNode["weight"], sofar: readonly ComputeNode[]): string | undefined {
  const slow = ctx.activationRow(node)?.slow;
  if (!slow || weight.input !== 1) return undefined;
  const shape = weight.constant.shape;
  const perGroup = shape[1]!;
  const sums = weight.reduce.reduce((n, a) => n * shape[a]!, 1);
  const short = sums < (slow.sumsBelow ?? Number.POSITIVE_INFINITY);
  if (weight.groups === 1 && slow.inputChannelsBelow !== undefined && perGroup < slow.inputChannelsBelow && short)
    return `${perGroup} input channels: its 8-bit kernel is slower than the float one`;
  if (weight.groups === 1 || perGroup !== 1 || slow.depthwiseMultipleOf === undefined || shape[0]! % slow.depthwiseMultipleOf === 0)
    return undefined;
  const members = new Set(sofar.map((c) => c.node));
  let v = node.inputs[0];
  while (v?.producer && ctx.facts.get(v.producer)?.trait !== "compute") {
    const data = ctx.facts.get(v.producer)?.data ?? [];
    if (data.length !== 1) return undefined;
    v = v.producer.inputs[data[0]!];
  }
  return v?.producer && !members.has(v.producer)
    ? `${shape[0]} channels, depthwise, behind a float node: its 8-bit kernel is slower than the float one`
    : undefined;
}

function addWeightOnly(ctx: Context, out: WeightUse[], node: Node, weights: readonly ComputeNode["weight"][]): void {
  const row = ctx.weightRow(node, false);
  if (!row) {
    ctx.skip(node, "target-forbids", `${printTarget(ctx.input.target)} has no ${ctx.input.recipe.name} form of ${node.op}`);
    return;
  }
  const uses = weights.map((weight) => ({ node, weight, row }));
  const wrong = uses.map((u) => misfit(ctx, u)).find((x) => x !== undefined);
  if (wrong !== undefined) ctx.skip(node, "shape", wrong);
  else out.push(...uses);
}

function activationSites(ctx: Context, placed: Placed, dynamic: readonly ComputeNode[]): ActivationSite[] {
  const parent = new Map<Value, Value>();
  const find = (v: Value): Value => {
    let r = v;
    while (parent.has(r)) r = parent.get(r)!;
    return r;
  };
  for (const [a, b] of placed.ties) {
    if (!placed.uses.has(a) || !placed.uses.has(b)) continue;
    const [ra, rb] = [find(a), find(b)];
    if (ra !== rb) parent.set(rb, ra);
  }
  const ids = new Map<string, number>();
  const out: ActivationSite[] = [];
  for (const [value, all] of placed.uses)
    for (const { scheme, uses } of byScheme(ctx, value, all)) {
      // Codes of different types share no parameters.
      const key = `${ctx.path(find(value))}\n${scheme.dtype}`;
      if (!ids.has(key)) ids.set(key, ids.size);
      out.push({
        value,
        path: ctx.path(value),
        uses,
        scheme: inBlocks(ctx, value, scheme),
        group: ids.get(key)!,
        because: placed.because.get(value) ?? "",
        dynamic: false,
      });
    }
  const dynamicUses = new Map<Value, Use[]>();
  for (const d of dynamic)
    for (const i of d.facts.data) {
      const v = d.node.inputs[i]!;
      dynamicUses.set(v, [...(dynamicUses.get(v) ?? []), { node: d.node, input: i }]);
    }
  const { dynamicPer } = ctx.input.recipe;
  const tokens = dynamicPer === "token";
  const granularity = { kind: "tensor" } as const;
  const scheme: Scheme = tokens
    ? { dtype: "uint8", symmetric: true, narrow: true, granularity }
    : { dtype: "uint8", symmetric: false, narrow: false, granularity };
  const because = `quantized while running${tokens ? ", token by token" : dynamicPer === "block" ? ", block by block" : ""}`;
  for (const [value, uses] of dynamicUses) {
    const own = dynamicPer === "block" ? inBlocks(ctx, value, MXFP8) : scheme;
    out.push({ value, path: ctx.path(value), uses, scheme: own, group: -1, because, dynamic: true, ...(tokens && { per: "token" }) });
  }
  return out;
}

const MXFP8: Scheme = { dtype: "float8e4m3fn", symmetric: true, narrow: false, granularity: { kind: "block", axis: 0, size: MXFP8_BLOCK } };

/** Of the block formats, blocks along the last axis of the value. */
function inBlocks(ctx: Context, value: Value, scheme: Scheme): Scheme {
  const size = scheme.dtype === "float4e2m1" ? NVFP4_BLOCK : scheme === MXFP8 ? MXFP8_BLOCK : undefined;
  return size === undefined ? scheme : { ...scheme, granularity: { kind: "block", axis: (rankOf(ctx, value) ?? 1) - 1, size } };
}

/** Readers of a value by how they take it. What every use reads as codes has one type: the widest that a reader asks for. */
function byScheme(
  ctx: Context,
  value: Value,
  uses: "all" | readonly Use[],
): { readonly scheme: Scheme; readonly uses: "all" | readonly Use[] }[] {
  const readers = uses === "all" ? value.uses : uses;
  const parts = new Map<string, { readonly scheme: Scheme; readonly uses: Use[] }>();
  for (const u of readers) {
    const scheme = ctx.activationScheme(u.node);
    const part = parts.get(scheme.dtype) ?? { scheme, uses: [] };
    parts.set(scheme.dtype, part);
    part.uses.push(u);
  }
  const found = [...parts.values()];
  if (uses !== "all") return found;
  const bits = (s: Scheme): number => bitsOf(s.dtype);
  const widest = found.map((p) => p.scheme).sort((a, b) => bits(b) - bits(a))[0] ?? ctx.activationScheme();
  return [{ scheme: widest, uses }];
}

/** A constant operand of a quantized sum or product: stored like an activation, one scale. */
function constantSite(ctx: Context, value: Value, uses: readonly Use[]): WeightSite {
  return {
    value,
    path: ctx.path(value),
    uses,
    nodes: uses.map((u) => u.node),
    scheme: { ...ctx.activationScheme(), granularity: { kind: "tensor" } },
    form: "qdq",
    shape: value.data!.shape,
    float32: () => ctx.constant(value),
    because: `constant operand of ${uses[0]!.node.op}`,
  };
}

const FLOAT_TRAITS = new Set(["compute", "same-scale", "clamp", "rescale", "float", "recurrent"]);

/** A reason for every node with float data that stays as it was. */
function skipsOf(ctx: Context, placed: Placed, weights: readonly WeightSite[], dynamic: readonly ComputeNode[]): Skip[] {
  const touched = new Set<Node>([...placed.nodes, ...weights.flatMap((w) => w.nodes), ...dynamic.map((d) => d.node)]);
  const halves: Skip[] = [];
  for (const [node, facts] of ctx.facts) {
    const half = ctx.weightOnly.get(node);
    if (half) {
      ctx.skips.delete(node);
      halves.push(touched.has(node) ? { ...half, detail: `${half.detail}; its weight is stored as codes` } : half);
      continue;
    }
    if (touched.has(node)) {
      ctx.skips.delete(node);
      continue;
    }
    if (!facts) ctx.skip(node, "custom-op", `${node.domain || "ai.onnx"}.${node.op} is not known`);
    else if (!FLOAT_TRAITS.has(facts.trait) || constantOf(node.outputs[0])) ctx.skips.delete(node);
    else if (!facts.data.some((i) => ctx.isFloat32(node.inputs[i]!)) && facts.weights.length === 0) ctx.skips.delete(node);
    else if (ctx.regions.has(node)) ctx.skip(node, "region", `part of ${ctx.regions.get(node)!.kind}, which stays whole`);
    else if (isInSubgraph(node)) ctx.skip(node, "no-stats", "values inside a subgraph are not observed");
    else if (ctx.activationRow(node))
      ctx.skip(node, "target-slow", "no quantized neighbour gives it codes: a conversion would cost more than it saves");
    else if (facts.trait === "float") ctx.skip(node, "op-is-float", facts.why ?? "no 8-bit form is sound");
    else ctx.skip(node, "op-is-float", `${printTarget(ctx.input.target)} has no quantized form of ${node.op}`);
  }
  return [...halves, ...ctx.skips.values()];
}
