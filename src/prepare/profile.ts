import { intAttr } from "../graph/attr.ts";
import { type Memory, macsOf, memoryOf, shapesFrom } from "../graph/cost.ts";
import { Elements } from "../graph/elements.ts";
import type { Model, Node, Value } from "../graph/ir.ts";
import { opFacts } from "../graph/ops/index.ts";
import { allNodes, pathOfNode } from "../graph/walk.ts";
import type { Feeds, Runtime } from "../runtime/types.ts";
import { probeTypes, typesByPath } from "./probe.ts";

export interface NodeProfile {
  readonly node: string;
  readonly op: string;
  /** Multiply–accumulate operations of one run; undefined when a shape is missing. */
  readonly macs: number | undefined;
  /** Element types of data and weight as they are stored: behind a DequantizeLinear those of its codes. */
  readonly types: string;
  /** Stored bytes of its constant weights. A tensor that two nodes share counts at both. */
  readonly weightBytes: number;
}

export interface Profile {
  /** Nodes with operations or weights, in execution order. */
  readonly nodes: readonly NodeProfile[];
  readonly macs: number;
  /** Products whose shapes are not known: they are not in `macs`. */
  readonly uncounted: readonly string[];
  readonly memory: Memory;
}

/**
 * What one run of a model costs: operations per node, activations alive at once. Shapes are those of the sample in `feeds`, or those
 * that the runtime infers, with each symbolic dimension taken as `symbol` (default 1).
 */
export async function profileModel(
  model: Model,
  runtime: Runtime,
  options: { readonly feeds?: Feeds; readonly symbol?: number } = {},
): Promise<Profile> {
  const { types, seen } = await probeTypes(model, runtime, options.feeds);
  const shapes = shapesFrom(typesByPath(new Map([...types, ...seen])), options.symbol);
  const nodes: NodeProfile[] = [];
  const uncounted: string[] = [];
  let total = 0;
  const elements = new Elements();
  for (const n of allNodes(model)) {
    const macs = macsOf(n, shapes);
    const weightBytes = opFacts(n)?.weights.reduce((s, w) => s + w.constant.root.data!.byteLength, 0) ?? 0;
    if (macs === 0 && weightBytes === 0) continue;
    const node = pathOfNode(n);
    nodes.push({ node, op: n.op, macs, types: operandTypes(n, elements), weightBytes });
    if (macs === undefined) uncounted.push(node);
    else total += macs;
  }
  return { nodes, macs: total, uncounted, memory: memoryOf(model, shapes) };
}

/** `uint8 × int8`, or one name when both are equal. */
function operandTypes(n: Node, elements: Elements): string {
  const stored = (v: Value | undefined): string => {
    const p = v?.producer;
    const codes = p?.op === "DequantizeLinear" ? p.inputs[0] : v;
    return (codes && elements.of(codes)) ?? "unknown";
  };
  const separate = n.op === "QLinearConv" || n.op === "QLinearMatMul";
  const a = stored(n.inputs[0]);
  const b = n.op === "MatMulNBits" ? `uint${intAttr(n, "bits", 4)}` : stored(n.inputs[separate ? 3 : 1]);
  return a === b ? a : `${a} × ${b}`;
}
