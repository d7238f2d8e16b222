import type { Attr } from "../graph/attr.ts";
import { toFloat32 } from "../graph/constant.ts";
import { Elements } from "../graph/elements.ts";
import type { Graph, Model, Node, Value } from "../graph/ir.ts";
import { traitOf } from "../graph/ops/index.ts";
import { floats, type TensorData, tensorFrom } from "../graph/tensor.ts";
import { tensorType } from "../graph/types.ts";
import { allGraphs } from "../graph/walk.ts";
import { DTYPES } from "../quant/dtype.ts";
import { HALVES, type HalfDType, toHalfBits } from "../quant/half.ts";

const RULE = "halve";
/** Nodes of this rule are steps of one operator: no 16-bit type comes between them. */
export const SIMULATED = "simulate-blocks";
/** Traits of operators that compute on floats of any type. */
const FLOAT_TRAITS = new Set(["compute", "same-scale", "clamp", "rescale", "float", "recurrent"]);
/** Operators of onnxruntime's domain whose float operands may be float16 (docs/ContribOperators.md). */
const CONTRIB = new Set([
  "MatMulNBits",
  "GatherBlockQuantized",
  "FusedMatMul",
  "Gelu",
  "FastGelu",
  "BiasGelu",
  "QuickGelu",
  "LayerNormalization",
  "SimplifiedLayerNormalization",
  "SkipLayerNormalization",
  "SkipSimplifiedLayerNormalization",
  "RotaryEmbedding",
  "GroupQueryAttention",
  "MultiHeadAttention",
  "Attention",
]);
/** Operators that ONNX defines for float32 alone, or not for the 16-bit type (onnx/defs). */
const NEVER: Readonly<Record<HalfDType, ReadonlySet<string>>> = {
  float16: new Set(["NonMaxSuppression", "Range", "Celu", "Multinomial", "TfIdfVectorizer", "CastLike", "EyeLike", "Bernoulli"]),
  bfloat16: new Set([
    ...["NonMaxSuppression", "Range", "Celu", "Multinomial", "TfIdfVectorizer", "CastLike", "EyeLike", "Bernoulli"],
    ...["TopK", "Einsum", "OneHot", "ReverseSequence", "Compress", "Unique", "RoiAlign", "NegativeLogLikelihoodLoss", "DFT", "STFT"],
  ]),
};
/** Inputs that keep float32 whatever the others are. */
const FIXED_INPUTS: Readonly<Record<string, readonly number[]>> = { Resize: [1, 2], Upsample: [1] };
/** Operators that take every type and only ask for shape, or cast; TensorRT's dynamic quantizers take any float. */
const ANY = new Set(["Shape", "Size", "Cast", "TRT_FP4DynamicQuantize", "TRT_MXFP8DynamicQuantize"]);
/** Its result has the type of its attribute `output_dtype`. */
const MX_DEQUANTIZE = "TRT_MXFP8DequantizeLinear";

/** What becomes of a graph's floats. */
export interface Halving {
  readonly to: HalfDType;
  /** Values that stay float32, and so the nodes that make or read them. */
  keep(v: Value): boolean;
}

/**
 * Computes in a 16-bit float type where that is possible and allowed. Inputs and outputs of the graph (and of subgraphs) keep float32;
 * constants are stored in the new type, one copy where a float32 node reads them too; a value that both kinds of nodes read is cast
 * once. The model is changed in place. Nodes: a node runs in 16 bits when its operator has the type and none of the float32 values that
 * it makes or reads is kept.
 */
export function halve(model: Model, o: Halving): void {
  const pass = new Halver(o, [...allGraphs(model.graph)]);
  pass.run();
}

/**
 * The same arithmetic in a file that any CPU runtime takes: everything stays float32, and what a 16-bit node would read from a constant
 * or write is rounded to the type. For types that the runtime here has no kernels of.
 */
export function simulateHalves(model: Model, o: Halving): void {
  for (const n of new Halver(o, [...allGraphs(model.graph)]).low) {
    const { graph } = n;
    for (const [i, v] of n.inputs.entries()) {
      if (v?.isConstant && v.data?.dtype === "float32" && !FIXED_INPUTS[n.op]?.includes(i)) v.graph.setData(v, rounded(v.data, o.to));
    }
    for (const out of [...n.outputs]) {
      if (!out || new Elements().of(out) !== "float32" || out.uses.length === 0) continue;
      const uses = [...out.uses];
      const down = graph.insertAfter(n, castSpec(graph, out, o.to));
      const up = graph.insertAfter(down, castSpec(graph, down.outputs[0]!, "float32"));
      for (const u of uses) u.node.graph.replaceUse(u.node, u.input, up.outputs[0]!);
    }
  }
}

function rounded(t: TensorData, to: HalfDType): TensorData {
  return floats(toFloat32(tensorFrom(toHalfBits(toFloat32(t), to), t.shape, to)), t.shape);
}

function castSpec(graph: Graph, v: Value, to: HalfDType | "float32") {
  return {
    op: "Cast",
    name: graph.freshName(`${v.name}_to_${to}`),
    inputs: [v],
    outputs: [graph.freshName(`${v.name}_${to}`)],
    attrs: { to: DTYPES[to].code },
    origin: { rule: RULE, from: [v.name] },
  };
}

class Halver {
  /** Nodes that run in 16 bits. */
  readonly low = new Set<Node>();
  readonly #o: Halving;
  readonly #graphs: readonly Graph[];
  readonly #elements = new Elements();
  readonly #casts = new Map<Value, Value>();
  /** Values of an outer graph that a subgraph gives out as they are: no cast can stand between. */
  readonly #foreign = new Set<Value>();

  constructor(o: Halving, graphs: readonly Graph[]) {
    this.#o = o;
    this.#graphs = graphs;
    for (const g of graphs) for (const v of g.outputs) if (v.graph !== g) this.#foreign.add(v);
    for (const g of graphs) for (const n of g.nodes) if (this.#canRun(n)) this.low.add(n);
    this.#alignScales();
  }

  /**
   * Scales of one product have one type (TensorRT: "type mismatch between matmul operand scales"), and so have a Q and its DQ: where one
   * keeps float32, so do the others.
   */
  #alignScales(): void {
    const nodes = this.#graphs.flatMap((g) => g.nodes);
    const groups = [
      ...nodes.filter((n) => traitOf(n) === "compute").map((n) => n.inputs.map(dequantizerOf).filter((d) => d !== undefined)),
      ...nodes.filter(isDequantizer).map((d) => [d, ...(d.inputs[0]?.producer?.op === "QuantizeLinear" ? [d.inputs[0].producer] : [])]),
    ];
    for (let changed = true; changed; ) {
      changed = false;
      for (const group of groups) {
        if (group.every((n) => this.low.has(n))) continue;
        for (const n of group) changed = this.low.delete(n) || changed;
      }
    }
  }

  #isFloat(v: Value | undefined): v is Value {
    return v !== undefined && this.#elements.of(v) === "float32";
  }

  #canRun(n: Node): boolean {
    const { to } = this.#o;
    if (n.subgraphs.length > 0 || NEVER[to].has(n.op)) return false;
    const foreign = (n.domain === "com.microsoft" && CONTRIB.has(n.op) && to === "float16") || n.op === MX_DEQUANTIZE;
    if (n.domain === "" ? !isFloatOp(n) : !foreign) return false;
    if (n.origin?.rule === SIMULATED || inTwoLevels(n)) return false;
    const floatOnes = [...n.inputs.filter((_, i) => !FIXED_INPUTS[n.op]?.includes(i)), ...n.outputs].filter((v) => this.#isFloat(v));
    if (floatOnes.length === 0 || n.inputs.some((v) => v && this.#elements.of(v) === undefined)) return false;
    if (floatOnes.some((v) => this.#foreign.has(v) || this.#o.keep(v))) return false;
    return floatOnes.every((v) => !v.isConstant || survives(v.data!, to, n.op === "QuantizeLinear" || n.op === "DequantizeLinear"));
  }

  run(): void {
    // What each value is afterwards is settled first, then changed.
    const made = new Map<Value, HalfDType>();
    for (const n of this.low) for (const v of n.outputs) if (this.#isFloat(v)) made.set(v, this.#o.to);
    const reads = this.#graphs.flatMap((g) => g.nodes.flatMap((n) => n.inputs.map((v, input) => ({ n, input, v }))));
    const wants = reads.flatMap(({ n, input, v }) => {
      if (!this.#isFloat(v)) return [];
      if (ANY.has(n.op) && (n.domain === "" || (n.domain === "trt" && input === 0)) && !this.low.has(n)) return [];
      const want: HalfDType | "float32" = this.low.has(n) && !FIXED_INPUTS[n.op]?.includes(input) ? this.#o.to : "float32";
      const has = made.get(v) ?? "float32";
      return want === has ? [] : [{ n, input, v, want }];
    });
    for (const n of this.low) this.#retype(n);
    for (const [v, dtype] of made) v.graph.setType(v, tensorType(dtype, v.type?.kind === "tensor" ? v.type.shape : undefined));
    for (const g of this.#graphs) this.#keepOutputs(g, made);
    for (const { n, input, v, want } of wants) n.graph.replaceUse(n, input, this.#as(v, want));
  }

  /** Results keep float32 under their names. */
  #keepOutputs(g: Graph, made: Map<Value, HalfDType>): void {
    for (const v of new Set(g.outputs)) {
      if (!made.has(v) || v.graph !== g) continue;
      const shape = v.type?.kind === "tensor" ? v.type.shape : undefined;
      const cast = g.insertAfter(v.producer!, castSpec(g, v, "float32")).outputs[0]!;
      v.type = undefined;
      g.setType(cast, tensorType("float32", shape));
      g.takeOutput(v, cast);
      g.setType(cast, tensorType("float32", shape));
      g.setType(v, tensorType(this.#o.to, shape));
      this.#casts.set(v, cast);
    }
  }

  /** A value in another type: a copy of a constant, or one cast behind its producer for all its readers. */
  #as(v: Value, want: HalfDType | "float32"): Value {
    const known = this.#casts.get(v);
    if (known) return known;
    const g = v.graph;
    let out: Value;
    if (v.isConstant && want !== "float32") {
      const half = tensorFrom(toHalfBits(toFloat32(v.data!), want), v.data!.shape, want);
      out = g.constant(half, `${v.name}_${want}`);
    } else {
      const spec = castSpec(g, v, want);
      const first = g.nodes[0];
      out = (v.producer ? g.insertAfter(v.producer, spec) : first ? g.insertBefore(first, spec) : g.append(spec)).outputs[0]!;
      g.setType(out, tensorType(want, v.type?.kind === "tensor" ? v.type.shape : undefined));
    }
    this.#casts.set(v, out);
    return out;
  }

  /** Attributes that name or hold the type of the result. */
  #retype(n: Node): void {
    const { to } = this.#o;
    if (n.op === "Cast") n.graph.setAttr(n, "to", DTYPES[to].code);
    if (n.op === MX_DEQUANTIZE) n.graph.setAttr(n, "output_dtype", DTYPES[to].code);
    if (n.attrs.has("dtype") || SOURCES.has(n.op)) n.graph.setAttr(n, "dtype", DTYPES[to].code);
    if (n.op !== "Constant" && n.op !== "ConstantOfShape") return;
    const old = tensorOf(n.attrs.get("value"), n.attrs.get("value_float"), n.attrs.get("value_floats"));
    for (const name of ["value_float", "value_floats"]) n.graph.setAttr(n, name, undefined);
    const value = tensorFrom(toHalfBits(toFloat32(old), to), old.shape, to);
    n.graph.setAttr(n, "value", { kind: "tensor", value });
  }
}

/**
 * A DequantizeLinear of scales, or of codes by such scales (NVFP4): a scale of a block, the product of two, may lie under the smallest
 * 16-bit float. Its result is cast.
 */
function inTwoLevels(n: Node): boolean {
  if (n.op !== "DequantizeLinear") return false;
  return (
    n.inputs[1]?.producer?.op === "DequantizeLinear" || n.outputs[0]!.uses.some((u) => u.node.op === "DequantizeLinear" && u.input === 1)
  );
}

const isDequantizer = (n: Node): boolean => n.op === "DequantizeLinear";

/** The DQ that an operand comes from, through movement. */
function dequantizerOf(v: Value | undefined): Node | undefined {
  let at = v?.producer;
  while (at && (at.op === "Transpose" || at.op === "Reshape" || at.op === "Identity")) at = at.inputs[0]?.producer;
  return at && isDequantizer(at) ? at : undefined;
}

const SOURCES = new Set(["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"]);

function isFloatOp(n: Node): boolean {
  if (n.op === "QuantizeLinear" || n.op === "DequantizeLinear" || n.op === "Constant" || n.op === "ConstantOfShape") return true;
  const trait = traitOf(n);
  return trait !== undefined && FLOAT_TRAITS.has(trait);
}

/** The tensor of a Constant or ConstantOfShape: without a value, one zero. */
function tensorOf(value: Attr | undefined, one: Attr | undefined, many: Attr | undefined): TensorData {
  if (value?.kind === "tensor") return value.value;
  if (one?.kind === "float") return floats([one.value], []);
  return many?.kind === "floats" ? floats(many.value) : floats([0], [1]);
}

/** A scale may move by this much: half a step of an 8-bit code at full range. */
const SCALE_SLACK = 2 ** -8;

/** No finite element becomes infinite; a scale keeps its value. */
export function survives(t: TensorData, to: HalfDType, isScale = false): boolean {
  if (t.dtype !== "float32") return true;
  const x = toFloat32(t);
  const { max } = HALVES[to];
  for (const v of x) if (Number.isFinite(v) && Math.abs(v) > max) return false;
  if (!isScale) return true;
  const back = toFloat32(tensorFrom(toHalfBits(x, to), t.shape, to));
  return x.every((v, i) => Math.abs(back[i]! - v) <= SCALE_SLACK * Math.abs(v));
}
