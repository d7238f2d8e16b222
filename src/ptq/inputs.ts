import type { Node, Use, Value } from "../graph/ir.ts";
import type { Context } from "./context.ts";
import type { ComputeNode } from "./proposal.ts";
import type { Placed } from "./propose.ts";

/**
 * Q/DQ at the data inputs of compute nodes; their outputs stay float.
 * Rows with `inputs: "one-side"` (TensorRT's residual Add): of a sum of two branches, the one that does not come straight from a compute
 * node is quantized too, so that the sum fuses into that node with an 8-bit operand. When both do (a projection shortcut), the deeper one fuses.
 * With `tieMovement`, values joined by data movement (both sides quantized) share parameters, so that the movement runs on codes.
 */
export function placeComputeInputs(ctx: Context, compute: readonly ComputeNode[]): Placed {
  const uses = new Map<Value, Use[]>();
  const because = new Map<Value, string>();
  const nodes = new Set<Node>();
  const add = (value: Value, use: Use, why: string): void => {
    if (value.data && !value.producer) return;
    uses.set(value, [...(uses.get(value) ?? []), use]);
    if (!because.has(value)) because.set(value, why);
  };
  for (const { node, facts } of compute) {
    nodes.add(node);
    for (const i of facts.data) add(node.inputs[i]!, { node, input: i }, `input of ${node.op}`);
  }
  const quantized = new Set(compute.map((c) => c.node));
  const depth = depths(ctx.input.model.graph.nodes);
  for (const node of ctx.input.model.graph.nodes) {
    const facts = ctx.facts.get(node);
    const row = ctx.activationRow(node);
    if (!facts || row?.inputs !== "one-side" || ctx.skips.has(node) || facts.data.length !== 2) continue;
    const [a, b] = facts.data.map((i) => node.inputs[i]!) as [Value, Value];
    if (a === b || a.data || b.data || !ctx.isFloat32(a) || !ctx.isFloat32(b) || !sameShape(ctx, a, b)) continue;
    const fuses = (v: Value): boolean =>
      v.producer !== undefined &&
      quantized.has(v.producer) &&
      (row.fusesWith?.includes(v.producer.op) ?? true) &&
      v.uses.length === 1 &&
      !v.isOutput;
    const [fa, fb] = [fuses(a), fuses(b)];
    if (!fa && !fb) continue;
    const fused = fa && fb ? ((depth.get(a.producer!) ?? 0) >= (depth.get(b.producer!) ?? 0) ? a : b) : fa ? a : b;
    const side = fused === a ? 1 : 0;
    add(side === 1 ? b : a, { node, input: facts.data[side]! }, `skip connection into ${node.op}`);
    nodes.add(node);
  }
  return { uses, ties: ctx.input.target.tieMovement ? movementTies(ctx) : [], because, nodes, constants: new Map() };
}

/** Longest path from the inputs, in nodes. */
function depths(nodes: readonly Node[]): Map<Node, number> {
  const out = new Map<Node, number>();
  for (const n of nodes) {
    let d = 0;
    for (const v of n.inputs) if (v?.producer) d = Math.max(d, (out.get(v.producer) ?? 0) + 1);
    out.set(n, d);
  }
  return out;
}

function sameShape(ctx: Context, a: Value, b: Value): boolean {
  const [ta, tb] = [ctx.type(a), ctx.type(b)];
  if (ta?.kind !== "tensor" || tb?.kind !== "tensor" || !ta.shape || !tb.shape) return false;
  const sb = tb.shape;
  return ta.shape.length === sb.length && ta.shape.every((d, i) => d === sb[i]);
}

/** Pairs (input, output) of the nodes whose row says that both share parameters. */
export function movementTies(ctx: Context): [Value, Value][] {
  const out: [Value, Value][] = [];
  for (const node of ctx.input.model.graph.nodes) {
    const facts = ctx.facts.get(node);
    if (!facts || ctx.activationRow(node)?.output !== "same") continue;
    const values = [...facts.data.map((i) => node.inputs[i]!), ...facts.outputs.map((i) => node.outputs[i]!)];
    for (let i = 1; i < values.length; i++) out.push([values[0]!, values[i]!]);
  }
  return out;
}
