import { floatAttr } from "../graph/attr.ts";
import { type ConstantView, constantOf, toFloat32 } from "../graph/constant.ts";
import type { Node, Value } from "../graph/ir.ts";
import { opFacts, type Weight } from "../graph/ops/index.ts";
import { tensorFrom } from "../graph/tensor.ts";
import { setConstant, soleUse } from "./edit.ts";
import { type Context, type Refusal, refuse } from "./rule.ts";

/**
 * A node that computes `y[…o…] = Σ_k W[o, k] · x[k] + b[o]` with constant W and b: Conv, ConvTranspose, Gemm, and MatMul with the Add of
 * its bias behind it. `channels` is the number of outputs o; `rows` names for each element of W its output (`outputOf`) and its input.
 */
export interface Linear {
  readonly node: Node;
  readonly weight: Weight;
  /** The Add behind a MatMul that holds its bias. */
  readonly biasAdd: { readonly node: Node; readonly input: number } | undefined;
  /** Where the result is, bias included. */
  readonly out: Value;
  readonly channels: number;
  /** Input channels: groups · channels per group. */
  readonly inputs: number;
  /** Axis of the outputs o in `out`, from the front (1) or the back (-1). */
  readonly axis: 1 | -1;
  /** Rank of `out` when the weight or the types tell. */
  readonly rank: number | undefined;
  readonly bias: Float32Array | undefined;
}

/** The view of a node, or why it has none. undefined: not a product with a constant weight. */
export function linearOf(n: Node, ctx: Context): Linear | Refusal | undefined {
  const facts = opFacts(n);
  const weight = facts?.weights[0];
  if (facts?.trait !== "compute" || weight?.kind !== "product" || n.domain !== "" || weight.input !== 1) return undefined;
  const why = unfit(n, weight.constant);
  if (why !== undefined) return refuse(n, why);
  const shape = weight.constant.shape;
  const y = n.outputs[0]!;
  if (n.op === "MatMul") {
    if (shape.length !== 2) return refuse(n, "its weight is not a matrix");
    const add = biasAddOf(n);
    const rank = rankOf(y, ctx) ?? rankOf(n.inputs[0]!, ctx);
    return {
      node: n,
      weight,
      biasAdd: add,
      out: add ? add.node.outputs[0]! : y,
      channels: shape[1]!,
      inputs: shape[0]!,
      axis: -1,
      rank,
      bias: add && toFloat32(add.node.inputs[add.input]!.data!),
    };
  }
  const b = n.inputs[2];
  const view = b && constantOf(b);
  if (b && view?.dtype !== "float32") return refuse(n, "its bias is not a float32 constant");
  if (n.op === "Gemm") {
    if (floatAttr(n, "alpha", 1) !== 1) return refuse(n, "its alpha is not 1");
    const N = shape[weight.channel!]!;
    const bias = view && rowOfGemm(view, N, floatAttr(n, "beta", 1));
    if (view && !bias) return refuse(n, "its bias is not one number an output");
    return { node: n, weight, biasAdd: undefined, out: y, channels: N, inputs: shape[weight.reduce[0]!]!, axis: 1, rank: 2, bias };
  }
  const transposed = n.op === "ConvTranspose";
  const channels = transposed ? shape[1]! * weight.groups : shape[0]!;
  const inputs = transposed ? shape[0]! : shape[1]! * weight.groups;
  return { node: n, weight, biasAdd: undefined, out: y, channels, inputs, axis: 1, rank: shape.length, bias: view?.float32() };
}

function unfit(n: Node, c: ConstantView): string | undefined {
  if (c.dtype !== "float32") return `its weight is ${c.dtype}, and folding would round it`;
  if (c.root.data!.dtype !== "float32") return `its weight is stored as ${c.root.data!.dtype}, and folding would widen it`;
  return n.outputs[0] ? undefined : "it has no output";
}

/** The Add (or its mirror) that gives a MatMul its bias [N]; the sum must be the MatMul's only consumer. */
export function biasAddOf(matmul: Node): { readonly node: Node; readonly input: number } | undefined {
  const use = soleUse(matmul.outputs[0]);
  if (use?.node.op !== "Add" || use.node.domain !== "" || use.node.graph !== matmul.graph) return undefined;
  const input = 1 - use.input;
  const b = use.node.inputs[input];
  const w = constantOf(matmul.inputs[1]);
  const N = w?.shape[w.shape.length - 1];
  if (!b?.isConstant || b.data!.dtype !== "float32" || N === undefined) return undefined;
  return b.data!.shape.length === 1 && b.data!.shape[0] === N ? { node: use.node, input } : undefined;
}

/** A Gemm's C as one row of N, scaled by beta; undefined when it varies over rows. */
function rowOfGemm(c: ConstantView, N: number, beta: number): Float32Array | undefined {
  const x = c.float32();
  const lead = c.shape.slice(0, -1).every((d) => d === 1);
  if (!lead || (x.length !== 1 && x.length !== N)) return undefined;
  return Float32Array.from({ length: N }, (_, i) => Math.fround((x.length === 1 ? x[0]! : x[i]!) * beta));
}

export function rankOf(v: Value, ctx: Context): number | undefined {
  const t = ctx.typeOf(v);
  return t?.kind === "tensor" ? t.shape?.length : undefined;
}

/**
 * Calls `f` for each run of elements of W with one output o and one input i: a kernel window, or one element of a matrix.
 * Conv [M, C/g, k…]: o = m, i = (m div M/g)·C/g + c · ConvTranspose [C, M/g, k…]: o = (c div C/g)·M/g + m, i = c ·
 * matrices [K, N] or [N, K].
 */
function eachRow(l: Linear, f: (from: number, to: number, o: number, i: number) => void): void {
  const shape = l.weight.constant.shape;
  const groups = l.weight.groups;
  const inner = shape.slice(2).reduce((a, b) => a * b, 1);
  const [A, B] = [shape[0]!, shape[1]!];
  const perGroup = A / groups;
  const byInput = l.weight.channel === 1;
  let at = 0;
  for (let a = 0; a < A; a++) {
    const group = Math.floor(a / perGroup);
    for (let b = 0; b < B; b++) {
      const other = group * B + b;
      f(at, at + inner, byInput ? other : a, byInput ? a : other);
      at += inner;
    }
  }
}

/**
 * `y' = k·y + s` per output: `W'[o, …] = W[o, …]·k[o]`, `b'[o] = b[o]·k[o] + s[o]`; computed in double, rounded once.
 * `follower` is the node that did it; its consumers get the product's result.
 */
export function scaleOutputs(l: Linear, k: Float64Array, s: Float64Array, rule: string, follower: Node): void {
  const w = l.weight.constant.float32();
  const scaled = new Float32Array(w.length);
  eachRow(l, (from, to, o) => {
    const factor = k[o]!;
    for (let at = from; at < to; at++) scaled[at] = w[at]! * factor;
  });
  const shape = [...l.weight.constant.shape];
  const bias = Float32Array.from(k, (kc, o) => (l.bias ? l.bias[o]! * kc : 0) + s[o]!);
  setConstant(l.node, l.weight.input, tensorFrom(scaled, shape), `${l.node.name}.weight`);
  putBias(l, bias, rule, follower);
}

/**
 * `x' = k·x + s` per input: `W'[…, i] = W[…, i]·k[i]`, `b'[o] = b[o] + Σ_i W[o, i]·s[i]`. Exact only where every output sees each of its
 * inputs in full: no padding, unless all s are 0.
 */
export function scaleInputs(l: Linear, k: Float64Array, s: Float64Array, rule: string): void {
  const w = l.weight.constant.float32();
  const scaled = new Float32Array(w.length);
  const shift = new Float64Array(l.channels);
  eachRow(l, (from, to, o, i) => {
    const factor = k[i]!;
    let sum = 0;
    for (let at = from; at < to; at++) {
      scaled[at] = w[at]! * factor;
      sum += w[at]!;
    }
    shift[o]! += sum * s[i]!;
  });
  const shape = [...l.weight.constant.shape];
  setConstant(l.node, l.weight.input, tensorFrom(scaled, shape), `${l.node.name}.weight`);
  if (s.some((x) => x !== 0))
    putBias(
      l,
      Float32Array.from(shift, (x, o) => x + (l.bias ? l.bias[o]! : 0)),
      rule,
      undefined,
    );
}

/** Writes the bias; with a follower, its consumers move to the product's result and it leaves the graph. */
function putBias(l: Linear, bias: Float32Array, rule: string, follower: Node | undefined): void {
  const g = l.node.graph;
  const data = tensorFrom(bias);
  const origin = { rule, from: [l.node.name, ...(follower ? [follower.name] : [])] };
  if (l.node.op !== "MatMul") {
    if (l.node.op === "Gemm") g.setAttr(l.node, "beta", undefined);
    setConstant(l.node, 2, data, `${l.node.name}.bias`);
    l.node.origin = origin;
    if (follower) moveOutput(l.out, follower);
    return;
  }
  if (l.biasAdd) {
    setConstant(l.biasAdd.node, l.biasAdd.input, data, `${l.node.name}.bias`);
    l.biasAdd.node.origin = origin;
    if (follower) moveOutput(l.out, follower);
    return;
  }
  if (follower && bias.every((b) => b === 0)) {
    l.node.origin = origin;
    moveOutput(l.out, follower);
    return;
  }
  const b = g.constant(data, `${l.node.name}.bias`);
  const add = g.insertAfter(l.node, { op: "Add", inputs: [l.out, b], name: follower?.name ?? `${l.node.name}_bias`, origin });
  const sum = add.outputs[0]!;
  sum.type = l.out.type;
  for (const u of [...l.out.uses]) if (u.node !== add) g.replaceUse(u.node, u.input, sum);
  if (follower) moveOutput(sum, follower);
  else if (l.out.isOutput) g.takeOutput(l.out, sum);
}

/** Consumers of `follower` (whose input is `by`) read `by`; when the follower's output is a graph output, `by` takes its name. */
function moveOutput(by: Value, follower: Node): void {
  const g = follower.graph;
  const out = follower.outputs[0]!;
  g.replaceAllUses(out, by);
  if (out.isOutput) g.takeOutput(out, by);
  g.remove(follower);
}
