import { QcError } from "../diagnostics.ts";
import { macsOf, shapesFrom } from "../graph/cost.ts";
import type { Model, Node } from "../graph/ir.ts";
import type { ValueType } from "../graph/types.ts";
import { nodeKey } from "../graph/walk.ts";
import { isCodes } from "../plan/schemes.ts";
import type { Builder } from "./build.ts";
import { addUp, readersOfCodes, wiringOf } from "./cost-fit.ts";
import type { CostRow, CostTable } from "./cost-table.ts";

export interface ProfileFile {
  readonly scheme: string;
  readonly file: string;
  readonly text: string;
}

interface LayerTime {
  readonly name: string;
  readonly us: number;
}

/** A layer's name is a few hundred characters; a network has some thousand layers. */
const MOST_LAYERS = 1_000_000;

/**
 * Layer times of engines: `trtexec --exportProfile` writes `[{ count }, { name, timeMs, averageMs, medianMs, percentage }, …]`.
 * `medianMs` where there is one, else `averageMs`.
 */
export function parseLayerProfile(text: string, file: string): LayerTime[] {
  const bad = (detail: string, cause?: unknown) => new QcError({ code: "costs/bad-profile", file, detail }, { cause });
  let doc: unknown;
  try {
    doc = JSON.parse(text);
  } catch (e) {
    throw bad(e instanceof Error ? e.message : String(e), e);
  }
  if (!Array.isArray(doc) || doc.length > MOST_LAYERS) throw bad("it is no list of layers");
  const out: LayerTime[] = [];
  for (const [i, x] of (doc as readonly unknown[]).entries()) {
    if (typeof x !== "object" || x === null) throw bad(`entry ${i} is no object`);
    if (!("name" in x)) continue;
    const { name, medianMs, averageMs } = x as { readonly name: unknown; readonly medianMs?: unknown; readonly averageMs?: unknown };
    const ms = medianMs ?? averageMs;
    if (typeof name !== "string" || typeof ms !== "number" || !(ms >= 0) || !Number.isFinite(ms))
      throw bad(`entry ${i} has no name, or no time of at least 0`);
    out.push({ name, us: 1000 * ms });
  }
  if (out.length === 0) throw bad("it names no layer");
  return out;
}

/** Wrappers and additions around the names of nodes, as TensorRT 8 to 11 write them. */
const MOVED = /^Reformatting CopyNode for (?:Input|Output) Tensor \d+ (?:to|from) /;

/**
 * Nodes that a layer stands for. Fused layers join names with ` + `, side by side ones with ` || `, pointwise ones are `PWN(…)`, whole
 * subgraphs `{ForeignNode[first...last]}`: everything between the two in execution order.
 */
export function nodesOfLayer(name: string, names: LayerNames): readonly Node[] {
  const out = new Set<Node>();
  for (const part of name.replace(MOVED, "").split(/ \+ | \|\| |, |[()]/)) {
    const span = /^\{?ForeignNode\[(.*)\.\.\.(.*)\]\}?$/s.exec(part.trim());
    if (span) {
      const [a, b] = [names.find(span[1]!), names.find(span[2]!)];
      for (const n of a && b ? names.between(a, b) : [a ?? b]) if (n) out.add(n);
      continue;
    }
    const found = names.find(part.trim());
    if (found) out.add(found);
  }
  return [...out];
}

/** Names of a model's nodes, and of what lowering and the parser make of them. */
export class LayerNames {
  readonly #model: Model;
  readonly #nodes = new Map<string, Node>();
  readonly #order: ReadonlyMap<Node, number>;
  constructor(model: Model) {
    this.#model = model;
    this.#order = new Map(model.graph.nodes.map((n, i) => [n, i]));
    for (const n of model.graph.nodes) for (const o of n.outputs) if (o) this.#nodes.set(o.name, n);
    for (const n of model.graph.nodes) this.#nodes.set(nodeKey(n), n);
  }
  find(name: string): Node | undefined {
    const plain = name
      .replace(/^\[|\]$/g, "")
      .replace(/^(?:node_of_|PWN)/, "")
      .replace(/_clone_\d+$/, "");
    const own = this.#nodes.get(name) ?? this.#nodes.get(plain);
    if (own) return own;
    // Q and DQ nodes belong to the node whose output they convert, or whose weight.
    const value = this.#model.graph.values.get(plain.replace(/_(?:Quantize|Dequantize)Linear(?:_\d+)?$/, ""));
    return value?.producer ?? value?.uses[0]?.node;
  }
  between(a: Node, b: Node): readonly Node[] {
    const [i, j] = [this.#order.get(a)!, this.#order.get(b)!].sort((x, y) => x - y) as [number, number];
    return this.#model.graph.nodes.slice(i, j + 1);
  }
}

/** One engine's layers by node; a layer of several products is shared in proportion to their multiplications. */
function timesOf(
  layers: readonly LayerTime[],
  names: LayerNames,
  macs: (n: Node) => number,
): { readonly at: Map<string, number>; readonly rest: number } {
  const at = new Map<string, number>();
  let rest = 0;
  for (const l of layers) {
    const nodes = nodesOfLayer(l.name, names);
    const products = nodes.filter((n) => macs(n) > 0);
    const total = products.reduce((s, n) => s + macs(n), 0);
    if (products.length > 0) for (const n of products) at.set(nodeKey(n), (at.get(nodeKey(n)) ?? 0) + (l.us * macs(n)) / total);
    else if (nodes[0]) at.set(nodeKey(nodes[0]), (at.get(nodeKey(nodes[0])) ?? 0) + l.us);
    else rest += l.us;
  }
  return { at, rest };
}

/** Profiles of the float engine and of one engine for each scheme, to a table. Conversions are part of the layers beside them. */
export function importProfiles(o: {
  readonly model: Model;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly builder: Builder;
  readonly profiles: readonly ProfileFile[];
}): Pick<CostTable, "floatUs" | "fixedUs" | "nodes" | "inputs" | "checks"> {
  const { units } = o.builder;
  const known = [...new Set(["float", ...units.flatMap((u) => u.options.map((x) => x.scheme.name))])];
  const strange = o.profiles.find((p) => !known.includes(p.scheme));
  if (strange)
    throw new QcError({
      code: "cli/bad-value",
      flag: "--profile",
      got: `${strange.scheme}=${strange.file}`,
      want: `a scheme of the recipe: ${known.join(", ")}`,
    });
  const float = o.profiles.find((p) => p.scheme === "float");
  if (!float)
    throw new QcError({
      code: "cli/bad-value",
      flag: "--profile",
      got: o.profiles.map((p) => p.scheme).join(", "),
      want: "float=FILE among them",
    });
  const names = new LayerNames(o.model);
  const shapes = shapesFrom(o.types);
  const counts = new Map(o.model.graph.nodes.map((n) => [n, macsOf(n, shapes) ?? 1]));
  const read = o.profiles.map((p) => {
    const layers = parseLayerProfile(p.text, p.file);
    return { ...p, total: layers.reduce((s, l) => s + l.us, 0), ...timesOf(layers, names, (n) => counts.get(n) ?? 0) };
  });
  for (const r of read) {
    const lost = units.filter((u) => u.options.some((x) => x.scheme.name === r.scheme)).flatMap((u) => u.nodes.filter((n) => !r.at.has(n)));
    if (lost.length > 0) throw new QcError({ code: "costs/no-layer", file: r.file, scheme: r.scheme, nodes: lost });
  }
  const unitOf = new Map(units.flatMap((u) => u.nodes.map((n) => [n, u] as const)));
  const codes = read.find((r) => units.some((u) => u.options.some((x) => x.scheme.name === r.scheme && isCodes(x.scheme))));
  const nodes = o.model.graph.nodes.flatMap((n): CostRow[] => {
    const key = nodeKey(n);
    const unit = unitOf.get(key);
    const us: Record<string, number> = {};
    for (const r of read) {
      if (unit ? unit.options.some((x) => x.scheme.name === r.scheme) : r.scheme === "float") us[r.scheme] = round(r.at.get(key) ?? 0);
    }
    if (!unit && codes) us["codes"] = round(codes.at.get(key) ?? 0);
    return Object.values(us).some((x) => x > 0) ? [{ node: key, op: n.op, us }] : [];
  });
  const part = { fixedUs: round(read.find((r) => r.scheme === "float")!.rest), nodes, inputs: [] };
  const wiring = wiringOf(o.model);
  const checks = read.map((r) => {
    const has = (key: string) => unitOf.get(key)?.options.find((x) => x.scheme.name === r.scheme);
    const choice = o.builder.choiceOf((u) => u.options.find((x) => x.scheme.name === r.scheme) ?? u.options.at(-1)!);
    const joined = r.scheme === "float" ? new Set<string>() : readersOfCodes(o.model, o.builder.plan(choice));
    const scheme = (key: string) => (unitOf.has(key) ? (has(key)?.scheme.name ?? "float") : undefined);
    return {
      graph: r.scheme,
      measuredUs: round(r.total),
      predictedUs: round(addUp(part, wiring, { codes: (n) => joined.has(n), scheme })),
    };
  });
  return { ...part, floatUs: round(read.find((r) => r.scheme === "float")!.total), checks };
}

const round = (us: number): number => Math.round(us * 1e3) / 1e3;
