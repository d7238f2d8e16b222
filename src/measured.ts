import { QcError } from "./diagnostics.ts";
import type { Model } from "./graph/ir.ts";
import { nodeKey } from "./graph/walk.ts";
import type { Job } from "./job.ts";
import type { Builder, Unit } from "./mixed/build.ts";
import { readersOfCodes } from "./mixed/cost-fit.ts";
import { type CostFile, checkCosts } from "./mixed/cost-table.ts";
import { Knapsack } from "./mixed/knapsack.ts";
import { Latency } from "./mixed/latency.ts";
import type { Recipe } from "./plan/recipes/index.ts";
import { type LayerScheme, parseScheme } from "./plan/schemes.ts";
import { printTarget, type Target } from "./plan/target.ts";
import type { Plan, PlanBundle, Skip } from "./plan/types.ts";
import type { Prepared } from "./prepare/index.ts";
import type { Proposal } from "./ptq/propose.ts";
import { siteIndex } from "./ptq/sites.ts";
import { machineInfo } from "./runtime/machine.ts";
import type { Source } from "./source.ts";

/** What a cost table does to a plan: slow nodes stay float, the search has a limit on time, and the plan says what it should take. */

export async function checkCostsHere(job: Job, costs: CostFile, read: Source, prepared: Prepared, target: Target): Promise<void> {
  checkCosts(costs, {
    model: read.hashes,
    prepare: prepared.version,
    target: printTarget(target),
    machine: machineInfo(),
    version: (await job.runtime.versions()).onnxruntime,
  });
}

/** Of `recipe` everywhere; w8a8 where the recipe has no name as a scheme. */
function schemeOf(recipe: Recipe): LayerScheme {
  return parseScheme(recipe.name) ?? parseScheme("w8a8")!;
}

const FLOAT = parseScheme("float")!;

/** Nodes that stay float because codes, with the conversions around them, would take longer. */
export async function slowNodes(
  costs: CostFile,
  prepared: Prepared,
  proposal: Proposal,
  recipe: Recipe,
): Promise<ReadonlyMap<string, Pick<Skip, "code" | "detail">>> {
  const own = proposal.input.schemes;
  const byRoot = new Map<unknown, Set<string>>();
  for (const w of proposal.weights) {
    const nodes = w.nodes.filter((n) => n.graph === prepared.model.graph && proposal.quantized.has(nodeKey(n)));
    if (nodes.length === 0 || w.because.startsWith("constant operand")) continue;
    const all = byRoot.get(w.value) ?? new Set();
    byRoot.set(w.value, all);
    for (const n of nodes) all.add(nodeKey(n));
  }
  const base = schemeOf(recipe);
  const units = [...byRoot.values()].map((nodes): Unit => {
    const [key] = nodes;
    const pinned = own?.has(key!) === true;
    const options = (pinned ? [base] : [base, FLOAT]).map((scheme) => ({ scheme, bytes: 0, values: [] }));
    return { key: key!, op: "", nodes: [...nodes], weights: 0, options, pinned };
  });
  const latency = new Latency({ costs, model: prepared.model, units, joins: proposal.quantized });
  const run = costs.table.fastest;
  if (run && base.name === "w8a8") {
    const pinned = new Set(units.flatMap((u) => (u.pinned ? u.nodes : [])));
    return new Map(
      run.floats
        .filter((n) => proposal.quantized.has(n) && !pinned.has(n))
        .map((n) => [
          n,
          { code: "target-slow" as const, detail: `${latency.told(n, base.name)}; float in the fastest graph that was run` },
        ]),
    );
  }
  const { floats } = latency.fastest(await Knapsack.load());
  return new Map([...floats].map(([node, detail]) => [node, { code: "target-slow" as const, detail }]));
}

/** Time as a cost of the search over a builder's units. */
export function timeOver(costs: CostFile, model: Model): (builder: Builder) => Latency {
  return (builder) => {
    const most = builder.choiceOf((u) => u.options.findLast((x) => x.scheme.weight) ?? u.options[0]!);
    return new Latency({ costs, model, units: builder.units, joins: readersOfCodes(model, builder.plan(most)) });
  };
}

/** What the plan should take by the table, written into it with the table's hash. */
export function withTime(bundle: PlanBundle, costs: CostFile, model: Model): PlanBundle {
  const { table } = costs;
  const codes = readersOfCodes(model, bundle);
  const index = siteIndex(model, bundle.plan);
  const rows = new Map(table.nodes.map((r) => [r.node, r]));
  const units = model.graph.nodes.flatMap((n): Unit[] => {
    const row = rows.get(nodeKey(n));
    // Rows of nodes without weights have `codes`.
    if (!row || Object.hasOwn(row.us, "codes") || Object.keys(row.us).length < 2) return [];
    const bits = n.inputs
      .map((v, i) => v && index.at(v, n, i))
      .flatMap((s) => (s?.kind === "weight" ? [/^u?int(\d)$/.exec(s.scheme.dtype)?.[1]] : []))[0];
    const has = (name: string) => {
      const s = parseScheme(name);
      return s?.weight !== undefined && s.weight.dtype === `int${bits}` && (s.activations !== "none") === codes.has(nodeKey(n));
    };
    const name = (bits === undefined ? undefined : Object.keys(row.us).find(has)) ?? "float";
    return [
      {
        key: nodeKey(n),
        op: n.op,
        nodes: [nodeKey(n)],
        weights: 0,
        options: [{ scheme: parseScheme(name)!, bytes: 0, values: [] }],
        pinned: true,
      },
    ];
  });
  const latency = new Latency({ costs, model, units, joins: codes });
  const predictedMs = latency.ofPlacement(codes, (u) => u.options[0]!.scheme.name);
  const time: NonNullable<Plan["time"]> = {
    source: table.source.kind,
    table: costs.sha256,
    floatMs: digits(table.floatUs / 1000),
    predictedMs: digits(predictedMs),
  };
  return { ...bundle, plan: { ...bundle.plan, time } };
}

const digits = (ms: number): number => Number(ms.toPrecision(6));

/** A table of the whole network says nothing of one with fewer channels. */
export function refuseWithPruning(costs: CostFile): never {
  throw new QcError({
    code: "cli/bad-value",
    flag: "--cost-table",
    got: costs.file,
    want: "nothing beside --prune: a network with fewer channels has times of its own",
  });
}
