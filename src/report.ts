import type { DataSet } from "./data/types.ts";
import { explain } from "./diagnostics.ts";
import type { Model, Node } from "./graph/ir.ts";
import { traitOf } from "./graph/ops/index.ts";
import { allNodes, nodesByPath, valuesByPath } from "./graph/walk.ts";
import type { Job } from "./job.ts";
import type { Numbers, PlanBundle, Site } from "./plan/types.ts";
import { bitsOf } from "./quant/codebook.ts";
import { elementCount } from "./quant/dtype.ts";
import { machineInfo } from "./runtime/machine.ts";
import type { Verified, VerifyReport } from "./verify/index.ts";
import { TOOL } from "./version.ts";

/** Stored bits of the weights that a plan touches, scales and zero points included, over their number. Undefined: it touches none. */
export function bitsPerWeight(prepared: Model, { plan, tensors }: PlanBundle): number | undefined {
  const values = valuesByPath(prepared);
  const size = (n: Numbers) => ("tensor" in n ? elementCount(tensors.get(n.tensor)!.shape) : n.length);
  let bits = 0;
  let count = 0;
  const counted = new Set<string>();
  for (const s of plan.sites) {
    const shape = values.get(s.value)?.data?.shape;
    if (shape === undefined || counted.has(s.value) || (s.kind !== "weight" && s.kind !== "cast")) continue;
    counted.add(s.value);
    const n = elementCount(shape);
    const each = bitsOf(s.scheme.dtype);
    count += n;
    bits += n * each;
    // Scales are float32, those of the block formats 8 bits; a zero point is a code, and is stored only when some are not zero.
    const scaleBits = s.kind === "weight" && (s.form === "nvfp4" || s.form === "mxfp8") ? 8 : 32;
    if (s.kind === "weight") bits += size(s.scale) * scaleBits + (s.scheme.symmetric ? 0 : size(s.zeroPoint) * each);
  }
  return count === 0 ? undefined : bits / count;
}

/** Products of the prepared graph and how many the plan quantizes on the weight side, on both sides, or not at all. */
export interface Coverage {
  readonly products: number;
  readonly both: number;
  readonly weightOnly: number;
  readonly float: number;
}
export function coverageOf(prepared: Model, bundle: PlanBundle): Coverage {
  const values = valuesByPath(prepared);
  const nodes = nodesByPath(prepared);
  const weights = new Set<Node>();
  const inputs = new Set<Node>();
  for (const s of bundle.plan.sites) {
    const uses = s.consumers === "all" ? (values.get(s.value)?.uses ?? []).map((u) => u.node) : s.consumers.map((c) => nodes.get(c.node));
    for (const n of uses) if (n) reach(n, s.kind === "weight" ? weights : inputs);
  }
  const counts = { products: 0, both: 0, weightOnly: 0, float: 0 };
  for (const n of nodes.values()) {
    if (!isProduct(n)) continue;
    counts.products++;
    counts[!weights.has(n) ? "float" : inputs.has(n) ? "both" : "weightOnly"]++;
  }
  return counts;
}

function isProduct(n: Node): boolean {
  const trait = traitOf(n);
  return trait === "compute" || trait === "recurrent";
}

/** The products that read a consumer's data: itself, or those behind it when it only moves data (a Transpose before a MatMul). */
function reach(n: Node, into: Set<Node>): void {
  if (into.has(n)) return;
  into.add(n);
  if (traitOf(n) === "same-scale") for (const v of n.outputs) for (const u of v?.uses ?? []) reach(u.node, into);
}

/** Schemes and plans that a search weighed against each other. */
export type Weighed = Pick<VerifyReport, "sensitivity" | "frontier">;

export interface ReportParts {
  readonly job: Job;
  readonly prepared: Model;
  readonly bundle: PlanBundle;
  readonly data: DataSet | undefined;
  readonly verified: Verified | undefined;
  readonly bytes: { readonly before: number; readonly after: number };
  /** What a search found on the way. */
  readonly weighed?: Weighed;
  readonly onnxruntime: string;
}

/** The document `report.json`. */
export function makeReport(p: ReportParts): VerifyReport {
  const { plan } = p.bundle;
  const count = (kind: Site["kind"]) => plan.sites.filter((s) => s.kind === kind).length;
  const skips: Record<string, number> = {};
  for (const s of plan.skips) skips[s.code] = (skips[s.code] ?? 0) + 1;
  const bits = bitsPerWeight(p.prepared, p.bundle);
  const v = p.verified;
  return {
    schema: "qc.report/1",
    tool: TOOL,
    model: plan.model,
    target: plan.target,
    recipe: plan.recipe,
    ...(plan.calibrator === undefined ? {} : { calibrator: plan.calibrator }),
    seed: plan.seed,
    ...(p.data === undefined
      ? {}
      : {
          data: {
            name: p.data.name,
            sha256: p.data.sha256,
            calibrate: p.data.roles.calibrate.length,
            select: p.data.roles.select.length,
            heldOut: p.data.roles.heldOut.length,
          },
        }),
    verdict: v?.verdict ?? "not-verified",
    why: v?.why ?? [p.data === undefined ? "no data was given" : "no held-out sample was run"],
    samples: { n: v?.n ?? 0, of: p.data?.roles.heldOut.length ?? 0 },
    levels: v?.levels ?? [],
    layers: v?.layers ?? { n: 0, rows: [] },
    ...(v?.latency === undefined ? {} : { latency: v.latency }),
    ...(plan.time === undefined ? {} : { time: plan.time }),
    bytes: p.bytes,
    ...(bits === undefined ? {} : { bitsPerWeight: bits }),
    products: coverageOf(p.prepared, p.bundle),
    sites: { weight: count("weight"), static: count("static"), dynamic: count("dynamic"), cast: count("cast") },
    skips,
    steps: plan.steps,
    ...p.weighed,
    stages: p.job.stages,
    diagnostics: p.job.diagnostics.map((d) => ({ code: d.code, ...explain(d) })),
    machine: { ...machineInfo(), onnxruntime: p.onnxruntime },
  };
}

/** Nodes of all graphs: what the counts in messages are of. */
export function nodeCount(model: Model): number {
  let n = 0;
  for (const _ of allNodes(model)) n++;
  return n;
}
