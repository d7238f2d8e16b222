import { QcError } from "../diagnostics.ts";
import type { Model, Node, Value } from "../graph/ir.ts";
import type { ValueType } from "../graph/types.ts";
import { Emit } from "./emit.ts";
import { type NoGradient, Refusal, Row, type Rule } from "./rule.ts";
import { gradientOf } from "./table.ts";

export interface GradientRequest {
  /** Scalars whose sum is minimized, or any values with the gradient that arrives at them. */
  readonly of: readonly (Value | { readonly value: Value; readonly seed: Value })[];
  /** Values to differentiate by: constants, graph inputs or inner values. */
  readonly wrt: readonly Value[];
  /** Types of values by name, where the graph does not carry them (rows need ranks, some need sizes). */
  readonly types?: ReadonlyMap<string, ValueType>;
  /** Values that no gradient passes: stop-gradients, borders of frozen parts. */
  readonly stop?: ReadonlySet<Value>;
  /** Goes on with this emitter: what it knows of values appended before (a loss) is known to the rows. */
  readonly emit?: Emit;
  /** Rows for operators of custom domains, keyed `domain:op`; they win over the table. */
  readonly rules?: ReadonlyMap<string, Rule>;
}

/** A node that gradients would have to pass and cannot. */
export interface Blocked {
  readonly node: Node;
  readonly why: string;
}

export interface Gradients {
  /** Value of `wrt` to its gradient (same shape and type). Missing: no path from it to the loss. */
  readonly of: ReadonlyMap<Value, Value>;
  readonly blocked: readonly Blocked[];
  readonly emit: Emit;
}

/**
 * Reverse mode: appends the backward nodes to the model's main graph. Only what lies between `wrt` and the loss is visited; a value with
 * several consumers gets the sum of what arrives; where nothing arrives, nothing is emitted. Opset 18 or later (the emitted reductions and
 * scatters), float32 or float64.
 */
export function gradients(model: Model, request: GradientRequest): Gradients {
  const opset = model.opsets.get("") ?? 0;
  if (opset < 18) throw new QcError({ code: "grad/opset", opset });
  const graph = model.graph;
  const emit = request.emit ?? new Emit(graph, opset, request.types);
  const rowOf = (n: Node): Rule | NoGradient => request.rules?.get(`${n.domain}:${n.op}`) ?? gradientOf(n);
  const seeds = request.of.map((o) => ("seed" in o ? o : { value: o, seed: undefined }));
  const forward = [...graph.nodes];

  // What can reach the loss, walking back; then what depends on wrt, walking forward within it.
  const useful = new Set<Value>(seeds.map((s) => s.value));
  for (let i = forward.length - 1; i >= 0; i--) {
    const n = forward[i]!;
    if (n.outputs.some((o) => o && useful.has(o))) for (const v of usedBy(n)) useful.add(v);
  }
  const active = new Set<Value>(request.wrt);
  const blocked: Blocked[] = [];
  for (const n of forward) {
    const reached = n.inputs.some((v) => v && active.has(v) && !request.stop?.has(v));
    if (!(reached || n.subgraphs.some((s) => uses(s.allNodes(), active))) || !n.outputs.some((o) => o && useful.has(o))) continue;
    const row = rowOf(n);
    if (typeof row === "function") for (const o of n.outputs) o && active.add(o);
    else if (!row.quiet && usedBy(n).some((v) => active.has(v) && isFloat(emit, v))) blocked.push({ node: n, why: row.none });
  }

  const arriving = new Map<Value, Value[]>();
  const give = (v: Value, g: Value) => {
    const list = arriving.get(v);
    if (list) list.push(g);
    else arriving.set(v, [g]);
  };
  for (const { value, seed } of seeds) {
    if (!active.has(value)) continue;
    give(value, seed ?? emit.op("Expand", [emit.scalar(1, emit.dtype(value)), emit.shapeValue(value)]));
  }
  const total = (v: Value): Value | undefined => {
    const list = arriving.get(v);
    if (!list) return undefined;
    if (list.length > 1) list.splice(0, list.length, emit.op(list.length === 2 ? "Add" : "Sum", list));
    return emit.like(list[0]!, v);
  };

  for (let i = forward.length - 1; i >= 0; i--) {
    const n = forward[i]!;
    if (!n.outputs.some((o) => o && active.has(o) && arriving.has(o))) continue;
    const need = new Set(n.inputs.flatMap((v, at) => (v && active.has(v) && !request.stop?.has(v) ? [at] : [])));
    if (need.size === 0) continue;
    const row = rowOf(n);
    if (typeof row !== "function") continue;
    emit.origin = { rule: "grad", from: [n.name] };
    emit.hint = `grad/${n.name || n.outputs[0]?.name || n.op}`;
    try {
      const back = row(
        new Row(
          emit,
          n,
          n.outputs.map((o) => (o ? total(o) : undefined)),
          need,
        ),
      );
      for (const at of need) {
        const g = back[at];
        if (g) give(n.inputs[at]!, g);
      }
    } catch (e) {
      if (!(e instanceof Refusal)) throw e;
      blocked.push({ node: n, why: e.message });
    }
  }
  emit.origin = undefined;
  emit.hint = "grad";
  const of = new Map<Value, Value>();
  for (const v of request.wrt) {
    const g = total(v);
    if (g) of.set(v, g);
  }
  return { of, blocked, emit };
}

function usedBy(n: Node): Value[] {
  const out = n.inputs.filter((v) => v !== undefined);
  for (const s of n.subgraphs) for (const inner of s.allNodes()) for (const v of inner.inputs) if (v) out.push(v);
  return out;
}
function uses(nodes: Iterable<Node>, values: ReadonlySet<Value>): boolean {
  for (const n of nodes) if (n.inputs.some((v) => v && values.has(v))) return true;
  return false;
}
function isFloat(emit: Emit, v: Value): boolean {
  const t = emit.typeOf(v);
  return t?.kind !== "tensor" || t.elem === undefined || t.elem.startsWith("float") || t.elem === "bfloat16";
}
