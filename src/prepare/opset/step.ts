import { type Attr, intsAttr } from "../../graph/attr.ts";
import type { Graph, Node, Value } from "../../graph/ir.ts";
import { int64s, type TensorData } from "../../graph/tensor.ts";

/**
 * Takes one node from the form of opset `step - 1` to that of `step`, where the operator's schema changes. Checks first, then changes.
 * Returns why not when it cannot; undefined when it is done.
 */
export type Step = (n: Node, ctx: StepContext) => string | undefined;

export interface StepContext {
  /** A constant for `at`. In function bodies, which have no initializers, a Constant node. */
  constant(at: Node, data: TensorData, hint: string): Value;
  /** Counts a change for the report. */
  changed(rule: string, n: Node): void;
}

export const origin = (rule: string, n: Node) => ({ rule: `opset/${rule}`, from: [n.name || n.op] });

/** True when an attribute's value comes from the caller of a function: it cannot become an input. */
export const isRef = (a: Attr | undefined) => a?.kind === "ref";
export const REF = (name: string) => `attribute "${name}" is a parameter of the function, and an input cannot be`;

/** Replaces the input, or fills it when it is left out so far. */
export function setInput(n: Node, index: number, v: Value): void {
  n.graph.replaceUse(n, index, v);
}

/** Moves a list of integers from an attribute to an int64 input. Absent: nothing to move. */
export function intsToInput(n: Node, name: string, index: number, ctx: StepContext): void {
  const list = intsAttr(n, name);
  if (list === undefined) return;
  setInput(n, index, ctx.constant(n, int64s(list), `${n.name || n.op}_${name}`));
  n.graph.setAttr(n, name, undefined);
}

/** A node just before `n` with one output. */
export function before(n: Node, rule: string, op: string, inputs: readonly (Value | undefined)[], attrs: Record<string, Attr> = {}): Value {
  const outputs = [n.graph.freshName(`${n.name || n.op}_${op}`)];
  return n.graph.insertBefore(n, { op, inputs, attrs, outputs, origin: origin(rule, n) }).outputs[0]!;
}

/**
 * Puts a node after `n` that computes what `n`'s first output was: the new node's output takes over all uses and the name. `make` gets
 * the renamed output of `n`.
 */
export function after(
  n: Node,
  index: number,
  make: (inner: Value) => { op: string; inputs: (Value | undefined)[]; attrs?: Record<string, Attr> },
  rule: string,
): void {
  const g: Graph = n.graph;
  const out = n.outputs[index]!;
  const uses = [...out.uses];
  const spec = make(out);
  const outputs = [g.freshName(`${n.name || n.op}_${spec.op}`)];
  const node = g.insertAfter(n, { ...spec, outputs, origin: origin(rule, n) });
  const made = node.outputs[0]!;
  made.type = out.type;
  for (const u of uses) u.node.graph.replaceUse(u.node, u.input, made);
  if (out.isOutput) g.takeOutput(out, made);
  if (out.type !== undefined && spec.op !== "Reshape") out.type = undefined;
}
