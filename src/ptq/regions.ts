import type { Node, Use, Value } from "../graph/ir.ts";
import type { OpFacts } from "../graph/ops/index.ts";
import type { TargetRow } from "../plan/target.ts";
import { elementCount } from "../quant/dtype.ts";
import type { Context } from "./context.ts";
import type { ComputeNode } from "./proposal.ts";
import type { Placed } from "./propose.ts";

/**
 * Regions that run on codes: every node of a region reads and writes codes.
 *
 * 1. Compute nodes start regions.
 * 2. Forward: a sum, product or pool with a quantized form joins when one of its inputs is codes anyway, because a kernel wrote them that
 *    has no float output (Conv; products of matrices have one, so a residual stream stays float). Data movement joins when its inputs are
 *    codes. A clamp that alone reads a node's output is absorbed by the Q behind it.
 * 3. Backward: data movement in front of a region joins when all its readers are in it (one byte an element is moved instead of four).
 * 4. Members that no member reads leave again: their codes would only be turned back.
 */
export function placeFusedRegions(ctx: Context, compute: readonly ComputeNode[]): Placed {
  const region = new Regions(ctx, compute);
  region.forward();
  region.backward();
  region.prune();
  return region.place();
}

class Regions {
  readonly #ctx: Context;
  readonly #members = new Set<Node>();
  readonly #rows = new Map<Node, TargetRow>();
  /** Clamps that vanish into the Q on their output, and the value in front of them. */
  readonly #absorbed = new Map<Node, Value>();

  constructor(ctx: Context, compute: readonly ComputeNode[]) {
    this.#ctx = ctx;
    for (const { node } of compute) this.#members.add(node);
    for (const node of ctx.input.model.graph.nodes) {
      const row = ctx.activationRow(node);
      if (row && !ctx.skips.has(node)) this.#rows.set(node, row);
    }
  }

  #facts(n: Node): OpFacts | undefined {
    return this.#ctx.facts.get(n);
  }
  #dataInputs(n: Node): Value[] {
    return (this.#facts(n)?.data ?? []).map((i) => n.inputs[i]!).filter((v) => !isConst(v));
  }
  #writesCodes(v: Value): boolean {
    return v.producer !== undefined && this.#members.has(v.producer) && v.graph === this.#ctx.input.model.graph;
  }
  /** Written as codes whoever reads: a kernel that needs a Q behind it, or data movement and clamps after one. */
  #mustBeCodes(v: Value): boolean {
    const p = v.producer;
    if (!p || !this.#writesCodes(v)) return false;
    const output = this.#rows.get(p)?.output;
    if (output === "own") return true;
    return (output === "same" || output === "absorbed") && this.#dataInputs(p).every((x) => this.#mustBeCodes(x));
  }
  /** The one reader of a value, when there is exactly one and the value is no output. */
  #onlyReader(v: Value): Node | undefined {
    return v.uses.length === 1 && !v.isOutput ? v.uses[0]!.node : undefined;
  }

  forward(): void {
    for (const node of this.#ctx.input.model.graph.nodes) {
      const row = this.#rows.get(node);
      const facts = this.#facts(node);
      if (!row || !facts || this.#members.has(node) || row.weight.length > 0) continue;
      const data = this.#dataInputs(node);
      if (data.length === 0 || !data.every((v) => this.#ctx.isFloat32(v))) continue;
      const joins = row.output === "own" ? data.some((v) => this.#mustBeCodes(v)) : data.every((v) => this.#writesCodes(v));
      if (!joins) continue;
      if (!facts.data.every((i) => this.#operandFits(node.inputs[i]!))) continue;
      const input = data[0]!;
      if (row.output === "absorbed") {
        const p = input.producer!;
        if (this.#onlyReader(input) !== node || this.#absorbed.has(p) || this.#rows.get(p)?.output === "same") continue;
        this.#absorbed.set(node, input);
      }
      this.#members.add(node);
    }
  }

  /** A constant operand must be float32: it becomes codes with one scale. */
  #operandFits(v: Value): boolean {
    return !isConst(v) || (v.data?.dtype === "float32" && v.isConstant);
  }

  backward(): void {
    for (const node of [...this.#ctx.input.model.graph.nodes].reverse()) {
      const facts = this.#facts(node);
      if (!facts || this.#members.has(node) || this.#rows.get(node)?.output !== "same") continue;
      const data = this.#dataInputs(node);
      if (data.length !== 1 || !this.#ctx.isFloat32(data[0]!)) continue;
      const outputs = facts.outputs.map((i) => node.outputs[i]!);
      const wanted = outputs.every((o) => !o.isOutput && o.uses.length > 0 && o.uses.every((u) => this.#reads(u)));
      // In front of a node that shrinks its input (a pool, a slice), the Q would meet more elements than behind it.
      if (wanted && !this.#shrinks(data[0]!, outputs)) this.#members.add(node);
    }
  }

  #shrinks(input: Value, outputs: readonly Value[]): boolean {
    const sizes = [input, ...outputs].map((v) => {
      const t = this.#ctx.type(v);
      const shape = t?.kind === "tensor" ? t.shape : undefined;
      return shape?.every((d) => typeof d === "number") ? elementCount(shape as readonly number[]) : undefined;
    });
    if (sizes.some((s) => s === undefined)) return false;
    return (sizes.slice(1) as number[]).reduce((a, b) => a + b, 0) < sizes[0]!;
  }

  #reads(u: Use): boolean {
    return this.#members.has(u.node) && (this.#facts(u.node)?.data.includes(u.input) ?? false);
  }

  /** Whether some member reads the value as codes; behind an absorbed clamp, its readers count. */
  #wanted(v: Value): boolean {
    return v.uses.some((u) => this.#reads(u) && (!this.#absorbed.has(u.node) || u.node.outputs.some((o) => o && this.#wanted(o))));
  }

  prune(): void {
    for (let changed = true; changed; ) {
      changed = false;
      for (const node of [...this.#ctx.input.model.graph.nodes].reverse()) {
        const row = this.#rows.get(node);
        if (!this.#members.has(node) || !row || row.weight.length > 0) continue;
        const outputs = (this.#facts(node)?.outputs ?? []).map((i) => node.outputs[i]!);
        const needed = this.#absorbed.has(node)
          ? outputs.some((o) => this.#wanted(o)) || this.#mustWrite(this.#absorbed.get(node)!.producer!)
          : outputs.some((o) => this.#wanted(o));
        const broken = !this.#absorbed.has(node) && !this.#inputsStand(node);
        if (needed && !broken) continue;
        this.#members.delete(node);
        this.#absorbed.delete(node);
        changed = true;
      }
    }
  }

  /** A node whose kernel exists only with a Q behind it: a clamp after it stays absorbed whoever reads on. */
  #mustWrite(n: Node): boolean {
    return this.#rows.get(n)?.output === "own" && this.#members.has(n);
  }
  /** A member that left takes along those that joined because of it. */
  #inputsStand(n: Node): boolean {
    const output = this.#rows.get(n)?.output;
    return (
      output === "same" ||
      (output === "own" ? this.#dataInputs(n).some((v) => this.#mustBeCodes(v)) : this.#dataInputs(n).every((v) => this.#writesCodes(v)))
    );
  }

  place(): Placed {
    const uses = new Map<Value, "all" | readonly Use[]>();
    const because = new Map<Value, string>();
    const constants = new Map<Value, Use[]>();
    const ties: [Value, Value][] = [];
    const hidden = new Set(this.#absorbed.values());
    for (const node of this.#ctx.input.model.graph.nodes) {
      if (!this.#members.has(node)) continue;
      const facts = this.#facts(node)!;
      const row = this.#rows.get(node);
      for (const i of facts.data) {
        const v = node.inputs[i]!;
        if (isConst(v)) {
          constants.set(v, [...(constants.get(v) ?? []), { node, input: i }]);
          continue;
        }
        if (hidden.has(v) || uses.get(v) === "all") continue;
        if (this.#writesCodes(v)) continue; // entered where it is written
        uses.set(v, [...((uses.get(v) as readonly Use[] | undefined) ?? []), { node, input: i }]);
        if (!because.has(v)) because.set(v, `input of ${node.op}`);
      }
      const outputs = facts.outputs.map((i) => node.outputs[i]!);
      for (const o of outputs) {
        if (hidden.has(o)) continue;
        const own = row?.output === "own" || row?.output === "same" || row?.output === "absorbed" || this.#wanted(o);
        if (!own) continue;
        uses.set(o, "all");
        because.set(o, `output of ${node.op}`);
      }
      if (row?.output === "same") for (const v of this.#dataInputs(node)) for (const o of outputs) ties.push([v, o]);
    }
    // A product whose output nobody reads as codes writes floats: its readers among the members get a Q of their own.
    return { uses, ties, because, nodes: new Set(this.#members), constants };
  }
}

function isConst(v: Value): boolean {
  return v.data !== undefined && v.producer === undefined;
}
