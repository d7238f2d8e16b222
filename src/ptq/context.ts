import { intAttr, stringAttr } from "../graph/attr.ts";
import { toFloat32 } from "../graph/constant.ts";
import type { Node, Value } from "../graph/ir.ts";
import { type OpFacts, opFacts } from "../graph/ops/index.ts";
import type { ValueType } from "../graph/types.ts";
import { allNodes, graphPath, nodeKey } from "../graph/walk.ts";
import type { Recipe } from "../plan/recipes/index.ts";
import type { RowCondition, TargetRow, WeightRow } from "../plan/target.ts";
import type { Scheme, Skip, SkipCode, WeightForm } from "../plan/types.ts";
import { findRegions, type Region, regionIndex } from "../prepare/regions.ts";
import { INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import { endsOf } from "./ends.ts";
import { matchNodes } from "./match.ts";
import type { ProposeInput } from "./proposal.ts";
import { tableWorthwhile } from "./weights.ts";

/** How weights are stored whose other operand is quantized while running. */
const DYNAMIC_FORMS = { value: "matmul-integer", token: "matmul-integer-tokens", block: "mxfp8" } as const satisfies Record<
  string,
  WeightForm
>;
const ABOUT_ACTIVATIONS: ReadonlySet<SkipCode> = new Set(["no-stats", "not-reached", "range-unsound"]);

/** What the placement rules share: facts, the target's rows and the skips found so far. */
export class Context {
  readonly input: ProposeInput;
  readonly facts = new Map<Node, OpFacts | undefined>();
  readonly skips = new Map<Node, Skip>();
  /** Nodes whose activations stay float for a reason of the activations: their weights may still be codes. */
  readonly weightOnly = new Map<Node, Skip>();
  /** Nodes of normalizations, softmax, GELU and the like, which stay float as a whole. A gate x·sigmoid(x) has sound 8-bit parts. */
  readonly regions: ReadonlyMap<Node, Region>;
  readonly #prefix = new Map<object, string>();
  readonly #opset: number;
  readonly #ends: ReadonlySet<Node>;
  /** Lookups, and products that read a lookup's constant. */
  readonly #tables: ReadonlySet<Node>;

  constructor(input: ProposeInput) {
    this.input = input;
    this.regions = regionIndex(findRegions(input.model).filter((r) => r.kind !== "silu"));
    this.#opset = Math.max(input.model.opsets.get("") ?? 1, input.target.opset.min);
    for (const n of allNodes(input.model)) this.facts.set(n, opFacts(n));
    this.#ends = input.recipe.ends ? endsOf(input.model.graph.nodes, this.facts).both : new Set();
    for (const n of matchNodes(input.model, input.skip ?? [])) this.skip(n, "user", "left out by --skip");
    for (const n of allNodes(input.model)) {
      const own = input.schemes?.get(this.nodePath(n));
      if (own && !own.weight) this.skip(n, own.by ?? "budget", own.because ?? "pinned to float");
      const given = input.floats?.get(this.nodePath(n));
      if (!given || this.skips.has(n)) continue;
      if (ABOUT_ACTIVATIONS.has(given.code))
        this.weightOnly.set(n, { node: this.nodePath(n), op: n.op, code: given.code, detail: given.detail });
      else this.skip(n, given.code, given.detail);
    }
    this.#tables = this.#tablesOf(input.recipe.tables);
  }

  path(v: Value): string {
    return this.#prefixOf(v.graph) + v.name;
  }
  nodePath(n: Node): string {
    return this.#prefixOf(n.graph) + nodeKey(n);
  }
  #prefixOf(g: Node["graph"]): string {
    let p = this.#prefix.get(g);
    if (p === undefined) {
      p = graphPath(g);
      this.#prefix.set(g, p);
    }
    return p;
  }

  /** Leaves a node in float; the first reason stays. */
  skip(n: Node, code: SkipCode, detail: string): void {
    if (!this.skips.has(n)) this.skips.set(n, { node: this.nodePath(n), op: n.op, code, detail });
  }

  type(v: Value): ValueType | undefined {
    return this.input.types.get(this.path(v)) ?? v.type;
  }
  /** float32, or a value whose type nobody knows. */
  isFloat32(v: Value): boolean {
    if (v.data) return v.data.dtype === "float32";
    const t = this.type(v);
    return t === undefined || (t.kind === "tensor" && (t.elem === undefined || t.elem === "float32"));
  }

  /** The elements of a float constant. */
  constant(v: Value): Float32Array {
    return toFloat32(v.data!);
  }

  /** The rows of the target that speak of a node, its conditions included. */
  rows(n: Node): TargetRow[] {
    return this.input.target.rows.filter((r) => (r.domain ?? "") === n.domain && r.ops.includes(n.op) && holds(n, r.when, this.#opset));
  }

  /** The row with which the target quantizes activations at this node; undefined: it does not. */
  activationRow(n: Node): TargetRow | undefined {
    if (this.weightOnly.has(n) || (this.regions.has(n) && this.facts.get(n)?.trait !== "compute")) return undefined;
    const dtype = this.activationScheme(n).dtype;
    return this.rows(n).find((r) => (r.activation as readonly string[]).includes(dtype));
  }

  /** How a weight of this node is stored, with a quantized activation or without; undefined: the target has no form for the recipe. */
  weightRow(n: Node, withActivation: boolean): WeightRow | undefined {
    const recipe = this.recipeAt(n);
    const fitting = this.rows(n).flatMap((r) => r.weight.filter((w) => this.fits(w, withActivation, recipe)));
    // Signed and unsigned codes stand for each other, but a wish for uint8 is about the sign: int8 is what targets have in any case.
    const exact = recipe.weight?.dtype === "uint8" ? fitting.find((w) => w.dtype === "uint8") : undefined;
    return exact ?? fitting[0];
  }

  /** The recipe, with a node's own scheme in it. */
  recipeAt(n: Node): Recipe {
    const { recipe, schemes } = this.input;
    const own = schemes?.get(this.nodePath(n));
    if (!own?.weight) {
      if (recipe.tables && recipe.tables !== "float" && this.#tables.has(n)) return { ...recipe, weight: recipe.tables };
      return recipe.ends && this.#ends.has(n) ? { ...recipe, ...recipe.ends } : recipe;
    }
    const activationBits = own.activationBits ?? recipe.activationBits;
    return { ...recipe, weight: own.weight, activationBits, ...(own.activations === "none" && { activations: "none" }) };
  }

  /** Nodes that nobody pinned or left out, and whose target has the form that the recipe wants for tables. */
  #tablesOf(tables: Recipe["tables"]): Set<Node> {
    if (tables === undefined) return new Set();
    if (tables === "float") {
      for (const [n, f] of this.facts) if (f?.weights.some((w) => w.kind === "table")) this.skip(n, "user", "tables stay float");
      return new Set();
    }
    const recipe: Recipe = { ...this.input.recipe, weight: tables };
    const free = (n: Node): boolean =>
      !this.skips.has(n) &&
      this.input.schemes?.get(this.nodePath(n))?.weight === undefined &&
      this.rows(n).some((r) => r.weight.some((w) => this.fits(w, false, recipe)));
    const out = new Set<Node>();
    const roots = new Set<Value>();
    for (const [n, f] of this.facts)
      for (const w of f?.weights ?? []) {
        if (w.kind !== "table" || !free(n) || !tableWorthwhile(w.constant.shape, w.channel)) continue;
        out.add(n);
        roots.add(w.constant.root);
      }
    for (const [n, f] of this.facts)
      if (f?.trait === "compute" && f.weights[0] && roots.has(f.weights[0].constant.root) && free(n)) out.add(n);
    return out;
  }

  /** Whether a way to store weights is what the recipe asks for. */
  fits(w: WeightRow, withActivation: boolean, recipe: Recipe = this.input.recipe): boolean {
    const want = recipe.weight;
    if (!want || w.withActivation !== withActivation || !sameWidth(w.dtype, want.dtype)) return false;
    // A wish for blocks is met by channels where the form of W4A8 has none (portable), and at 8 bits; channels by one scale.
    const eight = isIntDType(want.dtype) && INT_DTYPES[want.dtype].bits === 8;
    const coarser =
      (want.per === "channel" && w.per.includes("tensor")) ||
      (want.per === "block" && (withActivation || eight) && w.per.includes("channel"));
    if (!w.per.includes(want.per) && !coarser) return false;
    // An LSTM has no static form: its activations are quantized while running in every recipe.
    if (!withActivation || w.form === "dynamic-lstm") return true;
    const form = DYNAMIC_FORMS[recipe.dynamicPer ?? "value"];
    return recipe.activations === "dynamic" ? w.form === form : !Object.values<WeightForm>(DYNAMIC_FORMS).includes(w.form);
  }

  /** How activations are stored: those that a node reads, or what the recipe says of all. */
  activationScheme(n?: Node): Scheme {
    const { target } = this.input;
    const recipe = n ? this.recipeAt(n) : this.input.recipe;
    if (recipe.activationDType) return { dtype: recipe.activationDType, symmetric: true, narrow: false, granularity: { kind: "tensor" } };
    const { dtype, symmetric } = target.activation;
    const stored = `${dtype === "uint8" ? "uint" : "int"}${recipe.activationBits}` as const;
    return { dtype: stored, symmetric, narrow: symmetric, granularity: { kind: "tensor" } };
  }
}

function holds(n: Node, when: RowCondition | undefined, opset: number): boolean {
  if (!when) return true;
  if (when.opset !== undefined && opset < when.opset) return false;
  for (const [name, allowed] of Object.entries(when.attrs ?? {})) {
    const a = n.attrs.get(name);
    const value =
      a === undefined
        ? null
        : a.kind === "int"
          ? intAttr(n, name, 0)
          : a.kind === "float"
            ? a.value
            : a.kind === "string"
              ? stringAttr(n, name, "")
              : undefined;
    if (value === undefined || !allowed.includes(value)) return false;
  }
  return true;
}

/** Integer types of equal width stand for each other (a target stores 4 bits as int4 or as uint4); floats only for themselves. */
function sameWidth(a: WeightRow["dtype"], b: WeightRow["dtype"]): boolean {
  return a === b || (isIntDType(a) && isIntDType(b) && INT_DTYPES[a].bits === INT_DTYPES[b].bits);
}
