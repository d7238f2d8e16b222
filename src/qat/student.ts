import { behind } from "../export/lower/emit.ts";
import { insertMultipliers, replaceConstants } from "../export/lower/replace.ts";
import { cloneModel } from "../graph/clone.ts";
import { constantOf } from "../graph/constant.ts";
import type { Graph, Model, Use, Value } from "../graph/ir.ts";
import { opFacts } from "../graph/ops/index.ts";
import { asFloat32, floats, int64s } from "../graph/tensor.ts";
import { tensorType } from "../graph/types.ts";
import { codesOf } from "../plan/codes.ts";
import { Resolver } from "../plan/resolve.ts";
import { readNumbers, spread } from "../plan/tensors.ts";
import type { PlanBundle, Site } from "../plan/types.ts";
import { codeBounds } from "../quant/affine.ts";
import { elementCount, isIntDType } from "../quant/dtype.ts";
import { paramCount } from "../quant/encode.ts";
import { type Granularity, qparamShape } from "../quant/granularity.ts";
import { type Affine, FakeQuants } from "./fakequant.ts";
import type { Param } from "./step.ts";

/** What moves, and how fast beside the learning rate. */
export interface Trained {
  /** Weights of quantized sites, in units of their scale. */
  readonly weights: number;
  /** Logarithms of weight scales. */
  readonly weightScales: number;
  /** Logarithms of activation scales. */
  readonly activationScales: number;
  /** Biases, in units of their own root mean square. */
  readonly biases: number;
}

/** A trained weight site: the values that the plan will take over. */
export interface StudentWeight {
  readonly site: Extract<Site, { kind: "weight" }>;
  /** Sites that share these codes. */
  readonly index: readonly number[];
  readonly codes: Value;
  readonly scale: Value;
  /** v = w/s before rounding, for damping; lo and hi bound it. */
  readonly inner: Value;
  readonly lo: Value;
  readonly hi: Value;
  readonly shape: readonly number[];
  /** Zero point of an element. */
  readonly zeroAt: (i: number) => number;
}
export interface StudentActivation {
  readonly index: readonly number[];
  readonly scale: Value;
}

export interface Student {
  readonly model: Model;
  readonly params: readonly Param[];
  readonly fakeQuants: FakeQuants;
  readonly weights: readonly StudentWeight[];
  readonly activations: readonly StudentActivation[];
  readonly biases: readonly Param[];
  /** Value of the prepared graph to the value that its readers see, where they differ. */
  readonly seen: ReadonlyMap<string, Value>;
}

/**
 * The fake-quantized graph of a plan with its parameters free to move. At the start it computes what the lowered plan computes:
 *
 *   weight      u = code units [shape], ℓ = 0 [scale shape]:  ŵ = (s₀·e^ℓ)·clip(round(u·e^(−ℓ)), lo − z, hi − z)
 *   activation  s = s₀·e^ℓ, z fixed:  x̂ = DQ(Q(x))
 *   bias        as it is
 */
export function buildStudent(prepared: Model, bundle: PlanBundle, rates: Trained): Student {
  const model = cloneModel(prepared);
  const g = model.graph;
  const resolve = new Resolver(model);
  const paths = new Map<string, Value>();
  for (const s of bundle.plan.sites) paths.set(s.value, resolve.value(s.value));
  replaceConstants(bundle, resolve);
  insertMultipliers(bundle, resolve);
  const fakeQuants = new FakeQuants();
  const params: Param[] = [];
  const weights = addWeights(g, bundle, resolve, rates, fakeQuants, params);
  const seen = new Map<string, Value>();
  const activations = addActivations(model, bundle, resolve, rates, fakeQuants, params, seen);
  fakeQuants.absorbRelus(g);
  const biases = rates.biases > 0 ? biasParams(g, rates.biases, new Set(params.map((p) => p.value))) : [];
  params.push(...biases);
  return { model, params, fakeQuants, weights, activations, biases, seen };
}

/**
 * Where a latent weight starts within the reach of its code, as a part of what rounding cut off: at the edge, where rounding to nearest or a
 * solver may have left it, the first small steps would turn codes over by the hundred.
 */
const KEPT = 0.5;
export function latent(
  codes: Int32Array,
  zero: (i: number) => number,
  real: Float32Array | undefined,
  scale: (i: number) => number,
): Float32Array {
  const out = new Float32Array(codes.length);
  for (let i = 0; i < out.length; i++) {
    const q = codes[i]! - zero(i);
    const off = real ? real[i]! / scale(i) - q : 0;
    out[i] = q + KEPT * Math.max(-0.5, Math.min(0.5, off));
  }
  return out;
}

/** Index of the parameter of each element. */
export function parameterIndex(shape: readonly number[], gr: Granularity): (i: number) => number {
  if (gr.kind === "tensor") return () => 0;
  let inner = 1;
  for (let a = gr.axis + 1; a < shape.length; a++) inner *= shape[a]!;
  const along = shape[gr.axis]!;
  if (gr.kind === "channel") return (i) => Math.floor(i / inner) % along;
  const blocks = Math.ceil(along / gr.size);
  return (i) => {
    const outer = Math.floor(i / (inner * along));
    return (outer * blocks + Math.floor((Math.floor(i / inner) % along) / gr.size)) * inner + (i % inner);
  };
}

/** Scale-shaped values in the weight's shape (channel: broadcast, block: repeated along the axis). */
function spreadScale(
  g: Graph,
  before: Parameters<Graph["insertBefore"]>[0],
  v: Value,
  shape: readonly number[],
  gr: Granularity,
  name: string,
) {
  const put = (op: string, inputs: Value[], attrs: Record<string, number> = {}) => {
    const out = g.freshName(name);
    return g.insertBefore(before, { op, inputs, attrs, name: out, outputs: [out] }).outputs[0]!;
  };
  if (gr.kind === "tensor") return v;
  if (gr.kind === "channel") return put("Reshape", [v, g.constant(int64s(shape.map((d, i) => (i === gr.axis ? d : 1))), `${name}/shape`)]);
  const at = int64s(Array.from({ length: shape[gr.axis]! }, (_, i) => Math.floor(i / gr.size)));
  const out = put("Gather", [v, g.constant(at, `${name}/block`)], { axis: gr.axis });
  out.type = tensorType("float32", shape);
  return out;
}

function addWeights(g: Graph, bundle: PlanBundle, resolve: Resolver, rates: Trained, fq: FakeQuants, params: Param[]): StudentWeight[] {
  interface Found {
    readonly site: Extract<Site, { kind: "weight" }>;
    readonly value: Value;
    readonly index: number[];
    readonly uses: Use[];
  }
  const found = new Map<string, Found>();
  bundle.plan.sites.forEach((site, index) => {
    if (site.kind !== "weight" || !isIntDType(site.scheme.dtype)) return;
    const value = resolve.value(site.value);
    const uses = resolve.uses(site, value).filter((u) => u.node.graph === g);
    if (value.graph !== g || uses.length === 0) return;
    const key = JSON.stringify([site.value, site.scheme, site.scale, site.zeroPoint, site.codes ?? ""]);
    const old = found.get(key);
    if (old) {
      old.index.push(index);
      old.uses.push(...uses);
    } else found.set(key, { site, value, index: [index], uses });
  });
  const out: StudentWeight[] = [];
  for (const f of found.values()) out.push(addWeight(g, bundle, f, rates, fq, params));
  return out;
}

function addWeight(
  g: Graph,
  bundle: PlanBundle,
  f: {
    readonly site: Extract<Site, { kind: "weight" }>;
    readonly value: Value;
    readonly index: readonly number[];
    readonly uses: readonly Use[];
  },
  rates: Trained,
  fq: FakeQuants,
  params: Param[],
): StudentWeight {
  const coded = codesOf(bundle, f.site, f.value);
  const { scheme } = f.site;
  if (!isIntDType(scheme.dtype)) throw new Error(`internal: codes of ${scheme.dtype}`);
  const gr = scheme.granularity;
  const { shape } = coded;
  const n = paramCount(shape, gr);
  const dims = qparamShape(shape, gr);
  const scale = spread(coded.scale, n);
  const zero = spread(coded.zeroPoint, n);
  const of = parameterIndex(shape, gr);
  const real = constantOf(f.value)?.float32();
  const stem = f.value.name;
  const nodes = new Set(f.uses.map((u) => u.node));
  const before = g.nodes.find((node) => nodes.has(node))!;
  const put = (op: string, inputs: Value[], hint: string, of2?: readonly number[]) => {
    const name = g.freshName(`${stem}/${hint}`);
    const v = g.insertBefore(before, { op, inputs, name, outputs: [name] }).outputs[0]!;
    v.type = tensorType("float32", of2 ?? shape);
    return v;
  };
  const constant = (data: Float32Array, d: readonly number[], hint: string) => g.constant(floats(data, d), `${stem}/${hint}`);

  const start = latent(
    coded.codes,
    (i) => zero[of(i)]!,
    real,
    (i) => scale[of(i)]!,
  );
  const u = constant(start, shape, "latent");
  params.push({ name: u.name, value: u, shape, init: start, rate: rates.weights, decay: true });
  const s0 = constant(Float32Array.from(scale), dims, "scale0");
  let inner: Value = u;
  let full: Value = s0;
  if (rates.weightScales > 0) {
    const log = constant(new Float32Array(n), dims, "log_scale");
    params.push({ name: log.name, value: log, shape: dims, init: new Float32Array(n), rate: rates.weightScales, decay: false });
    const shrink = put("Exp", [put("Neg", [log], "negative", dims)], "shrink", dims);
    inner = put("Mul", [u, spreadScale(g, before, shrink, shape, gr, `${stem}/shrink_wide`)], "units");
    full = put("Mul", [s0, put("Exp", [log], "grow", dims)], "scale", dims);
  }
  const b = codeBounds(scheme.dtype, scheme.narrow, scheme.bits);
  const limit = (edge: number, hint: string) => {
    if (zero.every((z) => z === zero[0])) return constant(Float32Array.of(edge - zero[0]!), [], hint);
    const wide = constant(
      Float32Array.from(zero, (z) => edge - z),
      dims,
      hint,
    );
    return spreadScale(g, before, wide, shape, gr, `${stem}/${hint}_wide`);
  };
  const lo = limit(b.min, "lo");
  const hi = limit(b.max, "hi");
  const codes = fq.addCodes(g, before, inner, lo, hi, g.freshName(`${stem}/codes`));
  codes.type = tensorType("float32", shape);
  const w = put("Mul", [codes, spreadScale(g, before, full, shape, gr, `${stem}/scale_wide`)], "fake_quantized");
  for (const use of f.uses) use.node.graph.replaceUse(use.node, use.input, w);
  return { site: f.site, index: f.index, codes, scale: full, inner, lo, hi, shape, zeroAt: (i) => zero[of(i)]! };
}

function addActivations(
  model: Model,
  bundle: PlanBundle,
  resolve: Resolver,
  rates: Trained,
  fq: FakeQuants,
  params: Param[],
  seen: Map<string, Value>,
): StudentActivation[] {
  const g = model.graph;
  const groups = new Map<string, { scale: Value; index: number[]; affine: Affine }>();
  const made = new Map<string, Value>();
  bundle.plan.sites.forEach((site, index) => {
    if (site.kind !== "static" || !isIntDType(site.scheme.dtype)) return;
    const target = resolve.value(site.value);
    if (target.graph !== g) return;
    const gr = site.scheme.granularity;
    if (gr.kind === "block") throw new Error(`internal: blocks of an activation "${site.value}"`);
    const scale = readNumbers(bundle, site.scale);
    const zeroPoint = readNumbers(bundle, site.zeroPoint);
    // Sites that were tied have one scale to the last bit: it moves for all of them.
    const key = JSON.stringify([[...scale], [...zeroPoint], site.scheme]);
    let group = groups.get(key);
    if (!group) {
      group = {
        scale: addScale(g, scale, `${target.name}/activation`, rates.activationScales, params),
        index: [],
        affine: { dtype: site.scheme.dtype, narrow: site.scheme.narrow, axis: gr.kind === "channel" ? gr.axis : undefined, zeroPoint },
      };
      groups.set(key, group);
    }
    group.index.push(index);
    const byValue = new Map<Value, Use[]>();
    for (const u of resolve.uses(site, target)) {
      const v = u.node.inputs[u.input] ?? target;
      byValue.set(v, [...(byValue.get(v) ?? []), u]);
    }
    if (byValue.size === 0) byValue.set(target, []);
    for (const [value, uses] of byValue) {
      const id = `${value.name}\n${key}`;
      let out = made.get(id);
      if (!out) {
        out = fq.addFakeQuant(
          value,
          group.scale,
          group.affine,
          g.freshName(`${value.name}/fake_quantized`),
          placeAfter(g, value, group.scale),
        );
        made.set(id, out);
      }
      for (const u of uses) u.node.graph.replaceUse(u.node, u.input, out);
      if (site.consumers === "all" && value === target) {
        seen.set(site.value, out);
        if (value.isOutput) g.takeOutput(value, out);
      }
    }
  });
  return [...groups.values()].map(({ scale, index }) => ({ scale, index }));
}

/** A trained scale: its nodes stand at the start of the graph, where every reader can see them. */
function addScale(g: Graph, scale: Float64Array, stem: string, rate: number, params: Param[]): Value {
  const dims = scale.length === 1 ? [] : [scale.length];
  const s0 = g.constant(floats(scale, dims), `${stem}/scale0`);
  if (rate <= 0) return s0;
  const log = g.constant(floats(new Float32Array(scale.length), dims), `${stem}/log_scale`);
  params.push({ name: log.name, value: log, shape: dims, init: new Float32Array(scale.length), rate, decay: false });
  const first = g.nodes[0]!;
  const put = (op: string, inputs: Value[], hint: string) => {
    const name = g.freshName(`${stem}/${hint}`);
    const v = g.insertBefore(first, { op, inputs, name, outputs: [name] }).outputs[0]!;
    v.type = tensorType("float32", dims);
    return v;
  };
  return put("Mul", [s0, put("Exp", [log], "grow")], "scale");
}

/** Behind the value's producer; for a graph input behind the scale's. */
function placeAfter(g: Graph, value: Value, scale: Value) {
  if (value.producer) return behind(g, value);
  return scale.producer ? behind(g, scale) : behind(g, value);
}

/** Float biases of products that read quantized weights: constants of one axis at a bias input, or added right behind a product. */
export function biasParams(g: Graph, rate: number, taken: ReadonlySet<Value>): Param[] {
  const out = new Map<Value, Param>();
  const add = (v: Value | undefined) => {
    if (!v?.isConstant || v.graph !== g || v.data?.dtype !== "float32" || taken.has(v) || out.has(v)) return;
    const data = asFloat32(v.data);
    const shape = v.data.shape;
    if (elementCount(shape) !== Math.max(1, ...shape)) return;
    let square = 0;
    for (const x of data) square += x * x;
    const rms = Math.sqrt(square / Math.max(1, data.length));
    if (rms === 0) return;
    out.set(v, { name: v.name, value: v, shape, init: data, rate: rate * rms, decay: false });
  };
  for (const n of g.nodes) {
    const facts = opFacts(n);
    if (facts?.trait !== "compute") continue;
    if (facts.bias !== undefined) add(n.inputs[facts.bias]);
    const next = n.outputs[0]?.uses;
    if (next?.length === 1 && next[0]!.node.op === "Add") for (const v of next[0]!.node.inputs) add(v);
  }
  return [...out.values()];
}
