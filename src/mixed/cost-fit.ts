import type { Model, Node } from "../graph/ir.ts";
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
}

export type Fitted = Pick<CostTable, "fixedUs" | "nodes" | "inputs" | "checks"> & { readonly recordingUs: number };

/** Nodes that read their data as codes, by the plan's sites. */
export function readersOfCodes(model: Model, bundle: PlanBundle): ReadonlySet<string> {
  const index = siteIndex(model, bundle.plan);
  const out = new Set<string>();
  for (const n of model.graph.nodes) {
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
 *   kernel(node, scheme) = mean over the graphs in which the node has the scheme
 *   behind(p) = a₀ (p float) + toCodes [p float and a reader reads codes]  |  a₁ (p codes) + toFloat [p codes and a reader reads floats]
 *
 * a₀ and a₁ (the engine's changes of layout) are counted with the node itself.
 */
export function fitCosts(model: Model, observed: readonly Observed[], sizes: (maker: string) => number | undefined): Fitted {
  const { fixed, recording } = fitRuns(observed);
  const net = (s: { readonly us: number; readonly kernels: number } | undefined) => (s ? Math.max(0, s.us - recording * s.kernels) : 0);
  const wiring = wiringOf(model);
  const makers = [...wiring.makers.keys()];
  const behind = new Map(makers.map((m) => [m, conversions(m, observed, wiring, net)] as const));
  // What was never seen is as of values of the same size.
  const line = (pick: (c: Conversions) => number | undefined) =>
    fitLine(
      makers.flatMap((m) => {
        const [n, y] = [sizes(m), pick(behind.get(m)!)];
        return n !== undefined && y !== undefined ? [[n, y] as const] : [];
      }),
    );
  const [codesLine, floatLine] = [line((c) => c.toCodes), line((c) => c.toFloat)];
  const rows: CostRow[] = [];
  for (const n of model.graph.nodes) {
    const row = rowOf(n, observed, net, behind.get(nodeKey(n)));
    if (!row) continue;
    const c = behind.get(row.node);
    const size = sizes(row.node) ?? 0;
    const toCodes = c ? (c.toCodes ?? codesLine(size)) : 0;
    const toFloat = c ? (c.toFloat ?? floatLine(size)) : 0;
    rows.push({
      ...row,
      ...(toCodes > 0 && Object.keys(row.us).length > 1 && { toCodes: round(toCodes) }),
      ...(toFloat > 0 && Object.keys(row.us).length > 1 && { toFloat: round(toFloat) }),
    });
  }
  const inputs = model.graph.inputs
    .filter((v) => behind.has(`input ${v.name}`))
    .map((v) => {
      const c = behind.get(`input ${v.name}`)!;
      return { value: v.name, toCodes: round(c.toCodes ?? codesLine(sizes(`input ${v.name}`) ?? 0)) };
    });
  const part = { fixedUs: round(fixed), nodes: rows, inputs };
  const checks = observed.map((g) => ({
    graph: g.graph,
    measuredUs: round(g.wallUs),
    predictedUs: round(addUp(part, wiring, { codes: (n) => g.codes.has(n), scheme: (n) => g.schemes.get(n) })),
  }));
  return { ...part, checks, recordingUs: round(recording) };
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

function rowOf(
  n: Node,
  observed: readonly Observed[],
  net: (s: { readonly us: number; readonly kernels: number } | undefined) => number,
  behind: Conversions | undefined,
): CostRow | undefined {
  const key = nodeKey(n);
  const seen = new Map<string, number[]>();
  for (const g of observed) {
    const codes = g.codes.has(key);
    const scheme = g.schemes.get(key) ?? (codes ? "codes" : "float");
    const us = net(g.kernels.at.get(key)) + ((codes ? behind?.codes : behind?.float) ?? 0);
    seen.set(scheme, [...(seen.get(scheme) ?? []), us]);
  }
  const us = Object.fromEntries(
    [...seen].sort(([a], [b]) => (a < b ? -1 : 1)).map(([s, all]) => [s, round(all.reduce((x, y) => x + y, 0) / all.length)]),
  );
  return Object.values(us).every((x) => x === 0) ? undefined : { node: key, op: n.op, us };
}

interface Conversions {
  readonly float: number;
  readonly codes: number;
  readonly toCodes: number | undefined;
  readonly toFloat: number | undefined;
}

function conversions(
  maker: string,
  observed: readonly Observed[],
  w: Wiring,
  net: (s: { readonly us: number; readonly kernels: number } | undefined) => number,
): Conversions {
  const of = (codes: boolean, mixed: boolean): number | undefined => {
    const all = observed.filter((g) => {
      const wants = wantsOf(w, maker, (n) => g.codes.has(n));
      return g.codes.has(maker) === codes && (codes ? wants.floats : wants.codes) === mixed;
    });
    return all.length === 0 ? undefined : all.reduce((sum, g) => sum + net(g.kernels.behind.get(maker)), 0) / all.length;
  };
  const [f, fc, c, cf] = [of(false, false), of(false, true), of(true, false), of(true, true)];
  // Seen only with the conversion: it is then part of the node.
  const float = f ?? fc ?? 0;
  const codes = c ?? cf ?? 0;
  return {
    float,
    codes,
    toCodes: f !== undefined && fc !== undefined ? Math.max(0, fc - f) : f === undefined && fc !== undefined ? 0 : undefined,
    toFloat: c !== undefined && cf !== undefined ? Math.max(0, cf - c) : c === undefined && cf !== undefined ? 0 : undefined,
  };
}

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

/** y = a + b·x by least squares, b ≥ 0, as a function that is never below 0. */
function fitLine(points: readonly (readonly [number, number])[]): (x: number) => number {
  if (points.length === 0) return () => 0;
  const mx = points.reduce((s, p) => s + p[0], 0) / points.length;
  const my = points.reduce((s, p) => s + p[1], 0) / points.length;
  const xx = points.reduce((s, [x]) => s + (x - mx) ** 2, 0);
  const xy = points.reduce((s, [x, y]) => s + (x - mx) * (y - my), 0);
  const b = xx > 0 ? Math.max(0, xy / xx) : 0;
  return (x) => Math.max(0, my + b * (x - mx));
}
