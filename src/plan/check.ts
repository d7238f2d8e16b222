import type { Diagnostic } from "../diagnostics.ts";
import { constantOf } from "../graph/constant.ts";
import { type Model, type Node, opsetOf, type Value } from "../graph/ir.ts";
import { nodesByPath, pathOfNode, valuesByPath } from "../graph/walk.ts";
import { codeBounds } from "../quant/affine.ts";
import { INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import { paramCount } from "../quant/encode.ts";
import { fromFloat8, toFloat8 } from "../quant/float8.ts";
import { isBlockSite } from "./blockfloat.ts";
import type { Target } from "./target.ts";
import { readTensorNumbers } from "./tensors.ts";
import type { Numbers, PlanBundle, Scheme, Site } from "./types.ts";

/** What a plan must satisfy before `lower` may take it. Shared by the checker, its tests and docs/plan.md. */
export const CONSTRAINTS = {
  P1: "every tensor that the plan names is in plan.tensors",
  P2: "a scale is a finite float32 above 0",
  P3: "a zero point is an integer of the storage type",
  P4: "there is one scale and zero point, or one for each channel or block",
  P5: "a value and its consumers exist, and the consumers read the value",
  P6: "a use is quantized once",
  P7: "a weight is a float32 constant, its codes match its shape and type",
  P8: "a static or dynamic site is a float32 value that the run computes",
  P9: "the target takes the scheme and the form",
  P10: "a replacement has the shape and type of the constant, an insertion broadcasts over the value",
  P11: "the opset is one of the target's, not below the model's and not below what the types need",
  P12: "the form of a weight fits its consumers",
} as const;
export type Constraint = keyof typeof CONSTRAINTS;

/** Every broken constraint of a plan for a prepared graph and a target. Empty: `lower` will succeed. */
export function checkPlanAgainst(bundle: PlanBundle, model: Model, target: Target): Diagnostic[] {
  return new Checker(bundle, model, target).run();
}

class Checker {
  readonly #out: Diagnostic[] = [];
  readonly #values: Map<string, Value>;
  readonly #nodes: Map<string, Node>;
  readonly #bundle: PlanBundle;
  readonly #model: Model;
  readonly #target: Target;
  readonly #claimed = new Map<string, string>();

  constructor(bundle: PlanBundle, model: Model, target: Target) {
    this.#bundle = bundle;
    this.#model = model;
    this.#target = target;
    this.#values = valuesByPath(model);
    this.#nodes = nodesByPath(model);
  }

  #fault(constraint: Constraint, at: string, detail: string): void {
    this.#out.push({ code: "plan/illegal", constraint: `${constraint} (${CONSTRAINTS[constraint]})`, at, detail });
  }

  run(): Diagnostic[] {
    const { plan } = this.#bundle;
    plan.sites.forEach((s, i) => {
      this.#site(s, `sites[${i}] "${s.value}"`);
    });
    plan.replacements.forEach((r, i) => {
      const at = `replacements[${i}] "${r.value}"`;
      const v = this.#values.get(r.value);
      const t = this.#bundle.tensors.get(r.tensor.tensor);
      if (!t) this.#fault("P1", at, `"${r.tensor.tensor}" is missing`);
      else if (!v?.data) this.#fault("P5", at, "there is no such constant");
      else if (v.data.dtype !== t.dtype || String(v.data.shape) !== String(t.shape))
        this.#fault("P10", at, `${t.dtype}[${t.shape}] for ${v.data.dtype}[${v.data.shape}]`);
    });
    plan.insertions.forEach((x, i) => {
      const at = `insertions[${i}] "${x.value}"`;
      const v = this.#values.get(x.value);
      const t = this.#bundle.tensors.get(x.by.tensor);
      if (!t) this.#fault("P1", at, `"${x.by.tensor}" is missing`);
      else if (t.dtype !== "float32") this.#fault("P10", at, `a factor of type ${t.dtype}`);
      if (!v) this.#fault("P5", at, "there is no such value");
      else this.#uses(x.consumers, v, at);
    });
    plan.rest?.keep.forEach((k, i) => {
      if (!this.#values.has(k.value)) this.#fault("P5", `rest.keep[${i}] "${k.value}"`, "the graph has no such value");
    });
    this.#opset();
    return this.#out;
  }

  #site(s: Site, at: string): void {
    const v = this.#values.get(s.value);
    if (!v) {
      this.#fault("P5", at, "the graph has no such value");
      return;
    }
    const uses = this.#uses(s.consumers, v, at);
    for (const [node, input] of uses) {
      const key = `${node}#${input}`;
      const other = this.#claimed.get(key);
      if (other !== undefined) this.#fault("P6", at, `input ${input} of "${node}" belongs to ${other} already`);
      else this.#claimed.set(key, at);
    }
    if (s.kind === "weight") this.#weight(s, v, at);
    else {
      if (v.data && !v.producer) this.#fault("P8", at, "it is a constant");
      if (v.type?.kind === "tensor" && v.type.elem !== undefined && v.type.elem !== "float32")
        this.#fault("P8", at, `it is ${v.type.elem}`);
    }
    if (s.kind === "static") {
      const shape = v.type?.kind === "tensor" ? v.type.shape : undefined;
      const known = shape?.every((d) => typeof d === "number") ? (shape as readonly number[]) : undefined;
      // In blocks the one scale is the tensor's.
      if (isBlockSite(s)) this.#tensorScale(s.scale, at);
      else if (s.scheme.granularity.kind !== "tensor" && !known) this.#fault("P4", at, "channels of a value whose shape is not known");
      else this.#numbers(s, known ?? [], at);
      this.#legalActivation(s.scheme, s.zeroPoint, at);
    }
  }

  /** (node, input) of every consumer that there is. */
  #uses(consumers: Site["consumers"], v: Value, at: string): (readonly [string, number])[] {
    if (consumers === "all") {
      const byNode = new Map([...this.#nodes].map(([k, n]) => [n, k] as const));
      return v.uses.map((u) => [byNode.get(u.node) ?? u.node.name, u.input] as const);
    }
    const out: (readonly [string, number])[] = [];
    for (const c of consumers) {
      const n = this.#nodes.get(c.node);
      if (!n) this.#fault("P5", at, `there is no node "${c.node}"`);
      else if (n.inputs[c.input] !== v) this.#fault("P5", at, `input ${c.input} of "${c.node}" is "${n.inputs[c.input]?.name ?? ""}"`);
      else out.push([c.node, c.input]);
    }
    if (consumers.length === 0) this.#fault("P5", at, "it has no consumer");
    return out;
  }

  #weight(s: Extract<Site, { kind: "weight" }>, v: Value, at: string): void {
    const view = constantOf(v);
    if (!view) {
      this.#fault("P7", at, "it is computed at run time");
      return;
    }
    if (view.dtype !== "float32") this.#fault("P7", at, `it is ${view.dtype}`);
    this.#numbers(s, view.shape, at);
    if (s.codes) {
      const t = this.#bundle.tensors.get(s.codes.tensor);
      if (!t) this.#fault("P1", at, `"${s.codes.tensor}" is missing`);
      else if (!isIntDType(t.dtype) || String(t.shape) !== String(view.shape))
        this.#fault("P7", at, `codes ${t.dtype}[${t.shape}] for a weight [${view.shape}]`);
      else if (isIntDType(s.scheme.dtype)) {
        const { dtype, bits } = s.scheme;
        const { min, max } = codeBounds(dtype, false, bits);
        if (readTensorNumbers(t).some((c) => c < min || c > max))
          this.#fault("P7", at, `a code outside ${bits === undefined ? dtype : `the ${bits} bits used of ${dtype}`}`);
      }
    }
    const form = s.form ?? "qdq";
    const consumers =
      s.consumers === "all" ? v.uses.map((u) => u.node) : s.consumers.map((c) => this.#nodes.get(c.node)).filter((n) => n !== undefined);
    const constantOperand = v.data !== undefined && form === "qdq" && s.scheme.dtype === this.#target.activation.dtype;
    if (!constantOperand) this.#legalWeight(s, at);
    if ((form === "gather-codes" || form === "gather-block") && consumers.some((n) => n.op !== "Gather"))
      this.#fault("P12", at, `${form} for a consumer that is no lookup`);
    if (
      (form === "matmul-integer" || form === "matmul-integer-tokens" || form === "matmul-nbits" || form === "matmul-bnb4") &&
      (view.shape.length !== 2 || s.consumers === "all" || s.consumers.some((c) => c.input !== 1))
    )
      this.#fault("P12", at, `${form} needs a matrix as right operand`);
    if (form === "nvfp4" || form === "mxfp8") this.#blockWeight(s, consumers, at);
    const g = s.scheme.granularity;
    if (form === "matmul-bnb4" && g.kind === "block" && view.shape[g.axis]! % g.size !== 0)
      this.#fault("P12", at, `blocks of ${g.size} do not divide ${view.shape[g.axis]}`);
    if (form === "matmul-integer" || form === "matmul-integer-tokens") {
      if (s.scheme.granularity.kind === "block") this.#fault("P12", at, "integer products take no blocks");
      const per = form === "matmul-integer-tokens" ? "token" : undefined;
      for (const n of consumers) {
        const left = this.#bundle.plan.sites.find((x) => x.kind === "dynamic" && this.#reads(x, n, 0));
        if (left?.kind !== "dynamic" || left.per !== per)
          this.#fault(
            "P12",
            at,
            `${form} needs a dynamic site ${per ? "for each token" : "of one scale"} on input 0 of "${pathOfNode(n)}"`,
          );
      }
    }
  }

  #reads(s: Site, n: Node, input: number): boolean {
    const v = n.inputs[input];
    if (!v || this.#values.get(s.value) !== v) return false;
    return s.consumers === "all" || s.consumers.some((c) => c.input === input && this.#nodes.get(c.node) === n);
  }

  #numbers(
    s: { readonly scheme: Scheme; readonly scale: Numbers; readonly zeroPoint: Numbers },
    shape: readonly number[],
    at: string,
  ): void {
    const g = s.scheme.granularity;
    if (g.kind !== "tensor" && (g.axis < 0 || g.axis >= shape.length)) {
      this.#fault("P4", at, `axis ${g.axis} of a value of rank ${shape.length}`);
      return;
    }
    if (g.kind === "block" && !(Number.isInteger(g.size) && g.size > 0)) {
      this.#fault("P4", at, `blocks of ${g.size}`);
      return;
    }
    const want = paramCount(shape, g);
    for (const [name, n] of [
      ["scale", s.scale],
      ["zero point", s.zeroPoint],
    ] as const) {
      if ("tensor" in n && !this.#bundle.tensors.has(n.tensor)) {
        this.#fault("P1", at, `"${n.tensor}" is missing`);
        continue;
      }
      const list = "tensor" in n ? readTensorNumbers(this.#bundle.tensors.get(n.tensor)!) : n;
      if (list.length !== 1 && list.length !== want) this.#fault("P4", at, `${list.length} ${name}s, ${want} wanted`);
      if (name === "scale") {
        const bad = list.findIndex((x) => !(Number.isFinite(x) && x > 0 && Math.fround(x) === x));
        if (bad >= 0) this.#fault("P2", at, `scale ${list[bad]} at ${bad}`);
      } else if (isIntDType(s.scheme.dtype)) {
        const { min, max } = INT_DTYPES[s.scheme.dtype];
        const bad = list.findIndex((x) => !(Number.isInteger(x) && x >= min && x <= max));
        if (bad >= 0) this.#fault("P3", at, `zero point ${list[bad]} at ${bad} for ${s.scheme.dtype}`);
      } else if (list.some((x) => x !== 0)) this.#fault("P3", at, `${s.scheme.dtype} has no zero point`);
    }
  }

  #legalActivation(scheme: Scheme, zeroPoint: Numbers, at: string): void {
    const t = this.#target;
    if (t.placement === "weights-only") this.#fault("P9", at, `${t.name} takes no quantized activation`);
    if (!t.rows.some((r) => (r.activation as readonly string[]).includes(scheme.dtype)))
      this.#fault("P9", at, `${t.name} has no activation of ${scheme.dtype}`);
    if (t.activation.symmetric && !("tensor" in zeroPoint) && zeroPoint.some((z) => z !== 0))
      this.#fault("P9", at, `${t.name} takes zero point 0 only`);
    const g = scheme.granularity;
    const blocks = t.rows.some((r) => r.weight.some((w) => w.activationRanks && w.dtype === scheme.dtype));
    if (t.activation.symmetric && g.kind !== "tensor" && !(g.kind === "block" && blocks))
      this.#fault("P9", at, `${t.name} takes one scale for an activation`);
  }

  /** The block formats: the tensor's own scale, scales of blocks that the format can hold, and a partner in blocks of the same type. */
  #blockWeight(s: Extract<Site, { kind: "weight" }>, consumers: readonly Node[], at: string): void {
    const { form, scheme, tensorScale } = s;
    if ((form === "nvfp4") !== (tensorScale !== undefined))
      this.#fault("P4", at, `${form} ${tensorScale === undefined ? "without" : "with"} a scale of the tensor`);
    if (tensorScale !== undefined) this.#tensorScale([tensorScale], at);
    const scales = "tensor" in s.scale ? this.#bundle.tensors.get(s.scale.tensor) : undefined;
    const list = "tensor" in s.scale ? (scales ? readTensorNumbers(scales) : []) : s.scale;
    const held = form === "nvfp4" ? (x: number) => fromFloat8(toFloat8(x)) === x : (x: number) => Number.isInteger(Math.log2(x));
    const bad = list.findIndex((x) => !held(x));
    if (bad >= 0) this.#fault("P2", at, `scale ${list[bad]} at ${bad} is no ${form === "nvfp4" ? "float8" : "power of two"}`);
    for (const n of consumers)
      if (!this.#bundle.plan.sites.some((x) => isBlockSite(x) && x.scheme.dtype === scheme.dtype && this.#reads(x, n, 0)))
        this.#fault("P12", at, `${form} needs blocks of ${scheme.dtype} on input 0 of "${pathOfNode(n)}"`);
  }

  #tensorScale(scale: Numbers, at: string): void {
    const list = "tensor" in scale ? [] : scale;
    if (list.length !== 1) this.#fault("P4", at, "a value in blocks has one scale of its own");
    else if (!(Number.isFinite(list[0]) && list[0]! > 0 && Math.fround(list[0]!) === list[0])) this.#fault("P2", at, `scale ${list[0]}`);
  }

  #legalWeight(s: Extract<Site, { kind: "weight" }>, at: string): void {
    const form = s.form ?? "qdq";
    const asked = form === "gather-codes" ? "qdq" : form;
    const rows = this.#target.rows.flatMap((r) => r.weight);
    const fits = rows.some((w) => w.dtype === s.scheme.dtype && w.form === asked && w.per.includes(s.scheme.granularity.kind));
    if (!fits) this.#fault("P9", at, `${this.#target.name} has no weight of ${s.scheme.dtype} per ${s.scheme.granularity.kind} as ${form}`);
    if (
      rows.some((w) => w.dtype === s.scheme.dtype && w.form === asked && w.symmetricOnly) &&
      s.scheme.dtype === "int8" &&
      !("tensor" in s.zeroPoint) &&
      s.zeroPoint.some((z) => z !== 0)
    )
      this.#fault("P9", at, `${this.#target.name} takes symmetric ${s.scheme.dtype} weights only`);
  }

  #opset(): void {
    const { plan } = this.#bundle;
    const { min, max } = this.#target.opset;
    const own = opsetOf(this.#model) ?? 1;
    if (plan.opset < min || plan.opset > max) this.#fault("P11", "opset", `${plan.opset}; ${this.#target.name} takes ${min} to ${max}`);
    else if (plan.opset < own) this.#fault("P11", "opset", `${plan.opset}; the model has ${own}`);
  }
}
