import { behind } from "../export/lower/emit.ts";
import { insertMultipliers, replaceConstants } from "../export/lower/replace.ts";
import { sweep } from "../export/lower/sweep.ts";
import { cloneModel } from "../graph/clone.ts";
import { constantOf } from "../graph/constant.ts";
import type { Graph, Model, Node, Use, Value } from "../graph/ir.ts";
import { floats, int64s, tensorFromBytes } from "../graph/tensor.ts";
import { tensorType } from "../graph/types.ts";
import { codesOf } from "../plan/codes.ts";
import { Resolver } from "../plan/resolve.ts";
import { readNumbers, spread } from "../plan/tensors.ts";
import type { PlanBundle, Scheme, Site } from "../plan/types.ts";
import { requireOpset } from "../prepare/opset/index.ts";
import { codeBounds } from "../quant/affine.ts";
import { type IntDType, isIntDType } from "../quant/dtype.ts";
import { paramCount } from "../quant/encode.ts";
import { qparamShape } from "../quant/granularity.ts";
import { packCodes } from "../quant/pack.ts";
import { biasParams, latent, parameterIndex } from "./student.ts";

/** `qdq`: QuantizeLinear and DequantizeLinear. `arithmetic`: Div, Round, Clip, Mul, for trainers that give Q no gradient. */
export type InsertForm = "qdq" | "arithmetic";

/** What a trainer may move, by initializer name, and what `import` looks for in the file that comes back. */
export interface QatList {
  readonly schema: "qc.qat/1";
  readonly form: InsertForm;
  readonly model: { readonly structure: string; readonly weights: string };
  readonly weights: readonly {
    readonly value: string;
    readonly sites: readonly number[];
    /** Trainable float weight, and its trainable scale (float32, above 0). */
    readonly weight: string;
    readonly scale: string;
    readonly dtype: IntDType;
    readonly bits: number;
  }[];
  readonly activations: readonly {
    readonly value: string;
    readonly sites: readonly number[];
    readonly scale: string;
    readonly dtype: IntDType;
  }[];
  readonly biases: readonly { readonly value: string; readonly bias: string }[];
}

/**
 * The prepared graph of a plan with fake quantization in standard operators and its numbers as initializers that a trainer can move. It
 * computes what the lowered plan computes. Scales of activations that share parameters are one initializer.
 */
export function insertQat(
  prepared: Model,
  bundle: PlanBundle,
  form: InsertForm = "qdq",
): { readonly model: Model; readonly list: QatList } {
  const model = cloneModel(prepared);
  const need = Math.max(bundle.plan.opset, 13);
  if ((model.opsets.get("") ?? 1) < need) requireOpset(model, need);
  model.irVersion = Math.max(model.irVersion, bundle.plan.irVersion);
  const g = model.graph;
  const resolve = new Resolver(model);
  replaceConstants(bundle, resolve);
  insertMultipliers(bundle, resolve);
  const inserter = new Inserter(g, bundle, resolve, form);
  const weights = inserter.weights();
  const activations = inserter.activations(model);
  const taken = new Set<Value>();
  const biases = biasParams(g, 1, taken).map((b) => ({ value: b.name, bias: b.name }));
  sweep(model);
  return { model, list: { schema: "qc.qat/1", form, model: bundle.plan.model, weights, activations, biases } };
}

type WeightSite = Extract<Site, { kind: "weight" }>;
type StaticSite = Extract<Site, { kind: "static" }>;

class Inserter {
  readonly #g: Graph;
  readonly #bundle: PlanBundle;
  readonly #resolve: Resolver;
  readonly #form: InsertForm;

  constructor(g: Graph, bundle: PlanBundle, resolve: Resolver, form: InsertForm) {
    this.#g = g;
    this.#bundle = bundle;
    this.#resolve = resolve;
    this.#form = form;
  }

  weights(): QatList["weights"][number][] {
    const groups = new Map<string, { site: WeightSite; value: Value; sites: number[]; uses: Use[] }>();
    this.#bundle.plan.sites.forEach((site, index) => {
      if (site.kind !== "weight" || !isIntDType(site.scheme.dtype)) return;
      const value = this.#resolve.value(site.value);
      const uses = this.#resolve.uses(site, value).filter((u) => u.node.graph === this.#g);
      if (value.graph !== this.#g || uses.length === 0) return;
      const key = JSON.stringify([site.value, site.scheme, site.scale, site.zeroPoint, site.codes ?? ""]);
      const old = groups.get(key);
      if (old) {
        old.sites.push(index);
        old.uses.push(...uses);
      } else groups.set(key, { site, value, sites: [index], uses });
    });
    return [...groups.values()].map((w) => this.#weight(w));
  }

  #weight(w: { site: WeightSite; value: Value; sites: number[]; uses: Use[] }): QatList["weights"][number] {
    const { site, value } = w;
    const { scheme } = site;
    if (!isIntDType(scheme.dtype)) throw new Error(`internal: codes of ${scheme.dtype}`);
    const coded = codesOf(this.#bundle, site, value);
    const n = paramCount(coded.shape, scheme.granularity);
    const scale = Float32Array.from(spread(coded.scale, n));
    const zero = spread(coded.zeroPoint, n);
    const of = parameterIndex(coded.shape, scheme.granularity);
    const units = latent(
      coded.codes,
      (i) => zero[of(i)]!,
      constantOf(value)?.float32(),
      (i) => scale[of(i)]!,
    );
    const stem = value.name;
    const weight = this.#g.constant(
      floats(
        units.map((u, i) => u * scale[of(i)]!),
        coded.shape,
      ),
      `${stem}/weight`,
    );
    const s = this.#g.constant(floats(scale, qparamShape(coded.shape, scheme.granularity)), `${stem}/scale`);
    const nodes = new Set(w.uses.map((u) => u.node));
    const first = this.#g.nodes.find((x) => nodes.has(x))!;
    const out = this.#pair(weight, s, zero, scheme, coded.shape, stem, (spec) => this.#g.insertBefore(first, spec));
    for (const u of w.uses) u.node.graph.replaceUse(u.node, u.input, out);
    const bits = Number(/\d+/.exec(scheme.dtype)![0]);
    return { value: site.value, sites: w.sites, weight: weight.name, scale: s.name, dtype: scheme.dtype, bits };
  }

  activations(model: Model): QatList["activations"][number][] {
    const groups = new Map<string, { value: string; sites: number[]; scale: Value; scheme: Scheme; zero: Float64Array }>();
    const made = new Map<string, Value>();
    this.#bundle.plan.sites.forEach((site, index) => {
      if (site.kind !== "static" || !isIntDType(site.scheme.dtype)) return;
      const target = this.#resolve.value(site.value);
      if (target.graph !== this.#g) return;
      const group = this.#group(groups, site, index, target);
      const byValue = new Map<Value, Use[]>();
      for (const u of this.#resolve.uses(site, target)) {
        const v = u.node.inputs[u.input] ?? target;
        byValue.set(v, [...(byValue.get(v) ?? []), u]);
      }
      if (byValue.size === 0) byValue.set(target, []);
      for (const [v, uses] of byValue) {
        const id = `${v.name}\n${group.scale.name}`;
        let out = made.get(id);
        if (!out) {
          const rank = v.type?.kind === "tensor" ? (v.type.shape?.length ?? 0) : 0;
          const shape = Array.from({ length: rank }, () => group.zero.length);
          out = this.#pair(v, group.scale, group.zero, site.scheme, shape, v.name, chained(this.#g, v));
          made.set(id, out);
        }
        for (const u of uses) u.node.graph.replaceUse(u.node, u.input, out);
        if (site.consumers === "all" && v === target && v.isOutput) model.graph.takeOutput(v, out);
      }
    });
    return [...groups.values()].map((a) => ({ value: a.value, sites: a.sites, scale: a.scale.name, dtype: a.scheme.dtype as IntDType }));
  }

  #group(
    groups: Map<string, { value: string; sites: number[]; scale: Value; scheme: Scheme; zero: Float64Array }>,
    site: StaticSite,
    index: number,
    target: Value,
  ) {
    const scale = readNumbers(this.#bundle, site.scale);
    const zero = readNumbers(this.#bundle, site.zeroPoint);
    const key = JSON.stringify([[...scale], [...zero], site.scheme]);
    let group = groups.get(key);
    if (!group) {
      const dims = scale.length === 1 ? [] : [scale.length];
      const s = this.#g.constant(floats(scale, dims), `${target.name}/activation/scale`);
      group = { value: site.value, sites: [], scale: s, scheme: site.scheme, zero };
      groups.set(key, group);
    }
    group.sites.push(index);
    return group;
  }

  /** Fake quantization of x as nodes placed one behind another. */
  #pair(
    x: Value,
    scale: Value,
    zero: Float64Array,
    scheme: Scheme,
    shape: readonly number[],
    stem: string,
    place: (spec: Parameters<Graph["append"]>[0]) => Node,
  ): Value {
    const g = this.#g;
    const { dtype, granularity: gr } = scheme;
    if (!isIntDType(dtype)) throw new Error(`internal: codes of ${dtype}`);
    const put = (op: string, inputs: Value[], attrs: Record<string, number> = {}, elem: IntDType | "float32" = "float32") => {
      const name = g.freshName(`${stem}/${op}`);
      const v = place({ op, inputs, attrs, name, outputs: [name] }).outputs[0]!;
      v.type = tensorType(elem, x.type?.kind === "tensor" ? x.type.shape : undefined);
      return v;
    };
    const b = codeBounds(dtype, scheme.narrow);
    const least = codeBounds(dtype, false).min;
    const dims = zero.length === 1 ? [] : [...(scale.data?.shape ?? [zero.length])];
    const native = dtype !== "int2" && dtype !== "uint2";
    if (this.#form === "qdq" && native) {
      const attrs: Record<string, number> =
        gr.kind === "tensor" ? {} : gr.kind === "channel" ? { axis: gr.axis } : { axis: gr.axis, block_size: gr.size };
      const zeros = spread(zero, paramCountOf(scale));
      const z = g.constant(tensorFromBytes(dtype, scale.data!.shape, packCodes(Array.from(zeros), dtype)), `${stem}/zero_point`);
      let from = x;
      // A narrow type leaves its lowest code out, which Q would not.
      if (b.min > least) {
        const lowest = g.constant(
          floats(
            Float32Array.from(zeros, (v) => b.min - v),
            scale.data!.shape,
          ),
          `${stem}/lowest`,
        );
        from = put("Max", [x, this.#wide(put("Mul", [scale, lowest]), gr, shape, stem, put)]);
      }
      return put("DequantizeLinear", [put("QuantizeLinear", [from, scale, z], attrs, dtype), scale, z], attrs);
    }
    const wide = this.#wide(scale, gr, shape, stem, put);
    const limit = (edge: number, hint: string) => {
      const k = g.constant(
        floats(
          Float32Array.from(zero, (v) => edge - v),
          dims,
        ),
        `${stem}/${hint}`,
      );
      return dims.length === 0 ? k : this.#wide(k, gr, shape, stem, put);
    };
    const rounded = put("Round", [put("Div", [x, wide])]);
    return put("Mul", [put("Min", [put("Max", [rounded, limit(b.min, "lo")]), limit(b.max, "hi")]), wide]);
  }

  /** A tensor of the scale's shape, broadcast over x: per channel as [1, …, C, …, 1], per block repeated along the axis. */
  #wide(
    v: Value,
    gr: Scheme["granularity"],
    shape: readonly number[],
    stem: string,
    put: (op: string, inputs: Value[], attrs?: Record<string, number>) => Value,
  ): Value {
    if (gr.kind === "tensor") return v;
    if (gr.kind === "channel") {
      const to = shape.map((_, i) => (i === gr.axis ? -1 : 1));
      return put("Reshape", [v, this.#g.constant(int64s(to), `${stem}/wide`)]);
    }
    const at = int64s(Array.from({ length: shape[gr.axis]! }, (_, i) => Math.floor(i / gr.size)));
    return put("Gather", [v, this.#g.constant(at, `${stem}/block`)], { axis: gr.axis });
  }
}

const paramCountOf = (scale: Value) => scale.data!.shape.reduce((a, b) => a * b, 1);

/** Places nodes one behind another, the first right behind the value's producer. */
function chained(g: Graph, v: Value): (spec: Parameters<Graph["append"]>[0]) => Node {
  let last: Node | undefined;
  const first = behind(g, v);
  return (spec) => {
    last = last ? g.insertAfter(last, spec) : first(spec);
    return last;
  };
}
