import { constantOf, transpose } from "../../graph/constant.ts";
import type { Model, Node, Value } from "../../graph/ir.ts";
import { opFacts } from "../../graph/ops/index.ts";
import { floats, type TensorData, tensorFrom } from "../../graph/tensor.ts";
import { nodeKey, pathOf } from "../../graph/walk.ts";
import type { Numbers, PlanBundle, Site } from "../../plan/types.ts";
import { isIntDType } from "../../quant/dtype.ts";
import type { Granularity } from "../../quant/granularity.ts";
import type { Solved } from "../sequential.ts";

type WeightSite = Extract<Site, { kind: "weight" }>;

/** A product whose constant is a lookup table as well, and the sites of both. */
export interface Tied {
  readonly node: Node;
  /** The product's weight as the product reads it. */
  readonly site: WeightSite;
  readonly sites: readonly WeightSite[];
}

/**
 * Products that share a constant with a lookup, and may share its codes: all sites are in blocks of one size along the inputs of the
 * product, of one type. Rounding such a weight by the product's statistics changes the table too, so it is done before anything that the
 * table feeds.
 */
export function tiedProducts(model: Model, bundle: PlanBundle): readonly Tied[] {
  const byRoot = new Map<Value, WeightSite[]>();
  const values = new Map([...model.graph.values.values()].map((v) => [pathOf(v), v]));
  for (const s of bundle.plan.sites) {
    const root = s.kind === "weight" ? constantOf(values.get(s.value))?.root : undefined;
    if (s.kind === "weight" && root) byRoot.set(root, [...(byRoot.get(root) ?? []), s]);
  }
  const lookups = new Set<Value>();
  for (const n of model.graph.nodes) for (const w of opFacts(n)?.weights ?? []) if (w.kind === "table") lookups.add(w.constant.root);
  const out: Tied[] = [];
  for (const node of model.graph.nodes) {
    const facts = opFacts(node);
    const weight = facts?.weights[0];
    if (facts?.trait !== "compute" || weight?.kind !== "product" || weight.input !== 1 || weight.constant.shape.length !== 2) continue;
    const root = weight.constant.root;
    const sites = byRoot.get(root);
    if (!sites || sites.length < 2 || !lookups.has(root) || out.some((t) => t.sites === sites)) continue;
    const first = sites[0]!;
    const g = first.scheme.granularity;
    if (g.kind !== "block" || !isIntDType(first.scheme.dtype) || weight.reduce.length !== 1) continue;
    const alike = (s: WeightSite): boolean =>
      s.scheme.dtype === first.scheme.dtype &&
      s.scheme.symmetric === first.scheme.symmetric &&
      s.scheme.granularity.kind === "block" &&
      s.scheme.granularity.size === g.size &&
      s.codes === undefined;
    if (!sites.every(alike)) continue;
    const granularity: Granularity = { kind: "block", axis: weight.reduce[0]!, size: g.size };
    const { codes: _, ...plain } = first;
    out.push({
      node,
      sites,
      site: {
        ...plain,
        value: weight.value.name,
        consumers: [{ node: nodeKey(node), input: 1 }],
        scheme: { ...first.scheme, granularity },
      },
    });
  }
  return out;
}

/** The plan with the solved codes at every site of the constant, each in the layout of its own value. */
export function withTied(model: Model, bundle: PlanBundle, tied: readonly Tied[], solved: readonly Solved[], because: string): PlanBundle {
  const tensors = new Map(bundle.tensors);
  const values = new Map([...model.graph.values.values()].map((v) => [pathOf(v), v]));
  const sites = bundle.plan.sites.map((site, index): Site => {
    const t = tied.find((x) => x.sites.includes(site as WeightSite));
    const s = t && solved.find((x) => x.layer.node === t.node);
    const g = site.scheme.granularity;
    if (!s || site.kind !== "weight" || g.kind !== "block") return site;
    const { rows, k, rowStride, kStride } = s.layer;
    const nb = s.scales.length / rows;
    // Blocks along axis 1: [rows, k], as solved; along axis 0: [k, rows].
    const straight = g.axis === 1;
    const codes = isUnsigned(site) ? new Uint8Array(rows * k) : new Int8Array(rows * k);
    for (let m = 0; m < rows; m++)
      for (let i = 0; i < k; i++) codes[straight ? m * k + i : i * rows + m] = s.codes[m * rowStride + i * kStride]!;
    const params = <T extends Float32Array | Int32Array>(x: T): T =>
      straight ? x : ((x instanceof Float32Array ? transpose(x, [rows, nb], [1, 0]) : turnedInts(x, rows, nb)) as T);
    // Sites with one layout name the same tensors: that is how lowering knows that they are stored once.
    const twin = bundle.plan.sites.findIndex((x) => t.sites.includes(x as WeightSite) && x.value === site.value);
    const stem = `t${String(twin < 0 ? index : twin).padStart(4, "0")}`;
    const put = (name: string, data: TensorData): Numbers => {
      tensors.set(name, data);
      return { tensor: name };
    };
    for (const n of [site.scale, site.zeroPoint]) if ("tensor" in n) tensors.delete(n.tensor);
    tensors.set(`${stem}.codes`, tensorFrom(codes, constantOf(values.get(site.value))!.shape));
    const zeros = params(s.zeros);
    return {
      ...site,
      scale: put(`${stem}.scale`, floats(params(s.scales))),
      zeroPoint: zeros.every((z) => z === zeros[0]) ? [zeros[0] ?? 0] : put(`${stem}.zero_point`, tensorFrom(zeros)),
      codes: { tensor: `${stem}.codes` },
      because: `${site.because}; ${because}`,
    };
  });
  return { plan: { ...bundle.plan, sites }, tensors };
}

const isUnsigned = (s: WeightSite): boolean => s.scheme.dtype.startsWith("u");

function turnedInts(x: Int32Array, rows: number, nb: number): Int32Array {
  const out = new Int32Array(x.length);
  for (let m = 0; m < rows; m++) for (let b = 0; b < nb; b++) out[b * rows + m] = x[m * nb + b]!;
  return out;
}
