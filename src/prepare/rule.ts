import type { Report } from "../diagnostics.ts";
import type { Graph, Model, Node, Value } from "../graph/ir.ts";
import type { ValueType } from "../graph/types.ts";
import { nodeKey } from "../graph/walk.ts";

/** What a rule may look at besides the graph. */
export interface Context {
  readonly model: Model;
  readonly report: Report;
  /** Types known so far: of constants and inputs, of the model's value_info, and after probing of nearly every value. */
  typeOf(v: Value): ValueType | undefined;
  /** A rule gave `v` the place of `like`: what is known of that holds for it. */
  retype(v: Value, like: Value): void;
  /** True for nodes of regions that stay whole: rules that spread a node's work over its neighbours leave them alone. */
  inRegion(n: Node): boolean;
  /** The shape that a value has for every sample: every graph input has a fixed shape, and the runtime derived this one from them. */
  fixedShape(v: Value): readonly number[] | undefined;
}

/** undefined: not this rule's business. A refusal is for what a reader would expect the rule to do. */
export type Match<B> = { readonly ok: true; readonly bind: B } | Refusal | undefined;
export interface Refusal {
  readonly ok: false;
  readonly why: string;
  /** Node where it stopped. */
  readonly at: string;
}
export const refuse = (at: Node, why: string): Refusal => ({ ok: false, why, at: nodeKey(at) });
export const matched = <B>(bind: B): { readonly ok: true; readonly bind: B } => ({ ok: true, bind });

/** A rewrite tried at every node with one of these operators (domain ai.onnx), in execution order, subgraphs included. */
export interface NodeRule<B = never> {
  readonly name: string;
  readonly ops: readonly string[];
  /** Outputs of the model may differ by this share of an output's largest magnitude; 0: bit for bit. Reason in the rule's comment. */
  readonly tolerance: number;
  match(n: Node, ctx: Context): Match<B>;
  apply(bind: B, ctx: Context): void;
}

/** A rewrite over a whole graph (main or sub); returns how often it changed something. */
export interface GraphRule {
  readonly name: string;
  readonly tolerance: number;
  run(g: Graph, ctx: Context): number;
}

/** Erases the binding's type, so that rules of all kinds stand in one list. */
export interface AnyNodeRule {
  readonly name: string;
  readonly ops: readonly string[];
  readonly tolerance: number;
  /** Matches and applies. True: changed something. */
  step(n: Node, ctx: Context): true | Refusal | undefined;
}
export function nodeRule<B>(rule: NodeRule<B>): AnyNodeRule & NodeRule<B> {
  return {
    ...rule,
    step(n, ctx) {
      const m = rule.match(n, ctx);
      if (!m?.ok) return m;
      rule.apply(m.bind, ctx);
      return true;
    },
  };
}
export type Rule = AnyNodeRule | GraphRule;
