import { intAttr, intsAttr, stringAttr } from "../graph/attr.ts";
import { toFloat32 } from "../graph/constant.ts";
import type { Graph, Model, Node, Value } from "../graph/ir.ts";
import { opFacts, type Weight } from "../graph/ops/index.ts";
import { nodeKey } from "../graph/walk.ts";
import type { PlanBundle, Site } from "../plan/types.ts";
import { codeBounds } from "../quant/affine.ts";
import { isIntDType } from "../quant/dtype.ts";
import { type StoredCodes, storedCodes } from "./sites.ts";
import type { Window } from "./unfold.ts";

export type WeightSite = Extract<Site, { kind: "weight" }>;

/** Where a layer's bias is, so that a correction can be put there. */
export interface BiasSlot {
  readonly value: Value;
  /** One element a row, in row order. */
  readonly data: Float32Array;
}

/**
 * A product whose rounding can be solved from statistics of its input: y[row] = Σ_k W[row, k] x[k] + b[row], rows in `groups` that read
 * disjoint inputs (grouped and depthwise convolutions), `rows` and `k` per group.
 */
export interface Layer {
  readonly node: Node;
  readonly key: string;
  /** Position of the node in its graph. */
  readonly index: number;
  readonly site: WeightSite;
  readonly weight: Weight;
  readonly input: Value;
  readonly inputIndex: number;
  readonly groups: number;
  readonly rows: number;
  readonly k: number;
  /** Element (row m of all, input i) of the weight operand is at m * rowStride + i * kStride. */
  readonly rowStride: number;
  readonly kStride: number;
  /** How the node reads its input; undefined: rows along the last axis (Gemm, MatMul), or the first when `columns`. */
  readonly window: Window | undefined;
  readonly columns: boolean;
  readonly bias: BiasSlot | undefined;
  /** The plan's codes of it. */
  stored(): StoredCodes;
}

/** The layers of a plan in execution order; weights that cannot be solved here (subgraphs, shared, odd layouts) are not among them. */
export function layersOf(model: Model, bundle: PlanBundle): Layer[] {
  const graph = model.graph;
  const sites = new Map<string, WeightSite[]>();
  for (const s of bundle.plan.sites) if (s.kind === "weight") sites.set(s.value, [...(sites.get(s.value) ?? []), s]);
  const out: Layer[] = [];
  graph.nodes.forEach((node, index) => {
    const layer = layerAt(bundle, graph, node, index, sites);
    if (layer) out.push(layer);
  });
  return out;
}

function layerAt(
  bundle: PlanBundle,
  graph: Graph,
  node: Node,
  index: number,
  sites: ReadonlyMap<string, readonly WeightSite[]>,
): Layer | undefined {
  const facts = opFacts(node);
  const weight = facts?.weights[0];
  if (facts?.trait !== "compute" || !weight || weight.kind !== "product") return undefined;
  const own = sites.get(weight.value.name);
  const site = own?.[0];
  if (!site || own.length !== 1 || !isIntDType(site.scheme.dtype) || weight.value.uses.length !== 1) return undefined;
  const inputIndex = facts.data[0];
  const input = inputIndex === undefined ? undefined : node.inputs[inputIndex];
  if (!input || inputIndex === undefined) return undefined;
  const { shape } = weight.constant;
  const g = site.scheme.granularity;
  const base = {
    node,
    key: nodeKey(node),
    index,
    site,
    weight,
    input,
    inputIndex,
    stored: () => storedCodes(site, weight.value, bundle),
  };

  if (weight.reduce.length > 1 || facts.bias !== undefined || weight.groups > 1) {
    const window = windowOf(node, shape);
    if (window) {
      // [M, C/group, k…]: a row is contiguous.
      const all = shape[0]!;
      const k = shape.slice(1).reduce((a, b) => a * b, 1);
      if (weight.channel !== 0 || g.kind === "block" || (g.kind === "channel" && g.axis !== 0)) return undefined;
      const bias = biasOf(graph, node, facts.bias, all);
      return { ...base, groups: weight.groups, rows: all / weight.groups, k, rowStride: k, kStride: 1, window, columns: false, bias };
    }
  }
  if (shape.length !== 2 || weight.channel === undefined || weight.reduce.length !== 1 || weight.input !== 1 || node.domain !== "")
    return undefined;
  const reduce = weight.reduce[0]!;
  const [rows, k] = [shape[weight.channel]!, shape[reduce]!];
  if (g.kind === "channel" && g.axis !== weight.channel) return undefined;
  if (g.kind === "block" && g.axis !== reduce) return undefined;
  // alpha and beta of a Gemm scale the two sums apart: 1 in every model seen, and a reason to leave the node alone otherwise.
  for (const name of ["alpha", "beta"]) {
    const a = node.attrs.get(name);
    if (a?.kind === "float" && a.value !== 1) return undefined;
  }
  return {
    ...base,
    groups: 1,
    rows,
    k,
    rowStride: weight.channel === 0 ? k : 1,
    kStride: weight.channel === 0 ? 1 : rows,
    window: undefined,
    columns: facts.bias !== undefined || node.attrs.has("transA") ? intAttr(node, "transA", 0) === 1 : false,
    bias: biasOf(graph, node, facts.bias, rows),
  };
}

/** The sliding window of a convolution [M, C/group, k…]; undefined for other operators. */
function windowOf(node: Node, shape: readonly number[]): Window | undefined {
  const rank = shape.length - 2;
  if (node.op !== "Conv" || node.domain !== "" || rank < 1 || rank > 2) return undefined;
  const list = (name: string, otherwise: number): readonly number[] => intsAttr(node, name) ?? new Array<number>(rank).fill(otherwise);
  const kernel = shape.slice(2);
  const autoPad = stringAttr(node, "auto_pad", "NOTSET");
  const pads = intsAttr(node, "pads") ?? new Array<number>(2 * rank).fill(0);
  return { channels: shape[1]!, kernel, strides: list("strides", 1), dilations: list("dilations", 1), pads, autoPad };
}

/**
 * The bias input of a node, or the constant addend of an Add that alone reads the node (MatMul + Add). A bias that others read too cannot be
 * corrected for this layer alone.
 */
function biasOf(graph: Graph, node: Node, biasInput: number | undefined, rows: number): BiasSlot | undefined {
  const slot = (v: Value | undefined): BiasSlot | undefined => {
    if (!v?.isConstant || v.data?.dtype !== "float32" || v.uses.length !== 1 || v.graph !== graph) return undefined;
    const { shape } = v.data;
    const count = shape.reduce((a, b) => a * b, 1);
    if (count !== rows || (shape.length > 0 && shape[shape.length - 1] !== rows)) return undefined;
    return { value: v, data: toFloat32(v.data) };
  };
  if (biasInput !== undefined) return slot(node.inputs[biasInput]);
  const y = node.outputs[0];
  if (node.op !== "MatMul" || !y || y.isOutput || y.uses.length !== 1) return undefined;
  const { node: add, input } = y.uses[0]!;
  if (add.op !== "Add" || add.graph !== graph) return undefined;
  return slot(add.inputs[1 - input]);
}

/** Codes that a layer's scheme allows. */
export function boundsOf(layer: Layer): { readonly min: number; readonly max: number } {
  const { dtype, narrow, bits } = layer.site.scheme;
  if (!isIntDType(dtype)) throw new Error(`internal: weight site of type ${dtype}`);
  return codeBounds(dtype, narrow, bits);
}

/** Rows of a layer's weight as [groups][rows, k] in float64. */
export function rowsOf(layer: Layer, w: ArrayLike<number>): Float64Array[] {
  const { groups, rows, k, rowStride, kStride } = layer;
  return Array.from({ length: groups }, (_, g) => {
    const out = new Float64Array(rows * k);
    for (let m = 0; m < rows; m++) for (let i = 0; i < k; i++) out[m * k + i] = w[(g * rows + m) * rowStride + i * kStride]!;
    return out;
  });
}
