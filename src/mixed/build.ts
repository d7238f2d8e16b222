import { calibratorOf } from "../calibrate/index.ts";
import type { Stats } from "../calibrate/types.ts";
import { constantOf } from "../graph/constant.ts";
import type { Value } from "../graph/ir.ts";
import { pathOfNode, valuesByPath } from "../graph/walk.ts";
import type { LayerScheme } from "../plan/schemes.ts";
import type { Numbers, PlanBundle, Site, SkipCode } from "../plan/types.ts";
import { type Proposal, proposeSites, type WeightSite } from "../ptq/propose.ts";
import { planOf } from "../ptq/ranges.ts";
import { bitsOf } from "../quant/codebook.ts";
import { DTYPES, elementCount, isIntDType } from "../quant/dtype.ts";

/** What gets one scheme: the products that read one constant (an embedding and its output projection are one). */
export interface Unit {
  /** Path of its first node. */
  readonly key: string;
  readonly op: string;
  readonly nodes: readonly string[];
  readonly weights: number;
  readonly options: readonly UnitOption[];
  /** Its scheme is given, and stays. */
  readonly pinned: boolean;
}
export interface UnitOption {
  readonly scheme: LayerScheme;
  /** Codes, scales and zero points in the file; of float, the floats. */
  readonly bytes: number;
  /** Values of the weight sites. */
  readonly values: readonly string[];
}

/** Scheme names by unit key. */
export type Choice = ReadonlyMap<string, LayerScheme>;

export interface BuilderInput {
  /** As the recipe has it, ranges chosen: where activation ranges and what must stay float come from. */
  readonly proposal: Proposal;
  readonly bundle: PlanBundle;
  readonly stats: Stats | undefined;
  /** From the smallest to the best. */
  readonly ladder: readonly LayerScheme[];
  /** Node path → scheme that stays. */
  readonly pins: ReadonlyMap<string, LayerScheme>;
}

const KEPT: ReadonlySet<SkipCode> = new Set(["no-stats", "not-reached", "range-unsound", "rolled-back"]);

/** Plans whose layers have schemes of their own, all with the activation ranges of one calibrated plan. */
export class Builder {
  readonly input: BuilderInput;
  readonly units: readonly Unit[];
  readonly #keys: ReadonlySet<string>;
  readonly #floats: ReadonlyMap<string, { readonly code: SkipCode; readonly detail: string }>;

  constructor(input: BuilderInput) {
    this.input = input;
    this.#floats = new Map([
      ...(input.proposal.input.floats ?? []),
      ...input.bundle.plan.skips.flatMap((s) => (KEPT.has(s.code) ? [[s.node, { code: s.code, detail: s.detail }] as const] : [])),
    ]);
    this.units = this.#findUnits();
    this.#keys = new Set(this.units.map((u) => u.key));
  }

  /** A scheme for every unit; the pinned ones have theirs whatever the choice says. */
  plan(choice: Choice, because: (u: Unit, s: LayerScheme) => string = () => ""): PlanBundle {
    const schemes = new Map<string, LayerScheme>();
    for (const u of this.units) {
      const s = choice.get(u.key) ?? u.options.at(-1)!.scheme;
      const why = because(u, s);
      for (const n of u.nodes) schemes.set(n, why === "" ? s : { ...s, because: why });
    }
    // Nodes without weights may be named too: they stay float.
    for (const [key, s] of choice) if (!this.#keys.has(key)) schemes.set(key, s);
    return this.#planWith(this.#propose(schemes));
  }

  choiceOf(pick: (u: Unit) => UnitOption): Map<string, LayerScheme> {
    return new Map(this.units.map((u) => [u.key, pick(u).scheme]));
  }

  #propose(schemes: ReadonlyMap<string, LayerScheme>): Proposal {
    return proposeSites({ ...this.input.proposal.input, floats: this.#floats, schemes });
  }

  #planWith(proposal: Proposal): PlanBundle {
    const { bundle, stats } = this.input;
    // Ranges of values that the calibrated plan has no codes of.
    const fresh = planOf(proposal, stats, calibratorOf(bundle.plan.calibrator ?? "minmax"));
    const known = new Map(bundle.plan.sites.flatMap((s) => (s.kind === "static" ? [[s.value, s] as const] : [])));
    const sites = fresh.plan.sites.map((s): Site => {
      const old = s.kind === "static" ? known.get(s.value) : undefined;
      if (s.kind !== "static" || !old || old.scheme.dtype !== s.scheme.dtype) return s;
      return { ...s, scale: old.scale, zeroPoint: old.zeroPoint, ...(old.range && { range: old.range }) };
    });
    const { calibrator, stats: from, steps } = bundle.plan;
    return {
      ...fresh,
      plan: { ...fresh.plan, sites, steps, ...(calibrator !== undefined && { calibrator }), ...(from && { stats: from }) },
    };
  }

  #findUnits(): Unit[] {
    const { ladder, pins, proposal } = this.input;
    const model = proposal.input.model;
    const groups = new Map<Value, WeightSite[]>();
    const base = this.#propose(new Map());
    for (const w of base.weights) {
      // A constant addend of a quantized sum is no product's weight.
      if (w.scheme.granularity.kind === "tensor" && w.because.startsWith("constant operand")) continue;
      const root = rootOf(w.value);
      groups.set(root, [...(groups.get(root) ?? []), w]);
    }
    const parts = [...groups.entries()].map(([root, sites]) => ({
      root,
      op: sites[0]!.nodes[0]!.op,
      nodes: [...new Set(sites.flatMap((s) => s.nodes.map(pathOfNode)))],
      weights: elementCount(root.data!.shape),
    }));
    const all = [...new Map([...ladder, ...pins.values()].map((s) => [s.name, s])).values()];
    const byScheme = new Map(
      all.map((s) => {
        const p = this.#propose(new Map(parts.flatMap((u) => u.nodes.map((n) => [n, s] as const))));
        return [s.name, { proposal: p, plan: this.#planWith(p) }] as const;
      }),
    );
    const values = valuesByPath(model);
    return parts.map((u): Unit => {
      const pinned = u.nodes.map((n) => pins.get(n)).find((s) => s !== undefined);
      const options: UnitOption[] = [];
      for (const s of pinned ? [pinned] : ladder) {
        const { proposal: p, plan } = byScheme.get(s.name)!;
        if (!s.weight) {
          options.push({ scheme: s, bytes: 4 * u.weights, values: [] });
          continue;
        }
        const sites = p.weights.filter((w) => rootOf(w.value) === u.root);
        const reached = new Set(sites.flatMap((w) => w.nodes.map(pathOfNode)));
        const want = s.weight.dtype;
        const legal =
          u.nodes.every((n) => reached.has(n)) &&
          sites.every((w) => isIntDType(w.scheme.dtype) && isIntDType(want) && DTYPES[w.scheme.dtype].bits === DTYPES[want].bits);
        if (!legal || (s.activationBits === 16 && !u.nodes.every((n) => reads16(p, n)))) continue;
        const paths = new Set(sites.map((w) => w.path));
        const stored = plan.plan.sites.filter((x) => x.kind === "weight" && paths.has(x.value));
        options.push({ scheme: s, bytes: bytesOf(stored, plan, values), values: [...paths] });
      }
      // The recipe's own form is always there.
      if (options.length === 0) {
        const s = ladder.at(-1)!;
        options.push({ scheme: s, bytes: 4 * u.weights, values: [] });
      }
      options.sort((a, b) => a.bytes - b.bytes);
      return { key: u.nodes[0]!, op: u.op, nodes: u.nodes, weights: u.weights, options, pinned: pinned !== undefined };
    });
  }
}

/** Whether 16-bit codes stand before a node: a target without them gives its weight a form of its own. */
function reads16(p: Proposal, node: string): boolean {
  return p.activations.some(
    (a) => /16$/.test(a.scheme.dtype) && (a.uses === "all" ? a.value.uses : a.uses).some((x) => pathOfNode(x.node) === node),
  );
}

/** The initializer behind a constant. */
const rootOf = (v: Value): Value => constantOf(v)?.root ?? v;

/** Bytes of weight sites in the file; a value with several sites of one scheme is stored once. */
export function bytesOf(sites: readonly Site[], bundle: PlanBundle, values: ReadonlyMap<string, Value>): number {
  const count = (n: Numbers) => ("tensor" in n ? elementCount(bundle.tensors.get(n.tensor)!.shape) : n.length);
  const seen = new Set<string>();
  let bytes = 0;
  for (const s of sites) {
    if (s.kind !== "weight" || seen.has(s.value)) continue;
    seen.add(s.value);
    const bits = bitsOf(s.scheme.dtype);
    bytes += Math.ceil((elementCount(constantOf(values.get(s.value))?.shape ?? [0]) * bits) / 8) + 4 * count(s.scale);
    if (!s.scheme.symmetric) bytes += Math.ceil((count(s.zeroPoint) * bits) / 8);
  }
  return bytes;
}
