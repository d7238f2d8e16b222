import type { Model } from "../graph/ir.ts";
import { opFacts } from "../graph/ops/index.ts";
import { nodeKey } from "../graph/walk.ts";
import type { PlanBundle } from "../plan/types.ts";
import { siteIndex } from "../ptq/sites.ts";
import { type Attributed, makerKey, makerOf } from "./cost-kernels.ts";
import type { CostRow, CostTable } from "./cost-table.ts";

/** One graph that was run: which nodes read codes, the scheme of each node with weights, its kernels and its whole time. */
export interface Observed {
  readonly graph: string;
  readonly codes: ReadonlySet<string>;
  /** Node → scheme; nodes with weights alone. */
  readonly schemes: ReadonlyMap<string, string>;
  readonly kernels: Attributed;
  readonly wallUs: number;
  /** Layers differ: some codes, some float. */
  readonly mixture: boolean;
}

export type Fitted = Pick<CostTable, "fixedUs" | "nodes" | "inputs" | "checks"> & { readonly recordingUs: number };

/** Nodes that compute on codes: a static site stands before them, and no skip says that they take the floats behind it. */
export function readersOfCodes(model: Model, bundle: PlanBundle): ReadonlySet<string> {
  const index = siteIndex(model, bundle.plan);
  const floats = new Set(bundle.plan.skips.map((s) => s.node));
  const out = new Set<string>();
  for (const n of model.graph.nodes) {
    if (floats.has(nodeKey(n))) continue;
    const data = (opFacts(n)?.data ?? []).filter((i) => n.inputs[i]?.producer || n.inputs[i]?.isInput);
    if (data.some((i) => index.at(n.inputs[i]!, n, i)?.kind === "static")) out.add(nodeKey(n));
  }
  return out;
}

/** What each node's output meets: nodes by key, clamps looked through, and whether it leaves the graph. */
export interface Wiring {
  readonly makers: ReadonlyMap<string, { readonly readers: readonly string[]; readonly leaves: boolean }>;
}

export function wiringOf(model: Model): Wiring {
  const makers = new Map<string, { readers: string[]; leaves: boolean }>();
  const of = (key: string) => {
    const old = makers.get(key) ?? { readers: [], leaves: false };
    makers.set(key, old);
    return old;
  };
  for (const n of model.graph.nodes) {
    const facts = opFacts(n);
    if (facts?.trait === "clamp") continue;
    // Unknown operators read floats.
    const data = facts?.data ?? n.inputs.map((_, i) => i);
    for (const i of data) {
      const v = n.inputs[i];
      if (v && !v.data) of(makerKey(makerOf(v))).readers.push(nodeKey(n));
    }
  }
  for (const v of model.graph.outputs) of(makerKey(makerOf(v))).leaves = true;
  return { makers };
}

/** Whether a maker writes codes for somebody and floats for somebody. */
export function wantsOf(w: Wiring, key: string, codes: (node: string) => boolean): { readonly codes: boolean; readonly floats: boolean } {
  const m = w.makers.get(key);
  const some = m?.readers.some((r) => codes(r)) ?? false;
  return { codes: some, floats: (m?.leaves ?? false) || (m?.readers.some((r) => !codes(r)) ?? false) };
}

/**
 * A table that adds up, from the kernels of several graphs of one network.
 *
 *   run(g) = fixed + Σ kernels(g) − recording · count(g)        least squares over the graphs: what recording adds to a kernel, and what a
 *                                                                run takes beside its kernels
 *   node(n, g) = kernels at n and conversions behind it
 *   us(n, s)   = node(n, g), g the graph in which all nodes have scheme s: layouts are then those of a whole region
 *   toCodes(n) = mean of node(n, g) over the g in which n is float and a reader reads codes − us(n, float)
 *   toFloat(n) = mean of node(n, g) over the g in which n is codes and a reader reads floats − us(n, codes)
 *
 * What no graph had is as of values of the same size.
 */
export function fitCosts(model: Model, observed: readonly Observed[], sizes: (maker: string) => number | undefined): Fitted {
  const { fixed, recording } = fitRuns(observed);
  const net = (s: { readonly us: number; readonly kernels: number } | undefined) => (s ? Math.max(0, s.us - recording * s.kernels) : 0);
  const wiring = wiringOf(model);
  const views = new Map<string, View[]>();
  for (const key of new Set([...model.graph.nodes.map(nodeKey), ...wiring.makers.keys()]))
    views.set(
      key,
      observed.map((g): View => {
        const codes = g.codes.has(key);
        const wants = wantsOf(wiring, key, (n) => g.codes.has(n));
        return {
          scheme: g.schemes.get(key) ?? (codes ? "codes" : "float"),
          codes,
          mixed: codes ? wants.floats : wants.codes,
          whole: !g.mixture,
          us: net(g.kernels.at.get(key)) + net(g.kernels.behind.get(key)),
        };
      }),
    );
  const fits = new Map([...views].map(([key, all]) => [key, fitNode(all)] as const));
  // Per element, in the middle: a few makers drag the layout of all around them along.
  const line = (pick: (c: NodeFit) => number | undefined) => {
    const rates = [...wiring.makers.keys()].flatMap((m) => {
      const [n, y] = [sizes(m), pick(fits.get(m)!)];
      return n !== undefined && n > 0 && y !== undefined ? [y / n] : [];
    });
    const rate = rates.sort((x, y) => x - y)[rates.length >> 1] ?? 0;
    return (x: number) => rate * x;
  };
  const [codesLine, floatLine] = [line((c) => c.toCodes), line((c) => c.toFloat)];
  const rows: CostRow[] = [];
  for (const n of model.graph.nodes) {
    const key = nodeKey(n);
    const { us, toCodes, toFloat } = fits.get(key)!;
    // Products have a row each, so that a table that lacks one is told from one that found nothing.
    if (Object.values(us).every((x) => x === 0) && !observed[0]?.schemes.has(key)) continue;
    const choice = Object.keys(us).length > 1 && wiring.makers.has(key);
    const [q, d] = [round(toCodes ?? codesLine(sizes(key) ?? 0)), round(toFloat ?? floatLine(sizes(key) ?? 0))];
    rows.push({ node: key, op: n.op, us, ...(choice && q > 0 && { toCodes: q }), ...(choice && d > 0 && { toFloat: d }) });
  }
  const inputs = model.graph.inputs
    .filter((v) => fits.has(`input ${v.name}`))
    .map((v) => {
      const key = `input ${v.name}`;
      return { value: v.name, toCodes: round(fits.get(key)!.toCodes ?? codesLine(sizes(key) ?? 0)) };
    });
  const part = { fixedUs: round(fixed), nodes: rows, inputs };
  const checks = observed.map((g) => ({
    graph: g.graph,
    measuredUs: round(g.wallUs),
    predictedUs: round(addUp(part, wiring, { codes: (n) => g.codes.has(n), scheme: (n) => g.schemes.get(n) })),
  }));
  return { ...part, checks, recordingUs: round(recording) };
}

/** One node in one graph. */
interface View {
  readonly scheme: string;
  readonly codes: boolean;
  /** A reader wants the other of codes and floats. */
  readonly mixed: boolean;
  /** Of a graph in one scheme. */
  readonly whole: boolean;
  readonly us: number;
}
interface NodeFit {
  readonly us: Readonly<Record<string, number>>;
  readonly toCodes: number | undefined;
  readonly toFloat: number | undefined;
}

function fitNode(views: readonly View[]): NodeFit {
  const mean = (all: readonly View[]): number | undefined =>
    all.length === 0 ? undefined : all.reduce((sum, v) => sum + v.us, 0) / all.length;
  const us: Record<string, number> = {};
  for (const scheme of [...new Set(views.map((v) => v.scheme))].sort()) {
    const own = views.filter((v) => v.scheme === scheme);
    const plain = own.filter((v) => !v.mixed);
    us[scheme] = round(mean(plain.filter((v) => v.whole)) ?? mean(plain) ?? mean(own)!);
  }
  const extra = (codes: boolean): number | undefined => {
    const own = views.filter((v) => v.codes === codes);
    const mixed = own.filter((v) => v.mixed);
    // Never seen without the conversion: it is part of the node then.
    if (mixed.length === 0) return undefined;
    if (mixed.length === own.length) return 0;
    return Math.max(0, mixed.reduce((sum, v) => sum + v.us - us[v.scheme]!, 0) / mixed.length);
  };
  return { us, toCodes: extra(false), toFloat: extra(true) };
}

/** The time of a run by the table: rows of the nodes as they are, and conversions where codes meet floats. */
export function addUp(
  t: Pick<CostTable, "fixedUs" | "nodes" | "inputs">,
  w: Wiring,
  state: { readonly codes: (node: string) => boolean; readonly scheme: (node: string) => string | undefined },
): number {
  let us = t.fixedUs;
  for (const r of t.nodes) {
    const codes = state.codes(r.node);
    us += timeOf(r, state.scheme(r.node) ?? (codes ? "codes" : "float")) ?? 0;
    if (r.toCodes === undefined && r.toFloat === undefined) continue;
    const wants = wantsOf(w, r.node, state.codes);
    if (codes && wants.floats) us += r.toFloat ?? 0;
    if (!codes && wants.codes) us += r.toCodes ?? 0;
  }
  for (const i of t.inputs) if (wantsOf(w, `input ${i.value}`, state.codes).codes) us += i.toCodes;
  return us;
}

export function timeOf(r: CostRow, scheme: string): number | undefined {
  return Object.hasOwn(r.us, scheme) ? r.us[scheme] : undefined;
}

/** Nanoseconds: more digits would pretend. */
const round = (us: number): number => Math.round(us * 1e3) / 1e3;

/** wall − Σ kernels = fixed − recording · count, both at least 0. */
function fitRuns(observed: readonly Observed[]): { readonly fixed: number; readonly recording: number } {
  const points = observed.map((g) => [g.kernels.kernels, g.kernels.us - g.wallUs] as const);
  const n = points.length;
  const mean = (pick: (p: readonly [number, number]) => number) => points.reduce((s, p) => s + pick(p), 0) / n;
  const [mx, my] = [mean((p) => p[0]), mean((p) => p[1])];
  const xx = points.reduce((s, [x]) => s + (x - mx) ** 2, 0);
  const xy = points.reduce((s, [x, y]) => s + (x - mx) * (y - my), 0);
  let recording = xx > 0 ? xy / xx : my / Math.max(1, mx);
  // A run has a part of its own: recording cannot take more than all of the difference.
  recording = Math.max(0, recording);
  let fixed = recording * mx - my;
  if (fixed < 0) {
    fixed = 0;
    recording = Math.max(0, my / Math.max(1, mx));
  }
  return { fixed, recording };
}
